package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

type rig struct {
	*Store
	t  *testing.T
	js jetstream.JetStream
}

func newRig(t *testing.T, nc *nats.Conn, replicas int) rig {
	t.Helper()
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{Replicas: replicas}); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	return rig{Store: New(j), t: t, js: js}
}

// fresh is the same store as another process sees it.
func (r rig) fresh() *Store { return New(r.journal) }

func owner(id, input string) protocol.ObjectOwner {
	return protocol.OwnerOf(protocol.Instance{Project: "p", Workflow: "w", ID: id}, input)
}

// random is JSON of a size that differs from chunk to chunk.
func random(size int) json.RawMessage {
	raw := make([]byte, size/2)
	_, _ = rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(raw) // it never fails
	b := append([]byte(`"`), hex.EncodeToString(raw)...)
	return append(append(b, "xx"...)[:size-1], '"')
}

func (r rig) put(o protocol.ObjectOwner, value json.RawMessage) protocol.Object {
	r.t.Helper()
	object, err := r.Put(r.t.Context(), Value{Owner: o, JSON: value})
	if err != nil {
		r.t.Fatal(err)
	}
	return *object
}

func (r rig) gets(object protocol.Object, want json.RawMessage) {
	r.t.Helper()
	got, err := r.fresh().Get(r.t.Context(), "p", object)
	if err != nil || !bytes.Equal(got, want) {
		r.t.Errorf("%s is %d bytes, %v; want %d", object.Name, len(got), err, len(want))
	}
}

func (r rig) missing(object protocol.Object) {
	r.t.Helper()
	_, err := r.fresh().Get(r.t.Context(), "p", object)
	if m, ok := errors.AsType[*MissingError](err); !ok || m.Name != object.Name {
		r.t.Errorf("%s: %v, want a *MissingError", object.Name, err)
	}
}

// subjects is what the store holds of an owner, and in all.
func (r rig) messages() uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), protocol.ObjectsStream("p"))
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestValuesComeBackAsTheyWerePut(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	for _, size := range []int{2, chunkSize - 1, chunkSize, chunkSize + 1, 10*chunkSize + 7, 3 << 20} {
		value := random(size)
		object := r.put(owner("a", "in-1"), value)
		if object.Size != int64(size) {
			t.Errorf("size %d, want %d", object.Size, size)
		}
		r.gets(object, value)
	}
	same := json.RawMessage(`"` + strings.Repeat("x", 5*chunkSize) + `"`) // all chunks are alike
	r.gets(r.put(owner("a", "in-1"), same), same)
}

func TestPuttingAgainStoresNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	value := random(3 * chunkSize)
	first := r.put(owner("a", "in-1"), value)
	before := r.messages()
	if again := r.put(owner("a", "in-1"), value); again != first || r.messages() != before {
		t.Errorf("put again: %+v with %d messages, want %+v with %d", again, r.messages(), first, before)
	}
	if other := r.put(owner("b", "in-1"), value); other.Name == first.Name {
		t.Error("two instances share an object")
	}
}

// TestAnyClientReadsTheStore: the NATS CLI is how people look into it.
func TestAnyClientReadsTheStore(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	value := random(3*chunkSize + 1)
	object := r.put(owner("a", "in-1"), value)
	bucket, err := r.js.ObjectStore(t.Context(), protocol.ObjectsBucket("p"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bucket.GetBytes(t.Context(), object.Name); err != nil || !bytes.Equal(got, value) {
		t.Errorf("another client reads %d bytes, %v", len(got), err)
	}
	if list, err := bucket.List(t.Context()); err != nil || len(list) != 1 || list[0].Name != object.Name {
		t.Errorf("another client lists %v, %v", list, err)
	}
}

func TestManyPutTheSame(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	value := random(5 * chunkSize)
	var all sync.WaitGroup
	objects := make([]protocol.Object, 8)
	for n := range objects {
		all.Go(func() { objects[n] = r.put(owner("a", "in-1"), value) })
	}
	all.Wait()
	for _, o := range objects {
		r.gets(o, value)
	}
	if n := r.messages(); n != 6 {
		t.Errorf("%d messages are left, want 5 chunks and what is known of them", n)
	}
}

// putting puts in the background, and returns when some of it is in the store.
func (r rig) putting(ctx context.Context, value json.RawMessage) <-chan error {
	r.t.Helper()
	before := r.messages()
	put := make(chan error, 1)
	go func() {
		_, err := r.Put(ctx, Value{Owner: owner("a", "in-1"), JSON: value})
		put <- err
	}()
	natstest.Eventually(r.t, natstest.Patience, "some of it is in the store", func() bool { return r.messages() > before+3 })
	return put
}

// TestWriterDies leaves half a value behind.
func TestWriterDies(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	var value json.RawMessage
	size := 100 * chunkSize
	natstest.Eventually(t, natstest.Patience, "a writer dies before it is done", func() bool {
		size++ // another value: the one before may have been put while nobody looked
		value = random(size)
		ctx, cancel := context.WithCancel(t.Context())
		put := r.putting(ctx, value)
		cancel()
		err := <-put
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("put is %v", err)
		}
		return err != nil
	})
	sum := sha256.Sum256(value)
	r.missing(protocol.Object{Name: owner("a", "in-1").ObjectName(hex.EncodeToString(sum[:])), Size: int64(len(value))})
	r.gets(r.put(owner("a", "in-1"), value), value)
	if err := r.DeleteInstance(t.Context(), owner("a", "in-1")); err != nil || r.messages() != 0 {
		t.Errorf("%d messages are left, %v", r.messages(), err)
	}
}

func TestServerRestartsMeanwhile(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	r := newRig(t, server.Connect(t), 1)
	value := random(100 * chunkSize)
	put := r.putting(t.Context(), value)
	server.Restart(t)
	if err := <-put; err != nil {
		t.Fatal(err)
	}
	r.gets(r.put(owner("a", "in-1"), value), value)
}

func TestOnThreeServers(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	r := newRig(t, cluster.Connect(t), 3)
	values := make([]json.RawMessage, 6)
	for n := range values {
		values[n] = random(10*chunkSize + n)
		object := r.put(owner("a", "in-1"), values[n])
		if n%2 == 0 {
			cluster.MoveLeader(t, protocol.ObjectsStream("p"))
		}
		r.gets(object, values[n])
	}
}

func TestDeleteTakesOneIncarnation(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	value, other := random(2*chunkSize), random(3*chunkSize)
	gone := []protocol.Object{r.put(owner("a", "in-1"), value), r.put(owner("a", "in-1"), other)}
	stays := []protocol.Object{r.put(owner("a", "in-2"), value), r.put(owner("b", "in-1"), value)}
	for range 2 {
		if err := r.DeleteInstance(t.Context(), owner("a", "in-1")); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range gone {
		r.missing(o)
	}
	for _, o := range stays {
		r.gets(o, value)
	}
	r.gets(r.put(owner("a", "in-1"), value), value)
}

func TestCopyOutlivesItsSource(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	value := random(2 * chunkSize)
	child := r.put(owner("child", "in-1"), value)
	copied, err := r.Copy(t.Context(), "p", child, owner("parent", "in-2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteInstance(t.Context(), owner("child", "in-1")); err != nil {
		t.Fatal(err)
	}
	r.missing(child)
	r.gets(*copied, value)
}

// TestDamage: what comes back is what was put, or an error.
func TestDamage(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Start(t).Connect(t), 1)
	object := r.put(owner("a", "in-1"), random(3*chunkSize))
	for name, wrong := range map[string]protocol.Object{
		"another size": {Name: object.Name, Size: object.Size + 1},
		"no such name": {Name: object.Name[:len(object.Name)-1] + "0", Size: object.Size},
		"no name":      {Name: "x", Size: object.Size},
	} {
		t.Run(name, func(t *testing.T) { r.missing(wrong) })
	}
	s, err := r.js.Stream(t.Context(), protocol.ObjectsStream("p"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSubject(protocol.ObjectChunkSubjects("p")), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	r.missing(object)
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := cache{limit: 10}
	c.add("p", "a", json.RawMessage("12345"))
	c.add("p", "b", json.RawMessage("12345"))
	c.get("p", "a")
	c.add("p", "c", json.RawMessage("1234"))
	c.add("p", "large", json.RawMessage("12345678901"))
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "large": false} {
		if _, ok := c.get("p", name); ok != want {
			t.Errorf("%s is in the cache: %t, want %t", name, ok, want)
		}
	}
	c.remove("p", "a")
	if _, ok := c.get("p", "a"); ok || c.size != 4 || len(c.entries) != 1 {
		t.Errorf("after a removal: %d bytes, %d entries", c.size, len(c.entries))
	}
}
