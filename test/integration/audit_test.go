package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// trail is everything that is stored of one instance, read from the leader.
type trail struct {
	id       string
	workflow string
	// fetch reads what is too large for a message.
	fetch   func(context.Context, protocol.Object) (json.RawMessage, error)
	created uint64
	creates int
	// asked is when the create was stored.
	asked  time.Time
	events map[uint64]protocol.Event
	log    []logged
	done   []protocol.Done
}

// logged is one message of a log.
type logged struct {
	sequence uint64
	stored   time.Time
	protocol.Append
}

func (w *world) newTrail(id string) *trail {
	return &trail{id: id, events: map[uint64]protocol.Event{}, fetch: func(ctx context.Context, o protocol.Object) (json.RawMessage, error) {
		return w.project.Objects().Get(ctx, w.name, o)
	}}
}

// trail reads what is stored of an instance.
func (w *world) trail(id string) *trail {
	w.t.Helper()
	tr := w.newTrail(id)
	at := w.instance(id)
	for _, subject := range []string{at.CreateSubject(), at.EventSubject(), at.LogSubject(), at.DoneSubject()} {
		for from := uint64(1); ; {
			m, err := w.store.NextFromLeader(w.t.Context(), at.Stream(), subject, from)
			if errors.Is(err, journal.ErrNotFound) {
				break
			}
			if err == nil {
				err = tr.add(m)
			}
			if err != nil {
				w.t.Fatal(err)
			}
			from = m.Sequence + 1
		}
	}
	return tr
}

// add takes a message of the stream.
func (tr *trail) add(m *journal.Message) error {
	sequence, data := m.Sequence, m.Data
	at, class, err := protocol.ParseInstanceSubject(m.Subject)
	if err != nil {
		return err
	}
	tr.workflow = at.Workflow
	switch class {
	case protocol.ClassCreate:
		tr.created, tr.asked = sequence, m.Time
		tr.creates++
	case protocol.ClassEvent:
		var e protocol.Event
		err = json.Unmarshal(data, &e)
		tr.events[sequence] = e
	case protocol.ClassLog:
		l := logged{sequence: sequence, stored: m.Time}
		err = json.Unmarshal(data, &l.Append)
		tr.log = append(tr.log, l)
	case protocol.ClassDone:
		var d protocol.Done
		err = json.Unmarshal(data, &d)
		tr.done = append(tr.done, d)
	}
	return err
}

// entries is what the log records, oldest first.
func (tr *trail) entries() []protocol.Entry {
	var all []protocol.Entry
	for _, l := range tr.log {
		all = append(all, l.Entries...)
	}
	return all
}

// count is how many entries of a kind the log has.
func (tr *trail) count(kind protocol.EntryKind) int {
	n := 0
	for _, e := range tr.entries() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// lost is how many runs the log says were lost, once it was begun.
func (tr *trail) lost() int {
	n := 0
	for _, e := range tr.entries() {
		if e.Lost {
			n++
		}
	}
	if tr.astray() {
		n--
	}
	return n
}

// astray reports whether the log begins with a lost run. None need have been: the wake of a runner that stood still for
// longer than ack_wait, as on a busy machine, comes again, and looks like one whose runner died before it wrote anything.
func (tr *trail) astray() bool {
	entries := tr.entries()
	return len(entries) > 0 && entries[0].Kind == protocol.EntryClaimed && entries[0].Lost
}

// output is what the workflow returned.
func (tr *trail) output(t testing.TB) []string {
	t.Helper()
	var output []string
	if len(tr.done) == 0 {
		return nil
	}
	last := tr.done[len(tr.done)-1]
	if err := json.Unmarshal(last.Output, &output); err != nil {
		t.Errorf("%s: output %s: %v", tr.id, last.Output, err)
	}
	return output
}

func outcome(k protocol.EntryKind) bool {
	return slices.Contains([]protocol.EntryKind{protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept,
		protocol.EntryReceived, protocol.EntryTimedOut, protocol.EntryRecorded}, k)
}

func terminal(k protocol.EntryKind) bool {
	return k == protocol.EntryCompleted || k == protocol.EntryFailed || k == protocol.EntryTerminated || k == protocol.EntryDeleted
}

// steers reports whether an append obeys controls: whoever gets one may do that.
func (l logged) steers() bool { return l.Entries[0].Input != 0 && l.Entries[0].Step == nil }

// stands reports whether an append is a snapshot of what the log holds before it.
func (l logged) stands() bool { return l.Entries[0].Kind == protocol.EntrySnapshot }

// queues reports whether an append parks an instance that got no slot: whoever gets its wake does that.
func (l logged) queues() bool {
	e := l.Entries[0]
	return e.Kind == protocol.EntryParked && len(e.Waits) == 1 && e.Waits[0].Op == protocol.OpSlot
}

// rests is why nobody executes the instance after an append; empty if somebody does, or is to.
func (l logged) rests() protocol.EntryKind {
	last := l.Entries[len(l.Entries)-1].Kind
	if terminal(last) || last == protocol.EntryParked || last == protocol.EntryPaused || last == protocol.EntryHeld {
		return last
	}
	return ""
}

// forget leaves out what a deleted instance of the same id has left: the entry that says so, and announcements. Snapshots
// say nothing of their own.
func (tr *trail) forget() {
	tr.log = slices.DeleteFunc(tr.log, logged.stands)
	if len(tr.log) > 0 && tr.log[0].Incarnation < tr.created && tr.log[0].Entries[0].Kind == protocol.EntryDeleted {
		tr.log = tr.log[1:]
	}
	tr.done = slices.DeleteFunc(tr.done, func(d protocol.Done) bool { return d.Incarnation < tr.created })
}

// faults are what is wrong with a trail.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// audit holds a finished instance against the rules of the protocol.
func (tr *trail) audit(t testing.TB) {
	t.Helper()
	var found faults
	tr.forget()
	if tr.creates != 1 {
		found.add("%d creates are stored", tr.creates)
	}
	tr.auditOwners(&found)
	tr.auditOutcomes(&found)
	tr.auditEvents(&found)
	tr.auditEnd(&found)
	if len(found) == 0 {
		return
	}
	t.Errorf("%s: %s", tr.id, strings.Join(found, "; "))
	tr.show(t)
}

// show shows the log, for people.
func (tr *trail) show(t testing.TB) {
	t.Helper()
	t.Logf("the log of %s, created at %d:", tr.id, tr.created)
	for _, l := range tr.log {
		text, _ := json.Marshal(l.Append)
		t.Logf("  %d %s", l.sequence, text)
	}
}

// auditOwners: one runner at a time writes the log, and another one begins with a claim. So does whoever goes on after
// a park or a release. A log to which two runners wrote by turns was not fenced.
func (tr *trail) auditOwners(found *faults) {
	var owner string
	ids, ended := map[string]bool{}, false
	paused := false
	for i, l := range tr.log {
		if l.Incarnation != tr.created {
			found.add("entry %d is of incarnation %d, want %d", l.sequence, l.Incarnation, tr.created)
		}
		if ids[l.ID] {
			found.add("two appends have the id %s", l.ID)
		}
		ids[l.ID] = true
		claimed := l.Entries[0].Kind == protocol.EntryClaimed
		if claimed && l.Entries[0].Wake.String() != l.Holder.String() {
			found.add("entry %d claims under %v, its holder is %v", l.sequence, l.Entries[0].Wake, l.Holder)
		}
		if rests := l.rests(); paused && !l.steers() {
			found.add("entry %d goes on although the instance is paused", l.sequence)
		} else if rests != "" || l.steers() {
			paused = rests == protocol.EntryPaused
		}
		switch {
		case l.steers(), l.queues():
			ended = true
			continue
		case claimed, i == 0:
			owner = l.Runner
		case l.Runner != owner:
			found.add("entry %d is by %s without a claim, the instance is with %s", l.sequence, l.Runner, owner)
		case ended:
			found.add("entry %d goes on after a park or a release without a claim", l.sequence)
		}
		last := l.Entries[len(l.Entries)-1].Kind
		ended = last == protocol.EntryParked || last == protocol.EntryReleased
	}
}

// auditOutcomes: one outcome per step, nothing of a step after it, and no wait that ends early.
func (tr *trail) auditOutcomes(found *faults) {
	done, until := map[protocol.Key]bool{}, map[protocol.Key]time.Time{}
	var order []protocol.Key // in which the log names the steps
	for _, l := range tr.log {
		for _, e := range l.Entries {
			if e.Kind == protocol.EntryRestarted {
				kept := 0
				if e.From != nil {
					kept = max(0, slices.Index(order, *e.From))
				}
				for _, void := range order[kept:] {
					delete(done, void)
				}
				order = order[:kept]
			}
			if e.Step == nil {
				continue
			}
			if !slices.Contains(order, *e.Step) {
				order = append(order, *e.Step)
			}
			if done[*e.Step] {
				found.add("entry %d says %s of %v, whose outcome is recorded", l.sequence, e.Kind, e.Step)
			}
			done[*e.Step] = outcome(e.Kind)
			if e.Until != nil {
				until[*e.Step] = *e.Until
			}
			if (e.Kind == protocol.EntrySlept || e.Kind == protocol.EntryTimedOut) && l.Time.Before(until[*e.Step]) {
				found.add("%v ended at %v, before %v", e.Step, l.Time, until[*e.Step])
			}
		}
	}
}

// auditEvents: each event ends one wait for its type, those of a type in their order. Those that were sent after somebody
// had asked for a restart may end one of the old run, too, which does not count.
func (tr *trail) auditEvents(found *faults) {
	var taken []protocol.Entry
	for _, e := range tr.entries() {
		if e.Kind == protocol.EntryRestarted {
			taken = slices.DeleteFunc(taken, func(t protocol.Entry) bool { return t.Input > e.Input })
		}
		if e.Kind != protocol.EntryReceived {
			continue
		}
		sent, ok := tr.events[e.Input]
		if !ok || sent.Type != e.Type || sent.Input != e.InputID || string(sent.Payload) != string(e.Result) {
			found.add("%v received %s %s, event %d is %+v", e.Step, e.Type, e.Result, e.Input, sent)
		}
		for _, t := range taken {
			if t.InputID == e.InputID || t.Type == e.Type && t.Input >= e.Input {
				found.add("%v received event %d (%s) after %d (%s)", e.Step, e.Input, e.InputID, t.Input, t.InputID)
			}
		}
		taken = append(taken, e)
	}
}

// auditEnd: one terminal entry, nothing behind it, and it is announced as it is.
func (tr *trail) auditEnd(found *faults) {
	var ends int
	for _, e := range tr.entries() {
		switch {
		case terminal(e.Kind):
			ends++
		case e.Kind == protocol.EntryRestarted:
			ends = 0
		case ends > 0:
			found.add("%s follows the end", e.Kind)
		}
	}
	if len(tr.log) == 0 || ends != 1 {
		found.add("%d terminal entries in %d messages", ends, len(tr.log))
		return
	}
	tail := tr.log[len(tr.log)-1]
	end := tail.Entries[len(tail.Entries)-1]
	if !terminal(end.Kind) {
		found.add("%s follows the terminal entry", end.Kind)
	}
	if len(tr.done) == 0 {
		found.add("the end is not announced")
	}
	for _, d := range tr.done {
		if d.Epoch < tail.Epoch { // it was restarted since
			continue
		}
		complete := d.State == protocol.StateComplete
		if d.Log != tail.sequence || d.Incarnation != tr.created || string(d.Output) != string(end.Result) ||
			complete != (end.Kind == protocol.EntryCompleted) || complete != (d.Error == nil) {
			found.add("announced %+v, the log ends at %d with %+v", d, tail.sequence, end)
		}
	}
}

// checkOutput compares what the code returned with what is recorded: of each step the one result that counts.
func (tr *trail) checkOutput(t testing.TB, s script, output []string) {
	t.Helper()
	results := map[protocol.Key]string{}
	for _, e := range tr.entries() {
		if e.Step != nil && e.Step.Op == protocol.OpRace && e.Winner != nil {
			var all []string
			if err := json.Unmarshal(e.Result, &all); err != nil {
				t.Fatal(err)
			}
			results[*e.Step] = won(*e.Winner, all)
			continue
		}
		switch e.Kind {
		case protocol.EntryStepCompleted, protocol.EntryReceived:
			r, err := result(t, tr, e)
			if err != nil {
				t.Fatal(err)
			}
			results[*e.Step] = r
		case protocol.EntrySlept:
			results[*e.Step] = "slept"
		case protocol.EntryTimedOut:
			results[*e.Step] = "timed out"
		}
	}
	want := expected(s.Ops, map[protocol.Key]int{}, results)
	if !slices.Equal(output, want) {
		t.Errorf("%s: output is\n%q\nrecorded is\n%q", tr.id, output, want)
	}
}

// result is what an entry says that a call of the code returns.
func result(t testing.TB, tr *trail, e protocol.Entry) (r string, err error) {
	if e.Step.Op != protocol.OpCall {
		raw := e.Result
		if e.Object != nil {
			if raw, err = tr.fetch(t.Context(), *e.Object); err != nil {
				return "", err
			}
		}
		err = json.Unmarshal(raw, &r)
		return brief(r), err
	}
	var done protocol.Done
	var output []string
	if err := json.Unmarshal(e.Result, &done); err != nil {
		return "", err
	}
	err = json.Unmarshal(done.Output, &output)
	return strings.Join(output, ", "), err
}

func expected(all []op, used map[protocol.Key]int, results map[protocol.Key]string) []string {
	var want []string
	for _, o := range all {
		if o.Fail != "" || o.Hold != "" {
			continue
		}
		if o.Fails != "" {
			want = append(want, o.Fails)
			continue
		}
		for i, branch := range o.Group {
			if o.Race == "" && (i == 0 || !o.Ends) { // else only what the winner returned comes out
				want = append(want, expected(branch, used, results)...)
			}
		}
		if o.Group == nil || o.Race != "" {
			used[o.key(0)]++
			want = append(want, results[o.key(used[o.key(0)])])
		}
	}
	return want
}
