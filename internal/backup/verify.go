package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// VerifyOptions say what is verified. Dir is needed.
type VerifyOptions struct {
	Dir string
	// Scratch is where a server keeps the restored streams meanwhile: about as much as the backup unpacked. Default: a folder among
	// the temporary ones. What it made there is gone afterwards.
	Scratch string
	// Progress is called with what is done. Nil: nobody is told.
	Progress func(what string, done, of int)
}

// Verified says what a backup holds.
type Verified struct {
	*Restored
	// States are how many instances there are in each state, Agents how many agents.
	States map[protocol.State]int `json:"states"`
	Agents int                    `json:"agents"`
	// Problems are what cannot be read, of instances and agents.
	Problems []string `json:"problems,omitempty"`
}

// startLimit is how long a server of its own may take to start.
const startLimit = time.Minute

// Verify restores a backup into a server of its own, in this process, which nobody else reaches, and reads all instances and agents
// there. Damage to the files is a *DamagedError.
func Verify(ctx context.Context, o VerifyOptions) (v *Verified, err error) {
	if _, err := Check(ctx, o.Dir); err != nil { // before anything is started
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Scratch, "skein-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := server.NewServer(&server.Options{
		ServerName: "skein-verify", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(startLimit) {
		return nil, fmt.Errorf("a server of its own is not ready after %s", startLimit)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to a server of its own: %w", err)
	}
	defer nc.Close()
	return verifyOn(ctx, o, nc)
}

func verifyOn(ctx context.Context, o VerifyOptions, nc *nats.Conn) (*Verified, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	store, err := journal.Open(nc)
	if err != nil {
		return nil, err
	}
	v := &Verified{States: map[protocol.State]int{}}
	if v.Restored, err = Restore(ctx, RestoreOptions{
		JS: js, Store: store, Dir: o.Dir, Replicas: 1, Patience: time.Second, Progress: o.Progress,
	}); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	err = v.readAll(ctx, js, store)
	return v, errors.Join(err, store.Close())
}

func (v *Verified) readAll(ctx context.Context, js jetstream.JetStream, store *journal.Store) error {
	rows, err := streams.Projects(ctx, js)
	if err != nil {
		return err
	}
	values := objects.New(store)
	for _, row := range rows {
		r := runner.Reader{Store: store, Project: row.Name, Shards: row.Shards, Objects: values}
		if err := v.readInstances(ctx, r); err != nil {
			return err
		}
		if err := v.readAgents(ctx, store, values, row.Name); err != nil {
			return err
		}
	}
	return nil
}

func (v *Verified) problem(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// readInstances folds the logs of all instances, and reads the values that they need.
func (v *Verified) readInstances(ctx context.Context, r runner.Reader) error {
	for s, err := range r.List(ctx, protocol.AnyWorkflow, 0) {
		if broken, ok := errors.AsType[*runner.UnreadableError](err); ok {
			v.problem("instance %s: %v", broken.Instance, broken.Err)
			continue
		}
		if errors.Is(err, journal.ErrNoStream) {
			return nil
		}
		if err != nil {
			return err
		}
		v.States[s.State]++
		_, err = r.Export(ctx, s.Workflow, s.ID)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			if ctx.Err() != nil {
				return err
			}
			v.problem("instance %s/%s/%s: %v", r.Project, s.Workflow, s.ID, err)
		}
	}
	return nil
}

// readAgents reads the records of all agents, and their large states.
func (v *Verified) readAgents(ctx context.Context, store *journal.Store, values *objects.Store, project string) error {
	stream, prefix := protocol.KVStream(protocol.AgentsBucket(project)), protocol.KVSubject(protocol.AgentsBucket(project), "")
	state, err := store.State(ctx, stream)
	if errors.Is(err, journal.ErrNoStream) {
		return nil
	}
	for at := uint64(0); err == nil && at < state.Last; {
		var m *journal.Message
		m, err = store.NextFromLeader(ctx, stream, ">", at+1)
		if errors.Is(err, journal.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if at = m.Sequence; len(m.Data) == 0 {
			continue
		}
		key := strings.TrimPrefix(m.Subject, prefix)
		var r protocol.Record
		if broken := json.Unmarshal(m.Data, &r); broken != nil {
			v.problem("agent %s/%s: %v", project, key, broken)
			continue
		}
		v.Agents++
		if r.StateObject == nil {
			continue
		}
		if _, broken := values.Get(ctx, project, *r.StateObject); broken != nil {
			v.problem("agent %s/%s: state: %v", project, key, broken)
		}
	}
	return err
}

// Whole reports whether nothing is wrong that was not put right.
func (v *Verified) Whole() bool { return len(v.Problems) == 0 && v.Left == 0 }
