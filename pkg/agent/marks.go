package agent

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxSources bounds the sources of mail that one record keeps marks of.
	maxSources = 4096
	// agedAfter is how long the mark of a sender is kept at least after its last mail: no copy of what it has sent is on its
	// way for so long. manySources is from how many on marks of senders age at all.
	agedAfter   = 7 * 24 * time.Hour
	manySources = 256
)

// SourcesError says that an agent keeps marks of as many schedules and other sources of mail as it may.
type SourcesError struct {
	Class string
	Agent string
	// Source is that of the mail that cannot be applied.
	Source string
	Limit  int
}

func (e *SourcesError) Error() string {
	return fmt.Sprintf("agent %q of class %q has %d schedules and senders of mail in %s, more are not allowed: no room for mail of %q",
		e.Agent, e.Class, e.Limit, agedAfter, e.Source)
}

// FailureName is how the error is called where it is stored or answered.
func (e *SourcesError) FailureName() string { return "SourcesError" }

// mark is the highest number that was applied of a source of mail, and whether the record knows the source.
func mark(r protocol.Record, source string) (uint64, bool) {
	if n, ok := r.Seen[source]; ok {
		return n, true
	}
	n, ok := r.Aged[source]
	return n, ok
}

// ages reports whether a source is a sender of which no more may come: its mark goes some time after its last mail. What
// the agent knows as its own (schedules, its queue) is forgotten when it is over, and not before.
func ages(source string) bool {
	if _, ofProject, other := strings.Cut(source, ":"); other {
		source = ofProject
	}
	for _, sender := range []string{protocol.SourcesOfAgents, protocol.SourcesOfKeys, protocol.SourcesOfBackfills} {
		if strings.HasPrefix(source, sender) {
			return true
		}
	}
	return false
}

// kept are the aged marks that are not to be forgotten at the next commit.
func kept(r protocol.Record, now time.Time) map[string]uint64 {
	if r.AgedSince != nil && now.Sub(*r.AgedSince) >= agedAfter {
		return nil
	}
	return r.Aged
}

// age makes the marks of a record those that are stored now: of many senders, those that were silent for long are
// forgotten. Those heard of since AgedSince stand in Seen, the others in Aged; when the latter are old enough to be
// forgotten, the former take their place.
func age(r *protocol.Record, now time.Time) {
	old := maps.Clone(kept(*r, now))
	maps.DeleteFunc(old, func(source string, _ uint64) bool { _, heard := r.Seen[source]; return heard })
	r.Aged = old
	if r.AgedSince != nil && now.Sub(*r.AgedSince) < agedAfter || len(r.Seen)+len(old) < manySources {
		return
	}
	young := map[string]uint64{}
	if old == nil {
		old = map[string]uint64{}
	}
	for source, n := range r.Seen {
		if ages(source) {
			old[source] = n
		} else {
			young[source] = n
		}
	}
	r.Seen, r.Aged, r.AgedSince = young, old, &now
}
