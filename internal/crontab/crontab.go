// Package crontab brings the stored schedules of a project's workflows in line with what its skein.jsonc says. Runners do
// that when they start, any number of them at once: what the last one said counts.
//
// It must never touch the schedules of agents, and never make a schedule that goes on begin anew: what was changed keeps its
// creation, by which schedulers know it.
package crontab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Change is what was done about a schedule. Those that were as wanted have none.
type Change struct {
	Did      Verb
	Workflow string
	ID       string
	// Row is what is stored now, or what was removed, as far as it could be read.
	Row protocol.Schedule
	// Was is what was stored before an update.
	Was protocol.Schedule
}

// Verb says what was done.
type Verb string

// What can be done about a schedule.
const (
	Created Verb = "created"
	Updated Verb = "updated"
	Removed Verb = "removed"
	// Left: a newer program has stored it, which this one does not understand.
	Left Verb = "left as a newer program has stored it"
)

// Table is the rows of the schedules of one project's workflows.
type Table struct {
	Store   *journal.Store
	Project string
}

// Set makes wanted all that the project has. The rows have an id; now is when schedules are created that are not there.
// The bucket has to be there, unless nothing is wanted. What was done is returned with an error, too.
func (t Table) Set(ctx context.Context, wanted []protocol.Schedule, now time.Time) (changes []Change, err error) {
	add := func(c *Change, err error) error {
		if c != nil {
			changes = append(changes, *c)
		}
		return err
	}
	keep := map[string]bool{}
	for _, row := range wanted {
		keep[t.subject(row)] = true
		if err := add(t.put(ctx, row, now.UTC())); err != nil {
			return changes, fmt.Errorf("store schedule %q of workflow %q: %w", row.ID, row.Workflow, err)
		}
	}
	found, err := t.subjects(ctx)
	if err != nil {
		return changes, fmt.Errorf("list the schedules of workflows: %w", err)
	}
	for _, subject := range found {
		if keep[subject] {
			continue
		}
		if err := add(t.remove(ctx, subject)); err != nil {
			return changes, fmt.Errorf("remove schedule %s: %w", subject, err)
		}
	}
	return changes, nil
}

func (t Table) bucket() string { return protocol.SchedulesBucket(t.Project) }

func (t Table) stream() string { return protocol.KVStream(t.bucket()) }

func (t Table) subject(row protocol.Schedule) string {
	return protocol.KVSubject(t.bucket(), protocol.ScheduleKey(protocol.ClassCron, row.Workflow, row.ID))
}

// subjects are those of the rows that there are, and of markers of some that are not, as the leader has them.
func (t Table) subjects(ctx context.Context) (all []string, err error) {
	for {
		listing, err := t.Store.Subjects(ctx, t.stream(), protocol.KVSubject(t.bucket(), protocol.CronKeys), len(all))
		if err != nil {
			return nil, err
		}
		all = append(all, listing.Subjects...)
		if len(listing.Subjects) == 0 || len(all) >= listing.Total {
			return all, nil
		}
	}
}

// put stores a row, unless that is there.
func (t Table) put(ctx context.Context, wanted protocol.Schedule, now time.Time) (*Change, error) {
	subject := t.subject(wanted)
	for {
		there, sequence, err := t.look(ctx, subject)
		if err != nil {
			return nil, err
		}
		c := &Change{Did: Created, Workflow: wanted.Workflow, ID: wanted.ID, Row: wanted}
		c.Row.Created = now
		switch {
		case there == nil:
		case there.V > protocol.ScheduleVersion:
			c.Did, c.Row = Left, *there
			return c, nil
		case same(*there, wanted):
			return nil, nil
		case !there.Created.IsZero():
			c.Did, c.Was = Updated, *there
			c.Row.Created, c.Row.Updated, c.Row.Paused, c.Row.Resumed = there.Created, &now, there.Paused, there.Resumed
			c.Row.SetVersion()
		}
		body, err := json.Marshal(c.Row)
		if err != nil {
			return nil, err
		}
		_, err = t.Store.Append(ctx, t.stream(), subject, sequence, body)
		if errors.Is(err, journal.ErrConflict) {
			continue // another runner was faster
		}
		return c, err
	}
}

// remove deletes a row, if there is one. Who follows the rows sees that it went.
func (t Table) remove(ctx context.Context, subject string) (*Change, error) {
	for {
		there, sequence, err := t.look(ctx, subject)
		if err != nil || there == nil {
			return nil, err
		}
		header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
		_, err = t.Store.AppendWith(ctx, t.stream(), subject, sequence, header, nil)
		if errors.Is(err, journal.ErrConflict) {
			continue
		}
		key := strings.TrimPrefix(subject, protocol.KVSubject(t.bucket(), ""))
		_, workflow, id, parseErr := protocol.ParseScheduleKey(key)
		if parseErr != nil {
			id = key // nobody could have used it
		}
		return &Change{Did: Removed, Workflow: workflow, ID: id, Row: *there}, err
	}
}

// look reads a row at the leader, and the sequence that its subject is at. The row is nil if there is none, and empty if it
// cannot be read.
func (t Table) look(ctx context.Context, subject string) (*protocol.Schedule, uint64, error) {
	m, err := t.Store.Last(ctx, t.stream(), subject)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case m.Header.Get(protocol.HeaderKVOperation) != "" || len(m.Data) == 0:
		return nil, m.Sequence, nil
	}
	row := new(protocol.Schedule)
	if json.Unmarshal(m.Data, row) != nil {
		row = new(protocol.Schedule)
	}
	return row, m.Sequence, nil
}

// same reports whether two rows say the same, apart from when that was said and whether they are paused.
func same(a, b protocol.Schedule) bool {
	var said [2][]byte
	for i, row := range []protocol.Schedule{a, b} {
		row.V, row.Created, row.Updated, row.Paused, row.Resumed = 0, time.Time{}, nil, nil, nil
		var err error
		if said[i], err = json.Marshal(row); err != nil {
			return false
		}
	}
	return bytes.Equal(said[0], said[1])
}
