package porter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

func (p *Porter) client() client.Client { return client.Client{Store: p.Store} }

func (p *Porter) create(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, err := p.instance(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	create, err := checkCreate(v, at, time.Now())
	if err == nil {
		err = p.present(ctx, create.ParamsObject, protocol.OwnerOf(at, create.Input))
	}
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	outcome, incarnation, err := p.client().Create(ctx, at, create, v.request.Existing)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	testsignal.At(testsignal.PorterStored)
	return protocol.DoorAnswer{Outcome: outcomes[outcome], Incarnation: incarnation}, nil
}

var outcomes = map[client.Outcome]string{client.Found: protocol.OutcomeFound, client.Restarted: protocol.OutcomeRestarted}

func (p *Porter) event(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, there, err := p.there(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	event, err := checkEvent(v, time.Now())
	if err == nil {
		err = p.present(ctx, event.PayloadObject, protocol.OwnerOf(at, there.Create.Input))
	}
	if err == nil {
		err = p.client().Send(ctx, at, event)
	}
	testsignal.At(testsignal.PorterStored)
	return protocol.DoorAnswer{}, err
}

func (p *Porter) control(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, _, err := p.there(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	control, err := checkControl(v, time.Now())
	if err == nil {
		err = p.client().Steer(ctx, at, control)
	}
	testsignal.At(testsignal.PorterStored)
	return protocol.DoorAnswer{}, err
}

// there finds an instance that is there.
func (p *Porter) there(ctx context.Context, v *visit) (protocol.Instance, client.Presence, error) {
	at, err := p.instance(ctx, v)
	if err != nil {
		return at, client.Presence{}, err
	}
	there, err := p.client().Look(ctx, at)
	return at, there, err
}

func (p *Porter) look(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	_, there, err := p.there(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	return protocol.DoorAnswer{Incarnation: there.Incarnation, Input: there.Create.Input, Done: there.Done}, nil
}

// await waits for the end of an instance, and answers without it when the time is over.
func (p *Porter) await(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	if !v.patient {
		return p.look(ctx, v)
	}
	at, err := p.instance(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, min(time.Duration(v.request.Wait), client.MaxWait))
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	done, err := p.client().Await(waiting, at, v.request.Incarnation, false)
	if err != nil && waiting.Err() != nil {
		err = nil
	}
	return protocol.DoorAnswer{Incarnation: v.request.Incarnation, Done: done}, err
}

// end ends what a call of the caller has created.
func (p *Porter) end(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, err := p.instance(ctx, v)
	if err == nil {
		err = checkParent(v.Caller, v.request.Parent)
	}
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	parent := *v.request.Parent
	m, err := p.Store.Last(ctx, at.Stream(), at.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return protocol.DoorAnswer{}, nil
	}
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	var create protocol.Create
	if json.Unmarshal(m.Data, &create) != nil || create.Parent == nil || *create.Parent != parent {
		return protocol.DoorAnswer{}, nil // another has the id
	}
	control := parent.EndControl(create.Incarnation(m.Sequence), time.Now().UTC())
	return protocol.DoorAnswer{}, p.client().Steer(ctx, at, control)
}

// ended tells an instance of the project of the end of what it has called, if it waits for that.
func (p *Porter) ended(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, err := p.instance(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	e, err := checkEnded(v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	e.Parent.Shard = at.Shard
	there, err := p.client().Look(ctx, at)
	if errors.Is(err, client.ErrNotFound) || err == nil && there.Incarnation != e.Parent.Incarnation {
		return protocol.DoorAnswer{}, nil // nobody waits
	}
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	expected, err := p.Workflows.Expects(ctx, v.Caller, e)
	if !expected || err != nil {
		return protocol.DoorAnswer{}, err
	}
	if err := p.present(ctx, e.Done.OutputObject, protocol.OwnerOf(at, there.Create.Input)); err != nil {
		return protocol.DoorAnswer{Input: there.Create.Input}, err
	}
	event, err := e.Event(v.Caller)
	if err == nil {
		err = p.client().Send(ctx, at, event)
	}
	testsignal.At(testsignal.PorterStored)
	return protocol.DoorAnswer{}, err
}

// freshFor is how old a value may be that is not referred to yet: below the age at which it counts as forgotten.
const freshFor = 12 * time.Hour

// present refuses what refers to a value that the instance does not have.
func (p *Porter) present(ctx context.Context, object *protocol.Object, owner protocol.ObjectOwner) error {
	if object == nil {
		return nil
	}
	missing := &protocol.Failure{Name: protocol.FailureNoValue, Message: fmt.Sprintf("object %q was not handed over", object.Name)}
	if !owner.Owns(owner.Project, *object) {
		return missing
	}
	there, err := p.Objects.Known(ctx, owner.Project, object.Name)
	switch {
	case err != nil:
		return err
	case there == nil, there.Deleted, there.Size() != object.Size, time.Since(there.Put) > freshFor:
		return missing
	}
	return nil
}

// get gives the caller a part of a large value of an instance.
func (p *Porter) get(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, err := p.instance(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	if v.request.Get == nil {
		return protocol.DoorAnswer{}, refused("get is missing")
	}
	owner, _, err := protocol.ParseObjectName(at.Project, v.request.Get.Object.Name)
	if err != nil || owner.Workflow != at.Workflow || owner.ID != at.ID {
		return protocol.DoorAnswer{}, refused("object %q is none of instance %s", v.request.Get.Object.Name, at)
	}
	part, err := p.Objects.Part(ctx, at.Project, *v.request.Get)
	if missing, ok := errors.AsType[*objects.MissingError](err); ok {
		return protocol.DoorAnswer{}, &protocol.Failure{Name: protocol.FailureNoValue, Message: missing.Error()}
	}
	return protocol.DoorAnswer{Data: part.Data, Try: part.Try, After: part.After}, err
}

// ask lets a runner answer a question about an instance.
func (p *Porter) ask(v *visit, body []byte, place *place) []byte {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), within+client.MaxWait)
	defer cancel()
	var ask protocol.Ask
	err := json.Unmarshal(body, &ask)
	if err != nil {
		err = refused("the question cannot be read: %v", err)
	}
	if v.request.ID = ask.ID; err == nil {
		_, err = p.instance(ctx, v)
	}
	if err != nil {
		answer, _ := json.Marshal(protocol.Answer{V: protocol.Version, Error: p.failure(v.DoorSubject, err)}) // holds nothing that cannot be encoded
		return answer
	}
	ask.Workflow = v.Name
	if ask.Follow != nil && !place.wait() {
		ask.Follow.Wait = 0
	}
	return p.Workflows.Ask(ctx, ask)
}

// notice stores what a workflow of the caller's tells an agent of the project.
func (p *Porter) notice(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	n, err := checkNotice(v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	err = p.Notice(ctx, v.Caller, n)
	if errors.Is(err, journal.ErrFull) {
		err = busy("%v", err)
	}
	return protocol.DoorAnswer{}, err
}
