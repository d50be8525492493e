package doctor

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// desk is an agent that keeps nothing.
type desk struct{ agent.Base[struct{}] }

// Remind is what its schedules call.
func (d *desk) Remind(context.Context, struct{}) error { return nil }

// host lets an agent host of the project run until the test ends.
func (r *rig) host() {
	r.Helper()
	config := project.Config{Name: "p"}
	config.Settings.HTTPAddr = "127.0.0.1:0"
	p, err := project.Open(r.Context(), config, project.Conn(r.nc), project.Logger(slog.New(slog.NewTextHandler(r.Output(), nil))))
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := project.Run(ctx, p, agent.Host(agent.Define("Desk", func() *desk { return &desk{} }))); err != nil {
			r.Errorf("host: %v", err)
		}
	})
	r.Cleanup(func() {
		cancel()
		running.Wait()
		p.Close()
	})
}

var jo = protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}

// record stores the record of an agent as its first life leaves it.
func (r *rig) record(change func(*protocol.Record)) {
	r.Helper()
	record := protocol.Record{V: 1, Class: "Desk", Name: "jo", Turn: 1, Commit: uuid.NewString(), Updated: time.Now()}
	change(&record)
	r.publish(protocol.KVSubject("AGENTS_p", protocol.AgentKey("Desk", "jo")), record)
}

// schedule is one that fires tomorrow.
func schedule(life uint64) protocol.Schedule {
	tomorrow := time.Now().Add(24 * time.Hour).UTC()
	return protocol.Schedule{
		V: 1, ID: "s", Class: "Desk", Name: "jo", Life: life, Kind: protocol.ScheduleDate, At: &tomorrow, Callback: "Remind", Created: time.Now().UTC(),
	}
}

var (
	rowOfJo   = protocol.KVSubject("SCHEDULES_p", protocol.ScheduleKey("Desk", "jo", "s"))
	clockOfJo = protocol.ClockSubject("p", "Desk", "jo", "s")

	clockOfOther = protocol.ClockSubject("p", "Desk", "al", "s")
)

// put stores a large value of an owner, and returns the name of the object.
func (r *rig) put(owner protocol.ObjectOwner) string {
	r.Helper()
	value, err := json.Marshal(strings.Repeat("x", 2*protocol.InlinePayload) + owner.Token)
	if err != nil {
		r.Fatal(err)
	}
	put, err := objects.New(r.store).Put(r.Context(), objects.Value{Owner: owner, JSON: value})
	if err != nil {
		r.Fatal(err)
	}
	return put.Name
}

// objects is how many there are.
func (r *rig) objects() int {
	r.Helper()
	l, err := r.store.Subjects(r.Context(), "OBJ_OBJECTS_p", protocol.ObjectMetaSubjects("p"), 0)
	if err != nil {
		r.Fatal(err)
	}
	return l.Total
}

// gone waits until a stream holds nothing of a subject.
func gone(stream, subject string) func(*rig) {
	return func(r *rig) {
		r.Helper()
		natstest.Eventually(r, patience, subject+" is gone", func() bool { return !r.has(stream, subject) })
	}
}

func TestDamageOfAgents(t *testing.T) {
	t.Parallel()
	lost := protocol.KVSubject("CONNECTIONS_p", protocol.ConnectionsKey("gone", "Desk", "jo", 0))
	var object, state string
	for name, x := range map[string]damage{
		"an outbox is left by a host that is gone": {OutboxLeft, func(r *rig) {
			r.record(func(record *protocol.Record) {
				row := schedule(1)
				record.Owner, record.Seen = "gone", map[string]uint64{protocol.ScheduleSource("s"): 0}
				record.Outbox = []protocol.Outgoing{{ID: protocol.OutgoingID(1, 1, 0), Kind: protocol.OutgoingSchedule, Schedule: &row}}
			})
		}, func(r *rig) {
			r.host()
			natstest.Eventually(r, patience, "the outbox is carried out", func() bool { return r.has("KV_SCHEDULES_p", rowOfJo) })
			r.ackByHand("KV_SCHEDULES_p", protocol.ConsumerScheduler)
			r.remove("KV_SCHEDULES_p", rowOfJo)
		}},
		"an agent is destroyed by a host that is gone": {OutboxLeft, func(r *rig) {
			r.record(func(record *protocol.Record) { record.Owner, record.Condemned = "gone", true })
		}, func(r *rig) {
			r.host()
			gone("KV_AGENTS_p", protocol.KVSubject("AGENTS_p", protocol.AgentKey("Desk", "jo")))(r)
			gone("INBOX_p", jo.InboxSubject("p"))(r)
		}},
		"sockets are left by a host that is gone": {ConnectionsLeft, func(r *rig) {
			r.publish(lost, protocol.SocketRow{V: 1, Class: "Desk", Name: "jo", IDs: map[uint64]string{1: "a"}})
		}, func(r *rig) {
			r.host()
			gone("KV_CONNECTIONS_p", lost)(r)
		}},
		"an agent has a connection of which nothing is left": {ConnectionsLeft, func(r *rig) {
			r.record(func(record *protocol.Record) {
				var open protocol.OpenSockets
				record.Gateways = map[string]protocol.Gateway{"gone": {Since: 1, Connected: 1, Open: open.With(1, 0)}}
			})
		}, func(r *rig) {
			r.host()
			natstest.Eventually(r, patience, "the agent is told that it has ended", func() bool {
				m, err := r.store.Last(r.Context(), "KV_AGENTS_p", protocol.KVSubject("AGENTS_p", protocol.AgentKey("Desk", "jo")))
				var record protocol.Record
				return err == nil && json.Unmarshal(m.Data, &record) == nil && len(record.Gateways["gone"].Open) == 0
			})
			gone("KV_CONNECTIONS_p", lost)(r)
		}},
		"mail of a life that is over": {MailWithoutAgent, func(r *rig) {
			r.publish(jo.InboxSubject("p"), protocol.Mail{V: 1, Source: protocol.SourceQueue, Number: 1, Life: 99, Sent: time.Now()})
		}, gone("INBOX_p", jo.InboxSubject("p"))},
		"a row is not armed": {NotArmed, func(r *rig) {
			r.record(func(*protocol.Record) {})
			r.publish(rowOfJo, schedule(1))
			r.ackByHand("KV_SCHEDULES_p", protocol.ConsumerScheduler)
		}, func(r *rig) {
			natstest.Eventually(r, patience, "its moment is armed", func() bool { return r.has("CLOCK", clockOfJo) })
		}},
		"a moment is armed without a row": {ClockWithoutRow, func(r *rig) {
			r.publish(clockOfJo, protocol.Tick{V: 1, Revision: 5, Definition: "d", Planned: time.Now().Add(time.Hour)})
		}, gone("CLOCK", clockOfJo)},
		"a schedule of a life that is over": {ScheduleWithoutAgent, func(r *rig) {
			r.publish(rowOfJo, schedule(99))
			r.ackByHand("KV_SCHEDULES_p", protocol.ConsumerScheduler)
		}, gone("KV_SCHEDULES_p", rowOfJo)},
		"a large value of an instance that never came": {ObjectWithoutOwner, func(r *rig) {
			object = r.put(protocol.OwnerOf(at("works", "never"), "in"))
		}, func(r *rig) { gone("OBJ_OBJECTS_p", protocol.ObjectMetaSubject("p", object))(r) }},
		"a state that no record refers to": {ObjectWithoutOwner, func(r *rig) {
			r.record(func(record *protocol.Record) {
				record.Epoch, record.StateObject = 9, &protocol.Object{Name: r.put(protocol.StateOwner(jo, 3, 1))}
			})
			state = r.put(protocol.StateOwner(jo, 3, 2))
			r.put(protocol.StateOwner(jo, 9, 3)) // its owner may be about to refer to it
		}, func(r *rig) {
			gone("OBJ_OBJECTS_p", protocol.ObjectMetaSubject("p", state))(r)
			if left := r.objects(); left != 2 {
				r.Errorf("%d states are left, want that of the record and the new one", left)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x.run(setup(t))
		})
	}
}

// TestMailWithoutClass: nobody knows whether a class will come yet, so nothing is taken away.
func TestMailWithoutClass(t *testing.T) {
	t.Parallel()
	r := setup(t)
	to := protocol.Agent{Project: "p", Class: "Other", Name: "jo"}
	r.publish(to.InboxSubject("p"), protocol.Mail{V: 1, Source: "q", Number: 1, Key: "k", Callback: "Go", Sent: time.Now()})
	found, report := r.examine(repair)
	if len(found) != 1 || found[0].Kind != MailWithoutClass || report.Left() != 1 || !r.has("INBOX_p", to.InboxSubject("p")) {
		t.Errorf("found %+v, %+v; want the mail, and that it stays", found, report)
	}
}

// TestUnreadable: what makes no sense is counted, and holds up nothing.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if _, err := r.store.Publish(t.Context(), protocol.KVSubject("AGENTS_p", protocol.AgentKey("Desk", "jo")), nil, []byte("{")); err != nil {
		t.Fatal(err)
	}
	r.publish(rowOfJo, schedule(1))
	r.publish(clockOfOther, protocol.Tick{V: 1, Revision: 5, Definition: "d", Planned: time.Now().Add(time.Hour)})
	found, report := r.examine()
	if len(found) != 1 || found[0].Kind != ClockWithoutRow || report.Unreadable != 2 {
		t.Errorf("found %+v, %+v; want the moment without a row, and that the record and its row cannot be looked at", found, report)
	}
}

// TestRowsOnTheirWay: what a scheduler has not seen yet is not wrong.
func TestRowsOnTheirWay(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.record(func(*protocol.Record) {})
	r.publish(rowOfJo, schedule(1))
	if found, _ := r.examine(); len(found) > 0 {
		t.Errorf("without a scheduler: %+v", found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		s := scheduler.New(scheduler.Options{NC: r.nc, JS: r.js, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err := s.Run(ctx); err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()
	natstest.Eventually(t, patience, "the moment is armed", func() bool { return r.has("CLOCK", clockOfJo) })
	if found, _ := r.examine(); len(found) > 0 {
		t.Errorf("with a scheduler: %+v", found)
	}
}
