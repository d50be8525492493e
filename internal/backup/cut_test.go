package backup

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// when says at which reading of a stream something is done.
type when struct {
	stream string
	n      int
}

// meanwhile makes a backup, and does things when streams were read the n-th time.
func (p *place) meanwhile(things map[when]func()) string {
	p.Helper()
	dir := filepath.Join(p.TempDir(), "backup")
	read, done := map[string]int{}, 0
	_, err := Create(p.Context(), Options{JS: p.js, Store: p.store, Dir: dir, Progress: func(name string, _ int) {
		read[name]++
		if do := things[when{name, read[name]}]; do != nil {
			done++
			do()
		}
	}})
	p.must(err)
	if done != len(things) {
		p.Fatalf("streams were read %v times", read)
	}
	return dir
}

// restored restores a backup to a server of its own.
func restored(t *testing.T, dir string) *place {
	t.Helper()
	q := onServer(t)
	if _, err := q.restore(dir, 1); err != nil {
		t.Fatal(err)
	}
	return q
}

// subjects are those of the messages of a stream, in its order, but for what a doctor has sent.
func (p *place) subjects(stream string) (all []string) {
	for _, line := range p.contents(stream) {
		if !strings.Contains(line, `"doctor"`) {
			all = append(all, strings.Fields(line)[2])
		}
	}
	return all
}

func pay(id string) protocol.Instance {
	return protocol.Instance{Project: "shop", Workflow: "pay", ID: id}
}

func (p *place) log(id string, incarnation uint64, kinds ...protocol.EntryKind) uint64 {
	a := protocol.Append{V: 1, ID: "x", Incarnation: incarnation, Holder: protocol.Wake{Stream: "WORKFLOWS_shop", Sequence: incarnation}, Time: time.Now().UTC()}
	for _, k := range kinds {
		a.Entries = append(a.Entries, protocol.Entry{Kind: k})
	}
	return p.publish(pay(id).LogSubject(), a)
}

// TestWakeAcknowledgedMeanwhile: what the acknowledgement followed is not in the backup, so the wake comes again.
func TestWakeAcknowledgedMeanwhile(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	held := p.pull("WORKFLOWS_shop", "wakes")
	dir := p.meanwhile(map[when]func(){{"WORKFLOWS_shop", 2}: func() { // the logs have ended
		p.log("a", 1, protocol.EntryCompleted)
		p.must(held.DoubleAck(t.Context()))
	}})
	q := restored(t, dir)
	if got := q.subjects("WORKFLOWS_shop"); !slices.Equal(got, []string{pay("a").CreateSubject()}) {
		t.Errorf("restored are %q", got)
	}
	if next := q.pull("WORKFLOWS_shop", "wakes"); next.Subject() != pay("a").CreateSubject() {
		t.Errorf("the wake is %s", next.Subject())
	}
}

// TestLogsEndBeforeInputs: what an outbox was rid of while logs were read already is there.
func TestLogsEndBeforeInputs(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	dir := p.meanwhile(map[when]func(){{"KV_SLOTS_shop", 1}: func() {
		p.create("shop", "b")
		p.log("a", 1, protocol.EntryStarted)
		p.publish(pay("a").EventSubject(), protocol.Event{V: 1, Input: "e", Type: "go"})
		p.publish(pay("a").ControlSubject(), protocol.Control{V: 1, Input: "c", Action: protocol.ActionPause})
		p.publish(pay("a").DoneSubject(), protocol.Done{V: 1, Workflow: "pay", ID: "a"})
	}})
	want := []string{pay("a").CreateSubject(), pay("b").CreateSubject(), pay("a").EventSubject(), pay("a").ControlSubject()}
	if got := restored(t, dir).subjects("WORKFLOWS_shop"); !slices.Equal(got, want) {
		t.Errorf("restored are %q, want %q", got, want)
	}
}

// TestDeletedMeanwhile: of an instance that was read before it was deleted only the entry that says so is left, whatever came
// between; one of the same id that came after it is there.
func TestDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	p.log("a", 1, protocol.EntryStarted)
	dir := p.meanwhile(map[when]func(){{"KV_SLOTS_shop", 1}: func() {
		p.publish(pay("a").ControlSubject(), protocol.Control{V: 1, Input: "c", Action: protocol.ActionDelete})
		deleted := p.log("a", 1, protocol.EntryDeleted)
		for _, subject := range []string{pay("a").InputsSubject(), pay("a").EverySubject()} {
			p.must(p.store.Purge(t.Context(), "WORKFLOWS_shop", subject, deleted))
		}
		p.create("shop", "a")
	}})
	want := []string{pay("a").LogSubject(), pay("a").CreateSubject()}
	if got := restored(t, dir).subjects("WORKFLOWS_shop"); !slices.Equal(got, want) {
		t.Errorf("restored are %q, want %q", got, want)
	}
}

// TestTimerOfTheEndOfTheLog: a timer that is armed after the timers were read, for an entry that is in the log, is there.
func TestTimerOfTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	dir := p.meanwhile(map[when]func(){{"TIMERS_shop", 1}: func() {
		park := p.log("a", 1, protocol.EntryParked)
		p.publish(pay("a").TimerSubject(park), protocol.Timer{V: 1, Workflow: "pay", ID: "a", Incarnation: 1, Park: park},
			protocol.HeaderSchedule, "@at "+time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano),
			protocol.HeaderScheduleTarget, pay("a").DueSubject(park))
	}})
	q := restored(t, dir)
	if got := q.subjects("TIMERS_shop"); !slices.Equal(got, []string{pay("a").TimerSubject(2)}) {
		t.Errorf("timers are %q", got)
	}
}

// record stores a record as the next revision.
func (p *place) record(name string, r protocol.Record) uint64 {
	r.V, r.Class, r.Name, r.Life = 1, "Desk", name, 1
	return p.publish(protocol.KVSubject(protocol.AgentsBucket("shop"), protocol.AgentKey("Desk", name)), r)
}

func (p *place) recordOf(name string) (r protocol.Record) {
	p.Helper()
	m, err := p.store.Last(p.Context(), "KV_AGENTS_shop", protocol.KVSubject(protocol.AgentsBucket("shop"), protocol.AgentKey("Desk", name)))
	if err == nil {
		err = json.Unmarshal(m.Data, &r)
	}
	p.must(err)
	return r
}

// TestMailAppliedMeanwhile: a record that is read has what its acknowledged mail did, or the mail is there. Turns go on behind all
// that the original may have had.
func TestMailAppliedMeanwhile(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.record("ada", protocol.Record{Turn: 1})
	mail := func(number uint64) {
		p.publish(protocol.Agent{Project: "shop", Class: "Desk", Name: "ada"}.InboxSubject("shop"), protocol.Mail{V: 1, Source: "s", Number: number, Callback: "On"})
	}
	mail(1)
	dir := p.meanwhile(map[when]func(){{"KV_AGENTS_shop", 2}: func() { // the records are read, mail is not yet once more
		for number := uint64(1); number <= 2; number++ {
			p.record("ada", protocol.Record{Turn: 1 + number, Seen: map[string]uint64{"s": number}})
			if number > 1 {
				mail(number)
			}
			p.must(p.pull("INBOX_shop", "doorbell").DoubleAck(t.Context()))
		}
	}})
	r := restored(t, dir).recordOf("ada")
	if r.Seen["s"] != 2 || r.Turn != 3+turnSkip {
		t.Errorf("the record has turn %d and marks %v, though mail 2 is gone", r.Turn, r.Seen)
	}
}

// TestMailOfLaterTurn: what a turn tells that is not in the backup is not there either: the turn comes again, and tells it again.
func TestMailOfLaterTurn(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.record("ada", protocol.Record{Turn: 1})
	tell := func(number uint64) {
		p.publish(protocol.Agent{Project: "shop", Class: "Desk", Name: "bob"}.InboxSubject("shop"), protocol.Mail{V: 1, Source: "ada", Number: number, Callback: "On"})
	}
	tell(1)
	q := restored(t, p.meanwhile(map[when]func(){{"KV_SLOTS_shop", 1}: func() { // the moment was found
		p.record("ada", protocol.Record{Turn: 2})
		tell(2)
	}}))
	if r, mail := q.recordOf("ada"), q.contents("INBOX_shop"); r.Turn != 1+turnSkip || len(mail) != 1 {
		t.Errorf("the record has turn %d, the inbox holds %q", r.Turn, mail)
	}
}

// TestNoticeOfLaterEntry: an agent is not told what the log does not say yet: it comes again, and is told again.
func TestNoticeOfLaterEntry(t *testing.T) {
	t.Parallel()
	c := &copier{at: moment{logs: map[string]uint64{"WORKFLOWS_shop": 7, "WORKFLOWS_shop=1": 5}, mail: map[string]uint64{"INBOX_shop": 3}}}
	for _, stream := range []string{"WORKFLOWS_shop", "WORKFLOWS_shop=1"} {
		c.tapes = append(c.tapes, &tape{stream: stream, kind: protocol.KindWorkflows, project: "shop"})
	}
	keep, err := c.keep(&tape{stream: "INBOX_shop", kind: protocol.KindInbox, project: "shop"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[int]string{protocol.Shard("a", 2): "a", protocol.Shard("b", 2): "b"}
	for _, tt := range []struct {
		name     string
		sequence uint64
		mail     protocol.Mail
		kept     bool
	}{
		{"the last entry", 3, noticeMail("shop", ids[0], 7), true},
		{"a later one", 3, noticeMail("shop", ids[0], 8), false},
		{"the last entry of another shard", 3, noticeMail("shop", ids[1], 5), true},
		{"a later one of another shard", 3, noticeMail("shop", ids[1], 6), false},
		{"of a project that is not copied", 3, noticeMail("bank", ids[0], 8), true},
		{"no notice", 3, protocol.Mail{Source: "s", Number: 8}, true},
		{"mail that came after the moment", 4, protocol.Mail{Source: "s", Number: 8}, false},
	} {
		data, err := json.Marshal(tt.mail)
		if err != nil {
			t.Fatal(err)
		}
		if got := keep(&entry{Sequence: tt.sequence, Data: data}); got != tt.kept {
			t.Errorf("%s: it is kept: %v, want %v", tt.name, got, tt.kept)
		}
	}
}

func noticeMail(project, id string, sequence uint64) protocol.Mail {
	return protocol.NoticeMail(protocol.Tracker{}, protocol.WorkflowNotice{
		Project: project, Workflow: "pay", ID: id, Notice: protocol.Notice{Cursor: protocol.Cursor{Sequence: sequence}, Kind: protocol.NoticeCompleted},
	}, time.Now())
}

// TestLargeStateReplacedMeanwhile: a record and its large state belong together.
func TestLargeStateReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	values := objects.New(p.store)
	ada := protocol.Agent{Project: "shop", Class: "Desk", Name: "ada"}
	put := func(n uint64, text string) (*protocol.Object, protocol.ObjectOwner) {
		owner := protocol.StateOwner(ada, 1, n)
		o, err := values.Put(t.Context(), objects.Value{Owner: owner, JSON: json.RawMessage(`"` + strings.Repeat(text, 200<<10) + `"`)})
		p.must(err)
		return o, owner
	}
	first, firstOwner := put(1, "a")
	p.record("ada", protocol.Record{Turn: 1, StateObject: first})
	p.record("bob", protocol.Record{Turn: 1})
	var secondOwner, thirdOwner protocol.ObjectOwner
	replace := func(n uint64, text string, old protocol.ObjectOwner) protocol.ObjectOwner {
		o, owner := put(n, text)
		p.record("ada", protocol.Record{Turn: n, StateObject: o})
		p.must(values.DeleteInstance(t.Context(), old))
		return owner
	}
	dir := p.meanwhile(map[when]func(){
		{"KV_AGENTS_shop", 1}: func() { secondOwner = replace(2, "b", firstOwner) },
		{"KV_AGENTS_shop", 2}: func() { thirdOwner = replace(3, "c", secondOwner) }, // the record is read, and its state not yet
		{"KV_SLOTS_shop", 1}:  func() { replace(4, "d", thirdOwner) },               // the moment was found
	})
	q := restored(t, dir)
	r := q.recordOf("ada")
	state, err := objects.New(q.store).Get(t.Context(), "shop", *r.StateObject)
	if err != nil || r.Turn != 3+turnSkip || state[1] != 'c' {
		t.Errorf("the record has turn %d, its state %.10q: %v", r.Turn, state, err)
	}
	if v, err := Verify(t.Context(), VerifyOptions{Dir: dir}); err != nil || !v.Whole() || v.Agents != 2 {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

// TestRowsFollowRecords: of schedules, the clock and dead letters, what no agent knows is left out.
func TestRowsFollowRecords(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.record("ada", protocol.Record{Turn: 1, Seen: map[string]uint64{protocol.ScheduleSource("known"): 0}})
	later := time.Now().Add(time.Hour).UTC()
	for _, id := range []string{"known", "gone"} {
		p.publish(protocol.KVSubject(protocol.SchedulesBucket("shop"), protocol.ScheduleKey("Desk", "ada", id)),
			protocol.Schedule{V: 1, ID: id, Class: "Desk", Name: "ada", Life: 1, Kind: protocol.ScheduleDate, At: &later, Callback: "On", Created: time.Now().UTC()})
		p.publish(protocol.ClockSubject("shop", "Desk", "ada", id), protocol.Tick{V: 1, Planned: later},
			protocol.HeaderSchedule, "@at "+later.Format(time.RFC3339Nano), protocol.HeaderScheduleTarget, protocol.ClockDueSubject("shop", "Desk", "ada", id))
		p.publish(protocol.KVSubject(protocol.DeadBucket("shop"), protocol.DeadKey("Desk", map[string]string{"known": "ada", "gone": "bob"}[id], "1.1.1")),
			protocol.DeadLetter{V: 1, Class: "Desk", Name: "ada"})
	}
	q := restored(t, p.meanwhile(map[when]func(){{"KV_HOSTS_shop", 1}: func() {}}))
	for stream, want := range map[string]string{
		"KV_SCHEDULES_shop": protocol.KVSubject(protocol.SchedulesBucket("shop"), "Desk.ada.known"),
		"CLOCK":             protocol.ClockSubject("shop", "Desk", "ada", "known"),
		"KV_DEAD_shop":      protocol.KVSubject(protocol.DeadBucket("shop"), protocol.DeadKey("Desk", "ada", "1.1.1")),
	} {
		if got := q.subjects(stream); len(got) == 0 || slices.ContainsFunc(got, func(s string) bool { return s != want }) {
			t.Errorf("%s holds %q, want %q", stream, got, want)
		}
	}
}

// TestOneProject: a backup of one of several projects has nothing of the others.
func TestOneProject(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.project("bank")
	q := onServer(t)
	dir, m := p.backup("bank")
	if !slices.Equal(m.Projects, []string{"bank"}) {
		t.Errorf("projects %q", m.Projects)
	}
	if _, err := q.restore(dir, 1); err != nil {
		t.Fatal(err)
	}
	for name := range q.js.StreamNames(t.Context()).Name() {
		if _, project, _ := protocol.ParseStream(name); project == "shop" {
			t.Errorf("stream %s is there", name)
		}
	}
	if got := q.subjects("KV_PROJECTS"); !slices.Equal(got, []string{protocol.KVSubject(protocol.BucketProjects, "bank")}) {
		t.Errorf("the registry has %q", got)
	}
	if _, err := Create(t.Context(), Options{JS: p.js, Store: p.store, Dir: filepath.Join(t.TempDir(), "b"), Projects: []string{"none"}}); err == nil {
		t.Error("a backup of a project that is not there")
	}
}
