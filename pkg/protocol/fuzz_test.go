package protocol_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// keyToken is what both a subject token and a part of a bucket's key may consist of, by the rules of the NATS clients.
var keyToken = regexp.MustCompile(`^[-/_=a-zA-Z0-9]+$`)

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "=", "a", "jo@example.com", "a.b *>", "=40", "ü\xff\x00", "_INBOX"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		token := protocol.Escape(name)
		if !keyToken.MatchString(token) {
			t.Fatalf("Escape(%q) = %q is no token", name, token)
		}
		if back, err := protocol.Unescape(token); back != name || err != nil {
			t.Fatalf("Unescape(%q) = %q, %v, want %q", token, back, err, name)
		}
	})
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "=", "==", "a=40b", "=4", "=41", "=c3", "a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		name, err := protocol.Unescape(token)
		if err != nil {
			return
		}
		if again := protocol.Escape(name); again != token {
			t.Fatalf("Unescape(%q) = %q, which is written %q", token, name, again)
		}
	})
}

func FuzzParseInstanceSubject(f *testing.F) {
	for _, s := range []string{
		"wf.p.0.in.w.i.create", "wf.p.1048576.in.w.i.event", "wf.p.2.ctl.w.i", "wf.p.0.log.w.i", "wf.p.0.done.w.i",
		"wf.p.00.log.w.i", "wf.p.0.in.w.i", "wf......", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		i, class, err := protocol.ParseInstanceSubject(subject)
		if err != nil {
			return
		}
		built := map[protocol.Class]string{
			protocol.ClassCreate:  i.CreateSubject(),
			protocol.ClassEvent:   i.EventSubject(),
			protocol.ClassControl: i.ControlSubject(),
			protocol.ClassLog:     i.LogSubject(),
			protocol.ClassDone:    i.DoneSubject(),
		}[class]
		if built != subject {
			t.Fatalf("%q is read as %v %s, which is written %q", subject, i, class, built)
		}
	})
}

func FuzzParseDueSubject(f *testing.F) {
	for _, s := range []string{"timer.p.0.w.i.12.due", "timer.p.0.w.i.012.due", "timer.p.0.w.i.12.at", "timer......due"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		i, park, err := protocol.ParseDueSubject(subject)
		if err != nil {
			return
		}
		if built := i.DueSubject(park); built != subject {
			t.Fatalf("%q is read as %v park %d, which is written %q", subject, i, park, built)
		}
	})
}

func FuzzParseInboxSubject(f *testing.F) {
	for _, s := range []string{"inbox.p.q.Desk.jo=40x", "inbox.p.q.Desk.=", "inbox.p.*.Desk.a", "inbox.p.q.Desk.a.b", "inbox..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		a, from, err := protocol.ParseInboxSubject(subject)
		if err != nil {
			return
		}
		if built := a.InboxSubject(from); built != subject {
			t.Fatalf("%q is read as %v from %q, which is written %q", subject, a, from, built)
		}
	})
}

func FuzzParseClockDueSubject(f *testing.F) {
	for _, s := range []string{"clock.due.p.Desk.jo=40x.s=201", "clock.due.p.Desk.a", "clock.at.p.Desk.a.s", "clock.due..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		a, schedule, err := protocol.ParseClockDueSubject(subject)
		if err != nil {
			return
		}
		if built := protocol.ClockDueSubject(a.Project, a.Class, a.Name, schedule); built != subject {
			t.Fatalf("%q is read as %v schedule %q, which is written %q", subject, a, schedule, built)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	for _, s := range []string{"Desk.jo=40x.s=201", "h.Desk.a.7", "Desk.a", "Desk.=.=", "=workflow.digest.cron-1", "Desk", ".", "..", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if class, name, err := protocol.ParseAgentKey(key); err == nil {
			if built := protocol.AgentKey(class, name); built != key {
				t.Fatalf("agent key %q is read as %q %q, which is written %q", key, class, name, built)
			}
		}
		if gateway, class, name, row, err := protocol.ParseConnectionsKey(key); err == nil {
			if built := protocol.ConnectionsKey(gateway, class, name, row); built != key {
				t.Fatalf("key of connections %q is read as %q %q %q %d, which is written %q", key, gateway, class, name, row, built)
			}
		}
		if class, name, schedule, err := protocol.ParseScheduleKey(key); err == nil {
			if built := protocol.ScheduleKey(class, name, schedule); built != key {
				t.Fatalf("schedule key %q is read as %q %q %q, which is written %q", key, class, name, schedule, built)
			}
		}
	})
}

// FuzzBuiltSubjects goes the other way: whatever names the checks allow come back from the parsers.
func FuzzBuiltSubjects(f *testing.F) {
	f.Add("p", "q", "Desk", "jo@x", "s 1", uint64(7))
	f.Add("-", "q", "Desk", "", "", uint64(0))
	f.Fuzz(func(t *testing.T, project, from, class, name, schedule string, park uint64) {
		a := protocol.Agent{Project: project, Class: class, Name: name}
		if protocol.CheckProject(project) == nil && protocol.CheckProject(from) == nil && protocol.CheckClass(class) == nil {
			if got, gotFrom, err := protocol.ParseInboxSubject(a.InboxSubject(from)); got != a || gotFrom != from || err != nil {
				t.Fatalf("%v from %q came back as %v from %q, %v", a, from, got, gotFrom, err)
			}
			subject := protocol.ClockDueSubject(project, class, name, schedule)
			if got, id, err := protocol.ParseClockDueSubject(subject); got != a || id != schedule || err != nil {
				t.Fatalf("%v schedule %q came back as %v %q, %v", a, schedule, got, id, err)
			}
		}
		i := protocol.Instance{Project: project, Shard: int(park % 9), Workflow: class, ID: from}
		if protocol.CheckProject(project) != nil || protocol.CheckWorkflow(class) != nil || protocol.CheckInstance(from) != nil {
			return
		}
		if got, kind, err := protocol.ParseInstanceSubject(i.LogSubject()); got != i || kind != protocol.ClassLog || err != nil {
			t.Fatalf("log of %v came back as %v %s, %v", i, got, kind, err)
		}
		if got, gotPark, err := protocol.ParseDueSubject(i.DueSubject(park)); got != i || gotPark != park || err != nil {
			t.Fatalf("park %d of %v came back as %d of %v, %v", park, i, gotPark, got, err)
		}
		if got, gotPark, err := protocol.ParseTimerSubject(i.TimerSubject(park)); got != i || gotPark != park || err != nil {
			t.Fatalf("timer %d of %v came back as %d of %v, %v", park, i, gotPark, got, err)
		}
		if got, err := protocol.ParseSlotWaitKey(project, protocol.SlotWaitKey(i)); got != i || err != nil {
			t.Fatalf("the place of %v came back as that of %v, %v", i, got, err)
		}
	})
}

func FuzzWake(f *testing.F) {
	for _, s := range []string{"", "WORKFLOWS_p#12", "a#b#0", "#1", "a#", "a#01", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var w protocol.Wake
		if w.UnmarshalText([]byte(text)) != nil {
			return
		}
		if back, err := w.MarshalText(); string(back) != text || err != nil {
			t.Fatalf("%q is read as %+v, which is written %q, %v", text, w, back, err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, d := range []time.Duration{0, 1, -1, time.Second, 90 * time.Minute, 1<<63 - 1, -1 << 63} {
		f.Add(int64(d))
	}
	f.Fuzz(func(t *testing.T, n int64) {
		text, err := protocol.Duration(n).MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back protocol.Duration
		if err := back.UnmarshalText(text); back != protocol.Duration(n) || err != nil {
			t.Fatalf("%d is written %q, which is read as %d, %v", n, text, back, err)
		}
	})
}
