package agent

import (
	"context"
	"iter"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// rowPage is how many rows are read at a time.
const rowPage = 100

// rowsOf reads the rows of a bucket that a pattern matches, by their keys. One that is put there or taken away meanwhile may
// be missing.
func rowsOf(ctx context.Context, store *journal.Store, bucket bucket, wanted string) iter.Seq2[journal.Message, error] {
	return func(yield func(journal.Message, error) bool) {
		for offset := 0; ; {
			listing, err := store.Subjects(ctx, bucket.stream, wanted, offset)
			if err != nil {
				yield(journal.Message{}, err)
				return
			}
			if !pageOf(ctx, store, bucket, listing.Subjects, yield) {
				return
			}
			offset += len(listing.Subjects)
			if len(listing.Subjects) == 0 || offset >= listing.Total {
				return
			}
		}
	}
}

// pageOf yields the rows of some subjects. It returns false if there is to be no more.
func pageOf(ctx context.Context, store *journal.Store, bucket bucket, subjects []string, yield func(journal.Message, error) bool) bool {
	for size := rowPage; len(subjects) > 0; {
		size = min(size, len(subjects))
		batch, err := store.LastOfMany(ctx, bucket.stream, subjects[:size])
		if err != nil {
			yield(journal.Message{}, err)
			return false
		}
		if batch.Cut && size > 1 {
			size = max(size/4, 1)
			continue
		}
		found := map[string]journal.Message{}
		for _, m := range batch.Messages {
			found[m.Subject] = m
		}
		for _, subject := range subjects[:size] {
			m, ok := found[subject]
			if !ok || m.Header.Get(protocol.HeaderKVOperation) != "" {
				continue // taken away
			}
			if !yield(m, nil) {
				return false
			}
		}
		subjects = subjects[size:]
	}
	return true
}
