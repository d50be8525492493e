package protocol_test

import (
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestNamesOfObjects(t *testing.T) {
	t.Parallel()
	i := protocol.Instance{Project: "p", Workflow: "w", ID: "a"}
	digest := strings.Repeat("0f", 32)
	for _, row := range []struct{ name, input, token string }{
		{"an id that we make", "6f1c8f2e-9a0b-4c3d-8e7f-001122334455", "6f1c8f2e-9a0b-4c3d-8e7f-001122334455"},
		{"one made by hand", "a/b.c", "a=2Fb=2Ec"},
		{"none", "", "="},
		{"one that no subject has room for", strings.Repeat("x", 1000), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := protocol.OwnerOf(i, row.input)
			if row.token != "" && o.Token != row.token || len(o.Token) > 64 {
				t.Errorf("token %q, want %q", o.Token, row.token)
			}
			name := o.ObjectName(digest)
			back, d, err := protocol.ParseObjectName("p", name)
			if err != nil || back != o || d != digest {
				t.Errorf("%q is parsed as %+v, %q, %v", name, back, d, err)
			}
			subject := protocol.ObjectChunkSubject("p", o.ChunksID(digest, "try-1"))
			if got, err := o.ParseChunkDigest(subject); err != nil || got != digest {
				t.Errorf("digest of %s is %q, %v", subject, got, err)
			}
			other := protocol.OwnerOf(protocol.Instance{Project: "p", Workflow: "w", ID: "b"}, row.input)
			if _, err := other.ParseChunkDigest(subject); err == nil {
				t.Errorf("%s is taken for another's", subject)
			}
		})
	}
	wantNames(t, []string{
		protocol.ObjectsStream("p"), "OBJ_OBJECTS_p",
		protocol.ObjectMetaSubject("p", "w/a/i/d"), "$O.OBJECTS_p.M.dy9hL2kvZA==",
		protocol.ObjectMetaSubjects("p"), "$O.OBJECTS_p.M.>",
		protocol.ObjectChunkSubjects("p"), "$O.OBJECTS_p.C.>",
		protocol.OwnerOf(i, "i").ChunkSubjects(), "$O.OBJECTS_p.C.w.a.i.>",
	})
}

func wantNames(t *testing.T, pairs []string) {
	t.Helper()
	for n := 0; n < len(pairs); n += 2 {
		if pairs[n] != pairs[n+1] {
			t.Errorf("%q, want %q", pairs[n], pairs[n+1])
		}
	}
}

func TestNamesThatAreOfNoObject(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0f", 32)
	for _, name := range []string{
		"", "w/a/i", "w/a/i/" + digest + "/x", "w//i/" + digest, "w.x/a/i/" + digest, "w/a/a.b/" + digest, "w/a//" + digest,
		"w/a/i/" + digest[:62], "w/a/i/" + strings.ToUpper(digest), "w/a/i/" + strings.Repeat("x", 64),
		"w/a/" + strings.Repeat("x", 65) + "/" + digest,
	} {
		if o, _, err := protocol.ParseObjectName("p", name); err == nil {
			t.Errorf("%q is taken for a name: %+v", name, o)
		}
	}
}

func TestNamesOfStates(t *testing.T) {
	t.Parallel()
	a := protocol.Agent{Project: "p", Class: "Desk", Name: "jo@example.com/a.b"}
	digest := strings.Repeat("0f", 32)
	o := protocol.StateOwner(a, 17, 4)
	wantNames(t, []string{
		o.ObjectName(digest), "=Desk/jo=40example=2Ecom=2Fa=2Eb/17-4/" + digest,
		a.StateSubjects(), "$O.OBJECTS_p.C.=Desk.jo=40example=2Ecom=2Fa=2Eb.>",
	})
	if back, err := a.ParseStateObject(protocol.Object{Name: o.ObjectName(digest)}); err != nil || back != o {
		t.Errorf("the object is parsed as %+v, %v", back, err)
	}
	if back, epoch, err := protocol.ParseStateName("p", o.ObjectName(digest)); err != nil || back != a || epoch != 17 {
		t.Errorf("the name is parsed as a state of %v of epoch %d, %v", back, epoch, err)
	}
	long := protocol.StateOwner(protocol.Agent{Project: "p", Class: "Desk", Name: strings.Repeat("é", 500)}, 1, 1)
	for _, name := range []string{"w/a/i/" + digest, "=Desk/jo/17/" + digest, "=Desk/a.b/17-4/" + digest, long.ObjectName(digest)} {
		if back, _, err := protocol.ParseStateName("p", name); err == nil {
			t.Errorf("%q is taken for a state of %v", name, back)
		}
	}
	subject := protocol.ObjectChunkSubject("p", o.ChunksID(digest, "try-1"))
	if back, epoch, err := a.ParseStateSubject(subject); err != nil || back != o || epoch != 17 {
		t.Errorf("%s is parsed as %+v, %d, %v", subject, back, epoch, err)
	}
	other := protocol.Agent{Project: "p", Class: "Desk", Name: "al"}
	if _, _, err := other.ParseStateSubject(subject); err == nil {
		t.Error("the subject is taken for another agent's")
	}
	if _, err := other.ParseStateObject(protocol.Object{Name: o.ObjectName(digest)}); err == nil {
		t.Error("the object is taken for another agent's")
	}
	if _, _, err := protocol.ParseObjectName("p", o.ObjectName(digest)); err == nil {
		t.Error("a state is taken for a value of an instance")
	}
	for _, token := range []string{"", "17", "17-", "-4", "017-4", "x-4", "17-4-1"} {
		if back, err := a.ParseStateObject(protocol.Object{Name: "=Desk/jo=40example=2Ecom=2Fa=2Eb/" + token + "/" + digest}); err == nil {
			t.Errorf("%q is taken for %+v", token, back)
		}
	}
}
