package protocol_test

import (
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestDoorSubjects(t *testing.T) {
	t.Parallel()
	d := protocol.Door{Owner: "bank", Caller: "trips"}
	n := protocol.Door{News: true, Owner: "trips", Caller: "bank"}
	for _, row := range []struct{ got, want string }{
		{d.WorkflowSubject("booking", protocol.DoorOpCreate), "door.bank.trips.workflow.booking.create"},
		{d.AgentSubject("Desk", "mail"), "door.bank.trips.agent.Desk.mail"},
		{d.RegistrySubject(), "door.bank.trips.registry"},
		{d.ValueSubject("runner-1"), "door.bank.trips.value.runner-1"},
		{d.ValueSubject("*"), "door.bank.trips.value.*"},
		{d.Subjects(), "door.bank.trips.>"},
		{n.WorkflowSubject("trip", protocol.NewsOpEnded), "news.trips.bank.workflow.trip.ended"},
		{n.AgentSubject("Desk", protocol.NewsOpNotice), "news.trips.bank.agent.Desk.notice"},
		{protocol.PostSubject("trips", "bank", protocol.DoorWorkflow, "booking", "u-7"), "post.trips.bank.workflow.booking.u-7"},
		{protocol.PostSubject("bank", "trips", protocol.DoorAgent, "Desk", "jo@x"), "post.bank.trips.agent.Desk.jo=40x"},
	} {
		if row.got != row.want {
			t.Errorf("got %q, want %q", row.got, row.want)
		}
	}
	project, to, err := protocol.ParsePostSubject("post.trips.bank.workflow.booking.u-7")
	if project != "trips" || to != "bank" || err != nil {
		t.Errorf("post of %q to %q, %v", project, to, err)
	}
}

func FuzzParseDoorSubject(f *testing.F) {
	for _, s := range []string{
		"door.b.a.workflow.w.create", "door.b.a.agent.C.mail", "door.b.a.registry", "door.b.a.value.r-1", "news.a.b.workflow.w.ended",
		"news.a.b.agent.C.notice", "door.b.a.value.=2E", "door.b..registry", "door.b.a.other.x.y", "door.*.a.registry", "", "....",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		s, err := protocol.ParseDoorSubject(subject)
		if err != nil {
			return
		}
		built := map[string]string{
			protocol.DoorWorkflow: s.WorkflowSubject(s.Name, s.Op), protocol.DoorAgent: s.AgentSubject(s.Name, s.Op),
			protocol.DoorRegistry: s.RegistrySubject(), protocol.DoorValue: s.ValueSubject(s.Name),
		}[s.Kind]
		if built != subject {
			t.Fatalf("%q is read as %+v, which is written %q", subject, s, built)
		}
	})
}
