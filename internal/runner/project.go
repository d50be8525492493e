package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// announce projects the end of an instance. Announcing it again is harmless.
func (r *Runner) announce(ctx context.Context, instance protocol.Instance, done protocol.Done) error {
	body, err := json.Marshal(done)
	if err != nil {
		return fmt.Errorf("announce %s: %w", instance, err)
	}
	_, err = r.Store.Publish(ctx, instance.DoneSubject(), nil, body)
	return err
}

// arm projects the timer of a park that has an end. Arming it again replaces it by itself.
func (r *Runner) arm(ctx context.Context, instance protocol.Instance, incarnation, park uint64, until *time.Time) error {
	if until == nil {
		return nil
	}
	body, err := json.Marshal(protocol.Timer{
		V: protocol.Version, Workflow: instance.Workflow, ID: instance.ID, Incarnation: incarnation, Park: park, Due: *until,
	})
	if err != nil {
		return fmt.Errorf("arm the timer of %s: %w", instance, err)
	}
	_, err = r.Store.Publish(ctx, instance.TimerSubject(park), nats.Header{
		protocol.HeaderSchedule:       {"@at " + until.UTC().Format(time.RFC3339Nano)},
		protocol.HeaderScheduleTarget: {instance.DueSubject(park)},
		protocol.HeaderRollup:         {protocol.RollupSubject},
	}, body)
	return err
}

// disarm takes back the timer of a park that was left before its end. It is not waited for: a timer of an older park
// fires in vain.
func (r *Runner) disarm(instance protocol.Instance, park uint64, until *time.Time) {
	if until == nil || r.Now().After(*until) {
		return
	}
	m := nats.NewMsg(instance.TimerSubject(park))
	m.Header.Set(protocol.HeaderRollup, protocol.RollupSubject)
	m.Header.Set(protocol.HeaderTTL, "1s")
	_ = r.nc.PublishMsg(m)
}

// watchTimers publishes timers again that should have fired and did not, because NATS had no room at that moment.
func (r *Runner) watchTimers(ctx context.Context) {
	r.Store.WatchFirings(ctx, protocol.TimersStream(r.Project), protocol.ArmSubjects(r.Project), func(fired int, err error) {
		if err != nil {
			r.Log.WarnContext(ctx, "cannot look for timers that have not fired", logkey.Error, err)
			return
		}
		r.Log.WarnContext(ctx, "timers were overdue, as after a time when NATS had no room or was down, and were armed again", logkey.Count, fired)
	})
}
