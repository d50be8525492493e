package doctor

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestConfirm: what is seen once is no finding, nor is what moves.
func TestConfirm(t *testing.T) {
	t.Parallel()
	r := setup(t)
	told := map[string]int{}
	d := New(Options{Store: r.store, Patience: 100 * time.Millisecond, Rate: 1_000_000, Found: func(f Finding) error {
		told[f.Subject]++
		return nil
	}})
	counts := map[string]int{}
	for _, subject := range []string{"stands", "heals", "moves", "comes back"} {
		err := d.suspect(t.Context(), func(context.Context) ([]complaint, error) {
			counts[subject]++
			c := complaint{Finding: Finding{Kind: NoWake, Subject: subject}, evidence: "the same"}
			switch n := counts[subject]; {
			case subject == "heals" && n > 2, subject == "comes back" && n == 2:
				return nil, nil
			case subject == "moves":
				c.evidence = fmt.Sprint(n)
			}
			return []complaint{c}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || told["stands"] != 1 || counts["stands"] <= looks {
		t.Errorf("told of %v after %v looks; want what stands, once, after more than %d", told, counts, looks)
	}
}

// TestHarmless: a project in which much is open, and all of it will be seen to.
func TestHarmless(t *testing.T) {
	t.Parallel()
	r := setup(t)
	waits, due := at("waits", "a"), time.Now().Add(soon/2)
	r.parked(waits)
	r.publish(waits.EventSubject(), protocol.Event{V: 1, Input: "other", Type: "other", Sent: time.Now()})
	r.ackByHand(stream, wakes)
	r.control(waits, protocol.ActionResume, "program") // in vain
	r.ackByHand(stream, controls)
	r.create(at("works", "begins"))
	r.publish(at("works", "gone").TimerSubject(7), protocol.Timer{V: 1, Workflow: "works", ID: "gone", Incarnation: 5, Park: 7, Due: due})
	kim := protocol.Agent{Project: "p", Class: "Desk", Name: "kim"}
	r.publish(kim.InboxSubject("p"), protocol.Mail{V: 1, Source: "program", Number: 1, Key: "k", Callback: "Remind", Sent: time.Now()})
	r.publish(protocol.KVSubject("HOSTS_p", "there"), protocol.Host{V: 1, ID: "there"})
	r.publish(protocol.KVSubject("CONNECTIONS_p", protocol.ConnectionsKey("there", "Desk", "al", 0)), protocol.SocketRow{V: 1, Class: "Desk", Name: "al"})
	r.record(func(record *protocol.Record) {
		record.Owner, record.Outbox = "there", []protocol.Outgoing{{ID: protocol.OutgoingID(1, 1, 0), Kind: protocol.OutgoingCancelSchedule, Cancel: "s"}}
	})
	r.put(protocol.OwnerOf(at("works", "comes"), "in"))
	found, report := r.examine(func(o *Options) { o.ObjectAge = time.Hour })
	if len(found) > 0 || report.Undecided > 0 {
		t.Errorf("found %+v, %+v; want nothing", found, report)
	}
}

// TestWordOfOthersCounts: a repair has paused an instance, and somebody steers it before it is resumed.
func TestWordOfOthersCounts(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		then protocol.Action
		want protocol.Action // the newest control in the end
	}{
		"nobody":    {"", protocol.ActionResume},
		"a user":    {protocol.ActionPause, protocol.ActionPause},
		"a janitor": {protocol.ActionCompact, protocol.ActionResume},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			i := at("waits", "a")
			r.create(i)
			d := New(Options{Store: r.store, Project: protocol.Project{Name: "p", Shards: 1}})
			paused := r.control(i, protocol.ActionPause, sourceKind)
			if x.then != "" {
				r.control(i, x.then, "program")
			}
			f, err := d.factsAtLeader(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.goOn(t.Context(), f, paused); err != nil {
				t.Fatal(err)
			}
			if f, err = d.factsAtLeader(t.Context(), i); err != nil || f.steer.Action != x.want {
				t.Errorf("the newest control is %s, %v; want %s", f.steer.Action, err, x.want)
			}
		})
	}
}
