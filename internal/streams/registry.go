package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// ErrUnknownProject is wrapped if no process of a project has ever registered.
var ErrUnknownProject = errors.New("project is not registered")

// ShardsError says that a project has another number of shards than was asked for. Where an instance is stored follows from
// the number, so it is fixed for good.
type ShardsError struct {
	Project string
	Found   int
	Wanted  int
}

func (e *ShardsError) Error() string {
	return fmt.Sprintf("shards: \"%d\": project %q was made with %d, and that is fixed: where an instance is stored follows from it; "+
		"set shards to %d, or leave it out; for another number, take another name for the project, and let its instances end under the old one",
		e.Wanted, e.Project, e.Found, e.Found)
}

// FixShards gives a project its number of shards, unless it has one, and returns the one that it has. Wanted is 0 if any will
// do: a new project has 1 then. If the project has another number than is wanted, the error is a *ShardsError, and nothing is
// changed. It comes before the streams of the shards are made: who makes them must know that the number is fixed.
func FixShards(ctx context.Context, js jetstream.JetStream, project string, wanted int) (shards int, err error) {
	if wanted != 0 {
		if err := checkShards(wanted); err != nil {
			return 0, err
		}
	}
	err = register(ctx, js, project, func(row *protocol.Project, _ time.Time) (bool, error) {
		if row.Shards != 0 && wanted != 0 && row.Shards != wanted {
			return false, &ShardsError{Project: project, Found: row.Shards, Wanted: wanted}
		}
		changed := row.Shards == 0
		if changed {
			row.Shards = max(1, wanted)
		}
		shards = row.Shards
		return changed, nil
	})
	return shards, err
}

// RegisterWorkflows writes the workflows that a runner serves, name to class, into the registry. What others have
// registered stays. The number of shards is that which FixShards has returned.
func RegisterWorkflows(ctx context.Context, js jetstream.JetStream, project string, shards int, classes map[string]string) error {
	if err := checkShards(shards); err != nil {
		return err
	}
	for name, class := range classes {
		if err := errors.Join(protocol.CheckWorkflow(name), protocol.CheckClass(class)); err != nil {
			return err
		}
	}
	return register(ctx, js, project, func(row *protocol.Project, now time.Time) (bool, error) {
		if row.Shards != 0 && row.Shards != shards {
			return false, &ShardsError{Project: project, Found: row.Shards, Wanted: shards}
		}
		changed := row.Shards != shards
		row.Shards = shards
		return merge(&row.Workflows, classes, now) || changed, nil
	})
}

// RegisterAgents writes the classes that an agent host serves into the registry. What others have registered stays.
// Until a runner of the project registers, its row says 0 shards.
func RegisterAgents(ctx context.Context, js jetstream.JetStream, project string, classes []string) error {
	names := make(map[string]string, len(classes))
	for _, class := range classes {
		if err := protocol.CheckClass(class); err != nil {
			return err
		}
		names[class] = class
	}
	return register(ctx, js, project, func(row *protocol.Project, now time.Time) (bool, error) {
		return merge(&row.Agents, names, now), nil
	})
}

// RegisterSchedules tells the schedulers that the project has what EnsureSchedules makes.
func RegisterSchedules(ctx context.Context, js jetstream.JetStream, project string) error {
	return register(ctx, js, project, func(row *protocol.Project, _ time.Time) (bool, error) {
		changed := !row.Schedules
		row.Schedules = true
		return changed, nil
	})
}

// RememberDoor writes what another project has told at its door into the row of the own one: what is known of it while it
// does not answer. A project that has no row remembers nothing.
func RememberDoor(ctx context.Context, js jetstream.JetStream, project, of string, door protocol.KnownDoor) error {
	return register(ctx, js, project, func(row *protocol.Project, now time.Time) (bool, error) {
		old := row.Doors[of]
		if maps.Equal(old.Workflows, door.Workflows) && slices.Equal(old.Agents, door.Agents) {
			return false, nil
		}
		if row.Doors == nil {
			row.Doors = map[string]protocol.KnownDoor{}
		}
		door.Told = now
		row.Doors[of] = door
		return true, nil
	})
}

func merge(into *map[string]protocol.RegisteredClass, classes map[string]string, now time.Time) (changed bool) {
	if *into == nil {
		*into = map[string]protocol.RegisteredClass{}
	}
	for name, class := range classes {
		if (*into)[name].Class == class {
			continue
		}
		(*into)[name] = protocol.RegisteredClass{Class: class, Registered: now}
		changed = true
	}
	return changed
}

// register changes a row by compare-and-set. A refusal, or an outcome that is not known, starts over with what is
// stored then: the change only adds, so that making it twice is harmless.
func register(ctx context.Context, js jetstream.JetStream, project string, change func(*protocol.Project, time.Time) (bool, error)) error {
	if err := protocol.CheckProject(project); err != nil {
		return err
	}
	return retry(ctx, nil, fmt.Sprintf("register project %q", project), func(ctx context.Context) error {
		kv, err := js.KeyValue(ctx, protocol.BucketProjects)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			return permanent(err) // EnsureProjects comes first
		}
		if err != nil {
			return err
		}
		row, revision, err := read(ctx, kv, project)
		isNew := errors.Is(err, ErrUnknownProject)
		if err != nil && !isNew {
			return err
		}
		if isNew {
			row = &protocol.Project{V: protocol.Version, Name: project}
		}
		now := time.Now().UTC()
		changed, err := change(row, now)
		if err != nil {
			return permanent(err)
		}
		if !changed && !isNew {
			return nil
		}
		row.Updated = now
		return write(ctx, kv, row, revision)
	})
}

func write(ctx context.Context, kv jetstream.KeyValue, row *protocol.Project, revision uint64) error {
	data, err := json.Marshal(row)
	if err != nil {
		return permanent(err)
	}
	if revision == 0 {
		_, err = kv.Create(ctx, row.Name, data)
	} else {
		_, err = kv.Update(ctx, row.Name, data, revision)
	}
	return err
}

// read returns the row of a project and its revision.
func read(ctx context.Context, kv jetstream.KeyValue, project string) (*protocol.Project, uint64, error) {
	entry, err := kv.Get(ctx, project)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, permanent(fmt.Errorf("project %q: %w", project, ErrUnknownProject))
	}
	if err != nil {
		return nil, 0, err
	}
	var row protocol.Project
	if err := json.Unmarshal(entry.Value(), &row); err != nil {
		return nil, 0, permanent(fmt.Errorf("row of project %q: %w", project, err))
	}
	if row.V > protocol.Version {
		return nil, 0, permanent(fmt.Errorf("row of project %q: has version %d, this program knows %d",
			project, row.V, protocol.Version))
	}
	return &row, entry.Revision(), nil
}

// LookUp returns the row of a project, as the leader has it. The error wraps ErrUnknownProject if there is none.
func LookUp(ctx context.Context, js jetstream.JetStream, project string) (*protocol.Project, error) {
	if err := protocol.CheckProject(project); err != nil {
		return nil, err
	}
	var row *protocol.Project
	err := retry(ctx, nil, fmt.Sprintf("look up project %q", project), func(ctx context.Context) error {
		kv, err := js.KeyValue(ctx, protocol.BucketProjects)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			return permanent(fmt.Errorf("project %q: %w", project, ErrUnknownProject))
		}
		if err != nil {
			return err
		}
		row, _, err = read(ctx, kv, project)
		return err
	})
	return row, err
}

// Projects returns the rows of all projects, by name.
func Projects(ctx context.Context, js jetstream.JetStream) ([]protocol.Project, error) {
	var rows []protocol.Project
	err := retry(ctx, nil, "list projects", func(ctx context.Context) error {
		kv, err := js.KeyValue(ctx, protocol.BucketProjects)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		rows, err = readAll(ctx, js, kv)
		return err
	})
	return rows, err
}

// readAll asks the stream for its subjects: a list of the keys by the bucket's own means needs a consumer each time.
func readAll(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) ([]protocol.Project, error) {
	stream, err := js.Stream(ctx, protocol.KVStream(protocol.BucketProjects))
	if err != nil {
		return nil, err
	}
	prefix := protocol.KVSubject(protocol.BucketProjects, "")
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, err
	}
	var rows []protocol.Project
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		row, _, err := read(ctx, kv, subject[len(prefix):])
		if errors.Is(err, ErrUnknownProject) {
			continue // deleted: only its marker is left
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, *row)
	}
	return rows, nil
}
