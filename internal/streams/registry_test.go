package streams_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestRegistrationsOfManyProcessesAreMerged(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js := newJetStream(t, s.Connect(t))
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	const n = 12
	var g errgroup.Group
	for i := range n {
		js := newJetStream(t, s.Connect(t))
		g.Go(func() error {
			return errors.Join(
				streams.RegisterWorkflows(t.Context(), js, "shop", 2, map[string]string{fmt.Sprint("w", i): "Order"}),
				streams.RegisterAgents(t.Context(), js, "shop", []string{fmt.Sprint("A", i)}))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	row, err := streams.LookUp(t.Context(), js, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Workflows) != n || len(row.Agents) != n || row.Shards != 2 || row.Name != "shop" || row.V != protocol.Version {
		t.Errorf("row %+v", row)
	}
	if got := row.Workflows["w3"]; got.Class != "Order" || got.Registered.IsZero() {
		t.Errorf("workflow w3 is %+v", got)
	}
}

func TestRegisteringTheSameAgainWritesNothing(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"w": "Order"}); err != nil {
			t.Fatal(err)
		}
	}
	kv, err := js.KeyValue(t.Context(), protocol.BucketProjects)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "shop")
	if err != nil || entry.Revision() != 1 {
		t.Fatalf("entry %+v, error %v", entry, err)
	}
	if err := streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"w": "Renamed"}); err != nil {
		t.Fatal(err)
	}
	row, err := streams.LookUp(t.Context(), js, "shop")
	if err != nil || row.Workflows["w"].Class != "Renamed" {
		t.Fatalf("row %+v, error %v", row, err)
	}
}

func TestShardsAreFixed(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	// Agents may come first: they do not know the number.
	if err := streams.RegisterAgents(t.Context(), js, "shop", []string{"Desk"}); err != nil {
		t.Fatal(err)
	}
	if err := streams.RegisterWorkflows(t.Context(), js, "shop", 4, map[string]string{"w": "Order"}); err != nil {
		t.Fatal(err)
	}
	err := streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"v": "Order"})
	shards, ok := errors.AsType[*streams.ShardsError](err)
	if !ok || shards.Found != 4 || shards.Wanted != 1 || shards.Project != "shop" {
		t.Fatalf("error is %v", err)
	}
}

func TestUnknownProjects(t *testing.T) {
	t.Parallel()
	js := setup(t)
	check := func(when string) {
		t.Helper()
		if _, err := streams.LookUp(t.Context(), js, "shop"); !errors.Is(err, streams.ErrUnknownProject) {
			t.Errorf("%s: error is %v", when, err)
		}
		if rows, err := streams.Projects(t.Context(), js); err != nil || len(rows) != 0 {
			t.Errorf("%s: projects %v, error %v", when, rows, err)
		}
	}
	check("no registry")
	if err := streams.RegisterAgents(t.Context(), js, "shop", []string{"Desk"}); err == nil {
		t.Error("registered without a registry")
	}
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	check("empty registry")
	for _, name := range []string{"shop", "bank"} {
		if err := streams.RegisterAgents(t.Context(), js, name, nil); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := streams.Projects(t.Context(), js)
	if err != nil || len(rows) != 2 || rows[0].Name != "bank" || rows[1].Name != "shop" {
		t.Fatalf("projects %v, error %v", rows, err)
	}
	kv, err := js.KeyValue(t.Context(), protocol.BucketProjects)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shop", "bank"} {
		if err := kv.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	check("all deleted")
	if err := streams.RegisterAgents(t.Context(), js, "shop", []string{"Desk"}); err != nil {
		t.Errorf("registered after a deletion: %v", err)
	}
}

func TestNewerRowIsRefused(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), protocol.BucketProjects)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "shop", `{"v":99,"name":"shop"}`); err != nil {
		t.Fatal(err)
	}
	if err := streams.RegisterAgents(t.Context(), js, "shop", []string{"Desk"}); err == nil {
		t.Error("a row of a newer version was overwritten")
	}
}

// TestFixShards: the first one decides, and who does not mind gets what there is.
func TestFixShards(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := streams.EnsureProjects(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		project      string
		wanted, have int
	}{{"shop", 4, 4}, {"shop", 0, 4}, {"shop", 4, 4}, {"plain", 0, 1}, {"plain", 1, 1}, {"most", protocol.MaxShards, protocol.MaxShards}} {
		if n, err := streams.FixShards(t.Context(), js, row.project, row.wanted); err != nil || n != row.have {
			t.Errorf("%s wants %d: has %d, %v; want %d", row.project, row.wanted, n, err, row.have)
		}
	}
	for project, wanted := range map[string]int{"shop": 1, "plain": 4, "few": -1, "many": protocol.MaxShards + 1} {
		_, err := streams.FixShards(t.Context(), js, project, wanted)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("shards: \"%d\"", wanted)) {
			t.Errorf("%s wants %d: error is %v", project, wanted, err)
		}
	}
	_, err := streams.FixShards(t.Context(), js, "shop", 1)
	if _, ok := errors.AsType[*streams.ShardsError](err); !ok || !strings.Contains(err.Error(), "set shards to 4, or leave it out") {
		t.Errorf("error is %v", err)
	}
	if _, err := streams.LookUp(t.Context(), js, "many"); !errors.Is(err, streams.ErrUnknownProject) {
		t.Errorf("what is refused is registered: %v", err)
	}
}
