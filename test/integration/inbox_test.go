package integration

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

var jo = protocol.Agent{Class: "Clerk", Name: "jo"}

func (w *world) mail(source string, number uint64, callback, payload string) {
	w.t.Helper()
	raw, err := json.Marshal(payload)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := json.Marshal(protocol.Mail{
		V: protocol.Version, Source: source, Number: number, Callback: callback, Payload: raw, Sent: time.Now().UTC(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	to := protocol.Agent{Project: w.name, Class: jo.Class, Name: jo.Name}
	if _, err := w.store.Publish(w.t.Context(), to.InboxSubject(w.name), nil, body); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) record() (r protocol.Record) {
	w.t.Helper()
	r, ok := w.recordOf(jo.Name)
	if !ok {
		w.t.Fatalf("agent %q has no record", jo.Name)
	}
	return r
}

// deadLetters reads the dead letters of the project.
func (w *world) deadLetters() (letters []protocol.DeadLetter) {
	w.t.Helper()
	bucket := protocol.DeadBucket(w.name)
	batch, err := w.store.LastOfMany(w.t.Context(), protocol.KVStream(bucket), []string{protocol.KVSubject(bucket, ">")})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range batch.Messages {
		var d protocol.DeadLetter
		if err := json.Unmarshal(m.Data, &d); err != nil {
			w.t.Fatal(err)
		}
		letters = append(letters, d)
	}
	return letters
}

// TestHostsKilledBetweenAttempts kills a host after each failed attempt of a callback. Every attempt counts, the last
// one makes a dead letter, and what waits behind it or beside it is applied once.
func TestHostsKilledBetweenAttempts(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *rig{"one server": singleServer, "three servers": threeServers} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t), "clerks")
			attempts, err := w.nc.SubscribeSync("attempts." + w.name)
			if err != nil {
				t.Fatal(err)
			}
			first := w.host(testsignal.AgentParked)
			w.mail("a", 1, "Fail", attempts.Subject)
			w.mail("a", 2, "Note", "behind")
			w.mail("b", 1, "Note", "beside")
			first.awaitSignal(t, testsignal.AgentParked)
			first.kill(t)
			if parked := w.record().Parked; len(parked) != 1 || parked[0].Attempts != 1 {
				t.Errorf("parked %+v after the first attempt", parked)
			}
			second := w.host(testsignal.AgentParked)
			w.mail("wake", 1, "Note", "second host") // without it, the bells of the first ring again after 15 s
			second.awaitSignal(t, testsignal.AgentParked)
			second.kill(t)
			w.host("")
			w.mail("wake", 2, "Note", "third host")
			eventually(t, patience, "everything is applied or given up", func() bool {
				r := w.record()
				return r.Seen["a"] == 2 && r.Seen["b"] == 1 && r.Seen["wake"] == 2
			})
			eventually(t, patience, "the dead letter is there", func() bool { return len(w.deadLetters()) == 1 })
			if d := w.deadLetters()[0]; d.Attempts != 3 || d.Mail.Source != "a" || d.Mail.Number != 1 {
				t.Errorf("dead letter %+v, want that of the failing mail after 3 attempts", d)
			}
			told := func() int {
				n, _, err := attempts.Pending()
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			eventually(t, patience, "the test hears of all attempts", func() bool { return told() >= 3 })
			if n := told(); n > 3 {
				t.Errorf("%d attempts, want 3", n)
			}
			r := w.record()
			var log []string
			if err := json.Unmarshal(r.State, &log); err != nil {
				t.Fatal(err)
			}
			slices.Sort(log)
			if want := []string{"behind", "beside", "second host", "third host"}; !slices.Equal(log, want) || len(r.Parked) != 0 {
				t.Errorf("state %q, parked %+v; want %q once each, nothing parked", log, r.Parked, want)
			}
		})
	}
}

// TestQueueOfKilledHosts kills a host when a turn that has queued something is stored and nothing is in the inbox, and the
// next one when the first item is applied and not acked. Every item is applied once, in order.
func TestQueueOfKilledHosts(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *rig{"one server": singleServer, "three servers": threeServers} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t), "clerks")
			first := w.host(testsignal.AgentAfterCommit)
			w.mail("a", 1, "Enqueue", "1 2 3")
			first.awaitSignal(t, testsignal.AgentAfterCommit)
			first.kill(t)
			if r := w.record(); len(r.Outbox) != 3 || r.Queue == nil || r.Queue.Last != 3 {
				t.Errorf("record %+v, want three items in the outbox", r)
			}
			second := w.host(testsignal.AgentAfterCommit)
			w.mail("wake", 1, "Enqueue", "4")
			second.awaitSignal(t, testsignal.AgentAfterCommit)
			second.kill(t)
			w.host("")
			w.mail("wake", 2, "Enqueue", "5 6")
			eventually(t, patience, "everything is applied", func() bool { return w.record().Seen[protocol.SourceQueue] == 6 })
			var log []string
			if err := json.Unmarshal(w.record().State, &log); err != nil {
				t.Fatal(err)
			}
			if want := []string{"1", "2", "3", "4", "5", "6"}; !slices.Equal(log, want) {
				t.Errorf("applied %q, want %q", log, want)
			}
		})
	}
}
