package doctor

import (
	"context"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// roundsRate is how many messages a second are read at most while nobody waits for what comes of it.
const roundsRate = 1000

// Rounds looks at all instances of a project once, gives those something to go on with that have lost it, and logs which those were. A
// scheduler does that now and then, so that what NATS loses need not wait for a person.
func Rounds(ctx context.Context, store *journal.Store, row protocol.Project, log *slog.Logger) error {
	return rounds(ctx, store, row, log, 0)
}

func rounds(ctx context.Context, store *journal.Store, row protocol.Project, log *slog.Logger, patience time.Duration) error {
	_, err := New(Options{
		Store: store, Project: row, Repair: true, Rate: roundsRate, Patience: patience,
		Found: func(f Finding) error {
			attrs := []any{logkey.Project, row.Name, logkey.Kind, string(f.Kind), logkey.Instance, f.Subject, "problem", f.Problem}
			if f.Repaired != "" {
				log.WarnContext(ctx, "an instance had lost what it needs to go on, and has got it again", append(attrs, "repaired", f.Repaired)...)
				return nil
			}
			log.ErrorContext(ctx, "an instance has lost what it needs to go on: see skein doctor", append(attrs, logkey.Error, f.Failed)...)
			return nil
		},
	}).ExamineInstances(ctx)
	return err
}
