package porter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxTransfers is how many values one caller may hand over at a time to one process.
	maxTransfers = 8
	// idleFor is how long a transfer waits for its next part, transferFor how long it may take.
	idleFor     = 30 * time.Second
	transferFor = 10 * time.Minute
	// storeWithin bounds how long it may take to store a value whose parts are all there.
	storeWithin = 5 * time.Second
)

// transfers are the values that are being handed over. The zero value works.
type transfers struct {
	mu   sync.Mutex // guards what follows, and the transfers
	open map[string]*transfer
}

// transfer is one value on its way.
type transfer struct {
	caller string
	news   bool
	owner  protocol.ObjectOwner
	put    protocol.DoorPut
	begun  time.Time
	seen   time.Time
	data   []byte
	// busy is set while a part is stored or the whole is.
	busy bool
}

// put begins to take a value, or says that it is there.
func (p *Porter) put(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	at, err := p.instance(ctx, v)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	put := v.request.Put
	if put == nil {
		return protocol.DoorAnswer{}, refused("put is missing")
	}
	owner := protocol.ObjectOwner{Project: at.Project, Workflow: at.Workflow, ID: at.ID, Token: put.Token}
	object := protocol.Object{Name: owner.ObjectName(put.Digest), Size: put.Size}
	switch {
	case !owner.Owns(at.Project, object):
		return protocol.DoorAnswer{}, refused("put: %.200q is no name of a value", object.Name)
	case put.Size <= protocol.InlinePayload || put.Size > p.MaxValue:
		return protocol.DoorAnswer{}, refused("put: a value of %d bytes, project %q takes those of %d to %d", put.Size, p.Project, protocol.InlinePayload+1, p.MaxValue)
	}
	there, err := p.Objects.Known(ctx, at.Project, object.Name)
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	if there != nil && !there.Deleted && there.Size() == object.Size && time.Since(there.Put) < freshFor/2 {
		return protocol.DoorAnswer{Object: &object}, nil
	}
	id, err := p.goods.begin(&transfer{caller: v.Caller, news: v.News, owner: owner, put: *put}, p.MaxValue, time.Now())
	return protocol.DoorAnswer{Transfer: id, Server: p.id}, err
}

// begin opens a transfer if its caller has room for it: for as many bytes as the largest value has.
func (t *transfers) begin(one *transfer, limit int64, now time.Time) (id string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	count, size := 0, one.put.Size
	for id, other := range t.open {
		if idle := now.Sub(other.seen) > idleFor || now.Sub(other.begun) > transferFor; idle && !other.busy {
			delete(t.open, id)
		} else if other.caller == one.caller {
			count, size = count+1, size+other.put.Size
		}
	}
	if count >= maxTransfers || size > limit {
		return "", busy("project %q hands over %d values already", one.caller, count)
	}
	if t.open == nil {
		t.open = map[string]*transfer{}
	}
	id = uuid.NewString()
	one.begun, one.seen = now, now
	t.open[id] = one
	return id, nil
}

// part takes a part of a value. When it is the last one, the value is checked and stored.
func (p *Porter) part(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	if v.request.Part == nil {
		return protocol.DoorAnswer{}, refused("part is missing")
	}
	t, err := p.goods.add(v, time.Now())
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	if missing := t.put.Size - int64(len(t.data)); missing > 0 {
		from := int64(len(t.data))
		p.goods.rest(v.request.Part.Transfer, t, missing > 0)
		return protocol.DoorAnswer{From: from}, nil
	}
	object, err := p.store(ctx, t)
	p.goods.rest(v.request.Part.Transfer, t, false)
	return protocol.DoorAnswer{Object: object}, err
}

// add takes what is new in a part. The transfer is the caller's of add until it comes to rest.
func (t *transfers) add(v *visit, now time.Time) (*transfer, error) {
	part := v.request.Part
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.open[part.Transfer]
	switch {
	case one == nil || one.caller != v.Caller || one.news != v.News:
		return nil, &protocol.Failure{Name: protocol.FailureNotFound, Message: "no such value is being handed over, or not any more"}
	case one.busy:
		return nil, busy("another part of the value is being taken")
	case len(part.Data) > protocol.MaxDoorPart || part.From < 0 || part.From > int64(len(one.data)) || part.From+int64(len(part.Data)) > one.put.Size:
		delete(t.open, part.Transfer)
		return nil, refused("part: %d bytes from %d on, of a value of %d bytes of which %d are there", len(part.Data), part.From, one.put.Size, len(one.data))
	}
	if known := int64(len(one.data)) - part.From; known < int64(len(part.Data)) {
		one.data = append(one.data, part.Data[known:]...)
	}
	one.seen, one.busy = now, true
	return one, nil
}

// rest lets a transfer wait for its next part, or ends it.
func (t *transfers) rest(id string, one *transfer, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.busy = false
	if !more {
		delete(t.open, id)
	}
}

// store stores a value that is whole, if it is what was announced.
func (p *Porter) store(ctx context.Context, t *transfer) (*protocol.Object, error) {
	if sum := sha256.Sum256(t.data); hex.EncodeToString(sum[:]) != t.put.Digest {
		return nil, refused("put: the value is another than was announced")
	}
	if !json.Valid(t.data) {
		return nil, refused("put: the value is no JSON")
	}
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	object, err := p.Objects.Put(ctx, objects.Value{Owner: t.owner, JSON: t.data})
	if err != nil {
		return nil, fmt.Errorf("take a value of project %q: %w", t.caller, err)
	}
	return object, nil
}
