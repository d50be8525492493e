package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// entryAt is a claim of an instance, or the park that ends what the last one began, at a second.
type entryAt struct {
	shard  int
	second float64
	id     string
	parks  bool
}

// logs records these entries, those of each shard in the order in which they come.
func logs(entries []entryAt) *Recorded {
	rec := &Recorded{Projects: []string{work.South}, Shards: map[string]int{work.South: 3}, Streams: map[string][]journal.Message{}}
	for n, e := range entries {
		at := protocol.Instance{Project: work.South, Shard: e.shard, Workflow: work.Few, ID: e.id}
		kind := protocol.EntryClaimed
		if e.parks {
			kind = protocol.EntryParked
		}
		body, err := json.Marshal(protocol.Append{V: 1, ID: fmt.Sprint(n), Entries: []protocol.Entry{{Kind: kind}}})
		if err != nil {
			panic(err)
		}
		all := rec.Streams[at.Stream()]
		rec.Streams[at.Stream()] = append(all, journal.Message{Subject: at.LogSubject(), Sequence: uint64(len(all) + 1), Time: second(e.second), Data: body})
	}
	return rec
}

func second(s float64) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
}

// TestLimitsAcrossShards: of the entries of several streams only time says which came first, as far as clocks were right; of those of one
// stream its order does, whatever clocks say. What may have happened within the limit is no violation, what cannot is one.
func TestLimitsAcrossShards(t *testing.T) {
	t.Parallel()
	back := Clock{From: second(9), To: second(13), Off: -3 * time.Second}
	forth := Clock{From: second(9), To: second(13), Off: 3 * time.Second}
	claims := func(shard int, at float64, id string) entryAt { return entryAt{shard, at, id, false} }
	parks := func(shard int, at float64, id string) entryAt { return entryAt{shard, at, id, true} }
	for _, test := range []struct {
		name    string
		clocks  []Clock
		entries []entryAt
		wrong   bool
	}{
		{"three in one shard", nil, []entryAt{claims(0, 1, "a"), claims(0, 2, "b"), claims(0, 3, "c"), parks(0, 4, "a")}, true},
		{"three in three shards", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 3, "c"), parks(0, 4, "a"), parks(1, 4, "b"), parks(2, 4, "c")}, true},
		{"three that never end", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 3, "c")}, true},
		{"the third after the first", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), parks(0, 3, "a"), claims(2, 4, "c")}, false},
		{"the third at the end of the first", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), parks(0, 3, "a"), claims(2, 3, "c")}, false},
		{"two pairs that overlap, and no three", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), parks(0, 3, "a"), claims(2, 4, "c"), parks(1, 5, "b"), claims(0, 6, "d")}, false},
		// A clock that was three seconds behind has dated some of it: there are two orders.
		{"the clock of the third may have been behind", []Clock{back}, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 9, "c"), parks(0, 11, "a")}, false},
		{"it cannot have been so far behind", []Clock{back}, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 9, "c"), parks(0, 13, "a")}, true},
		{"it was not behind any more", []Clock{back}, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 15, "c"), parks(0, 16, "a")}, true},
		{"it was not ahead", []Clock{back}, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 11, "c"), parks(0, 15, "a")}, true},
		{"it was behind where the first ended", []Clock{back}, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), parks(0, 7, "a"), claims(2, 6.8, "c")}, false},
		// What one stream says narrows what clocks leave open.
		{"one stream is in order where its clock was put back", []Clock{back}, []entryAt{claims(0, 11, "a"), claims(0, 8, "b"), claims(0, 12, "c"), parks(0, 9, "a")}, true},
		{"one stream is in order, and has room", []Clock{back}, []entryAt{claims(0, 11, "a"), claims(0, 12, "b"), parks(0, 8, "a"), claims(0, 9, "c")}, false},
		{"the next message of its stream shows when the third came", []Clock{back},
			[]entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 9, "c"), parks(2, 6.5, "c"), parks(0, 11, "a")}, true},
		{"the message before it in its stream shows when the first ended", []Clock{forth},
			[]entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(2, 10.5, "c"), claims(0, 10.9, "a"), parks(0, 11.5, "a")}, true},
		{"a clock was off that nobody told of", nil, []entryAt{claims(0, 1, "a"), claims(1, 2, "b"), claims(0, 20, "a"), parks(0, 10, "a"), claims(2, 15, "c")}, false},
	} {
		rec := logs(test.entries)
		rec.Clocks = test.clocks
		found := Judge(rec).Violations
		wrong := slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == Limited })
		if wrong != test.wrong {
			t.Errorf("%s: reported: %v, want %v", test.name, wrong, test.wrong)
		}
	}
}
