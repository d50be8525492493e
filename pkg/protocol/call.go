package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// Ids of what calls store are derived: whoever does it again, in another run or process, does the same.

// Instance is the instance that calls.
func (p Parent) Instance() Instance {
	return Instance{Project: p.Project, Shard: p.Shard, Workflow: p.Workflow, ID: p.ID}
}

// Instance is the instance that is called.
func (c Callee) Instance() Instance {
	return Instance{Project: c.Project, Shard: c.Shard, Workflow: c.Workflow, ID: c.ID}
}

// ChildID is the id of the instance that a call makes if its code names none.
func (p Parent) ChildID() string { return DerivedID(p.ID, p.Instance().String(), p.Call) }

// CreateInput is the input id of the create of the instance that the call makes.
func (p Parent) CreateInput() string { return "call/" + p.Instance().String() + "/" + p.Call }

// EndInput is the input id of the control that ends the instance because its caller does not wait for it any more.
func (p Parent) EndInput() string { return "end/" + p.Instance().String() + "/" + p.Call }

// EndControl ends what the call has created, if it goes by incarnation.
func (p Parent) EndControl(incarnation uint64, now time.Time) Control {
	return Control{
		V: Version, Input: p.EndInput(), Action: ActionTerminate, Sent: now, Incarnation: incarnation,
		Source: Source{Kind: "call", Project: p.Project, Class: p.Workflow, Name: p.ID},
	}
}

// CallbackInput is the input id of the event by which an instance tells its caller of its end. An instance that was
// restarted ends more than once. It begins as no id does that a user chooses.
func CallbackInput(child Instance, done Done) string {
	return callPrefix + "done/" + child.String() + "/" + strconv.FormatUint(done.Incarnation, 10) + "." + strconv.Itoa(done.Epoch) + "." +
		strconv.FormatUint(done.Log, 10)
}

// maxIDPrefix leaves room in MaxInstanceID for a dash and the digits of a derived id.
const maxIDPrefix = 60

// DerivedID makes the id of an instance from what causes it: prefix is what people recognize it by, the parts are
// what tells it apart from all others. The prefix must be an id of an instance.
func DerivedID(prefix string, parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part) // a hash never fails to be written
	}
	return prefix[:min(len(prefix), maxIDPrefix)] + "-" + hex.EncodeToString(h.Sum(nil)[:10])
}
