package janitor

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// leaseLooks is how many looks a janitor may miss until another takes its place.
	leaseLooks = 3
	// wrongClock is how many looks ahead nobody can mean: a row that says so was written by a clock that is wrong.
	wrongClock = 10
)

// mine reports whether this janitor is the one that cleans up after a project, and says so for the time of some looks.
// It is no lock: it keeps several from doing the same. Held is what holds up the cleaning, for whoever reads the row.
func (j *Janitor) mine(ctx context.Context, project, held string) (bool, error) {
	stream, subject := protocol.KVStream(protocol.BucketJanitors), protocol.KVSubject(protocol.BucketJanitors, project)
	now := time.Now().UTC()
	m, err := j.Store.Last(ctx, stream, subject)
	sequence := uint64(0)
	switch {
	case err == nil:
		sequence = m.Sequence
		var row protocol.Janitor
		if json.Unmarshal(m.Data, &row) != nil || row.Owner == j.ID {
			break
		}
		if left := row.Until.Sub(now); left > 0 && left < wrongClock*j.Every {
			return false, nil
		}
	case !errors.Is(err, journal.ErrNotFound):
		return false, err
	}
	body, err := json.Marshal(protocol.Janitor{
		V: protocol.Version, ID: uuid.NewString(), Owner: j.ID, Until: now.Add(leaseLooks * j.Every), Held: held,
	})
	if err != nil {
		return false, err
	}
	_, err = j.Store.Append(ctx, stream, subject, sequence, body)
	if errors.Is(err, journal.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
