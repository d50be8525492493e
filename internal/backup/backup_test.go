package backup

import (
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestRoundTrip restores a project on one server and on three: every message with its sequence, time and headers, and consumers
// that go on where they were.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	if first := p.pull("WORKFLOWS_shop", "wakes"); first.DoubleAck(t.Context()) != nil {
		t.Fatal("not acknowledged")
	}
	p.create("shop", "b")
	p.create("shop", "c")
	p.must(p.js.Conn().Flush())
	i := protocol.Instance{Project: "shop", Workflow: "pay", ID: "a"}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	p.publish(i.TimerSubject(7), protocol.Timer{V: 1, Workflow: "pay", ID: "a", Incarnation: 1, Park: 7},
		protocol.HeaderSchedule, "@at "+later, protocol.HeaderScheduleTarget, i.DueSubject(7), protocol.HeaderRollup, protocol.RollupSubject)
	desk := protocol.Agent{Project: "shop", Class: "Desk", Name: "ada"}
	p.publish(protocol.KVSubject(protocol.AgentsBucket("shop"), "Desk.ada"), protocol.Record{V: 1, Class: "Desk", Name: "ada", Turn: 3, Life: 1})
	p.publish(desk.InboxSubject("shop"), protocol.Mail{V: 1, Source: "s", Number: 1, Callback: "On"})
	dir, m := p.backup()
	if _, err := Check(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Projects, []string{"shop"}) || len(m.Streams) != 13 {
		t.Errorf("the backup has projects %q and %d streams", m.Projects, len(m.Streams))
	}
	for name, to := range map[string]func(*testing.T) *place{
		"one server":    onServer,
		"three servers": func(t *testing.T) *place { return placeOn(t, natstest.StartCluster(t, 3).Connect(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			replicas := 1
			if name != "one server" {
				replicas = 3
			}
			q := to(t)
			r, err := q.restore(dir, replicas)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Findings {
				t.Logf("found %v", f)
			}
			for _, s := range m.Streams {
				if kind, _, _ := protocol.ParseStream(s.Name); kind == protocol.KindAgents {
					continue
				}
				if was, is := p.contents(s.Name), q.contents(s.Name); len(is) < len(was) || !slices.Equal(was, is[:len(was)]) {
					t.Errorf("stream %s holds %q, was %q", s.Name, is, was)
				}
				st, err := q.js.Stream(t.Context(), s.Name)
				q.must(err)
				if c := st.CachedInfo().Config; c.Replicas != replicas || c.Metadata[protocol.MetadataRestore] != "" {
					t.Errorf("stream %s has %d replicas, and %v", s.Name, c.Replicas, c.Metadata)
				}
			}
			if next := q.pull("WORKFLOWS_shop", "wakes"); next.Subject() != "wf.shop.0.in.pay.b.create" {
				t.Errorf("the first wake is %s", next.Subject())
			}
			q.project("shop")
			if at := q.create("shop", "d"); at <= DefaultSkip {
				t.Errorf("the next message has sequence %d", at)
			}
			if _, err := q.restore(dir, 1); err == nil {
				t.Error("restored over what is there")
			} else {
				t.Log(err)
			}
		})
	}
}
