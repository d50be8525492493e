package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

var tracker = protocol.Tracker{Project: "desk", Class: "Desk", Name: "jo", Life: 3}

// reporting is code that reports twice and then waits.
func reporting(c *Config) {
	c.Code["reports"] = func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
		s, err := execution.From(ctx)
		if err != nil {
			return nil, err
		}
		for n := range 3 {
			if err := s.Report(ctx, "", json.RawMessage(fmt.Sprint(n))); err != nil {
				return nil, err
			}
			if err := do(ctx, fmt.Sprint("step ", n), func(context.Context) (json.RawMessage, error) { return json.RawMessage("1"), nil }); err != nil {
				return nil, err
			}
		}
		_, _, err = s.WaitForEvent(ctx, "answer", "go", time.Hour)
		return nil, err
	}
}

// told reads what the agent was told and not yet taken, and takes it.
func (r *rig) told() (texts []string) {
	r.t.Helper()
	stream := protocol.InboxStream(tracker.Project)
	for next := uint64(1); ; {
		m, err := r.store.NextFromLeader(r.t.Context(), stream, tracker.Agent().MailSubject(), next)
		if errors.Is(err, journal.ErrNotFound) {
			return texts
		}
		if err != nil {
			r.t.Fatal(err)
		}
		var mail protocol.Mail
		if err := json.Unmarshal(m.Data, &mail); err != nil {
			r.t.Fatal(err)
		}
		text := string(mail.Notice.Kind)
		if mail.Notice.Value != nil {
			text += " " + string(mail.Notice.Value)
		}
		texts = append(texts, text)
		if err := r.store.Purge(r.t.Context(), stream, m.Subject, m.Sequence+1); err != nil {
			r.t.Fatal(err)
		}
		next = m.Sequence + 1
	}
}

// TestFullInboxHoldsTheInstance: it goes no further than its agent can be told, nor does a control, and then everything is
// told in order.
func TestFullInboxHoldsTheInstance(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if err := streams.EnsureAgents(t.Context(), r.js, tracker.Project, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	s, err := r.js.Stream(t.Context(), protocol.InboxStream(tracker.Project))
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	c.MaxMsgsPerSubject = 1
	if _, err := r.js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.serve(r.runner(reporting))
	i := r.createWith(at("reports", "a"), protocol.Create{Tracker: &tracker})
	reported := func() int { return r.count(i, protocol.EntryReported) }
	natstest.Eventually(t, patience, "two reports are recorded, of which one is told", func() bool { return reported() == 2 })
	r.control(i, protocol.Control{Action: protocol.ActionTerminate})
	if n := reported(); n != 2 {
		t.Errorf("%d reports are recorded, want no third", n)
	}
	var all []string
	natstest.Eventually(t, patience, "everything is told", func() bool {
		all = append(all, r.told()...)
		return len(all) > 0 && all[len(all)-1] == string(protocol.NoticeTerminated)
	})
	all = slices.Compact(all) // the last before the control may be told twice
	if len(all) < 3 || all[0] != "progress 0" || all[1] != "progress 1" {
		t.Errorf("told is %q", all)
	}
	r.reaches(i, protocol.StateTerminated)
}

// TestAgentOfAProjectThatIsGone: nobody is left to tell, and the instance goes on.
func TestAgentOfAProjectThatIsGone(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner(reporting, func(c *Config) { c.GoneAfter = 10 * time.Millisecond }))
	i := r.createWith(at("reports", "a"), protocol.Create{Tracker: &tracker})
	r.reaches(i, protocol.StateWaiting)
	r.send(i, "go")
	r.reaches(i, protocol.StateComplete)
}
