package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// MaxHeartbeat is the most bytes that the details of a heartbeat may have as JSON.
const MaxHeartbeat = 32 << 10

// Heartbeat tells that the body of a step is alive, and how far it has come: the details, any JSON of at most
// MaxHeartbeat bytes, are what the next attempt finds in [Attempt.Heartbeat], after a failure of this one and after the
// death of its runner. It may be called as often as one likes: at most one entry of the log is made per half of the
// step's [HeartbeatTimeout], and never more often than once per second or less often than every 30 s. So after a death
// the next attempt may find what was said up to that long before; after a failure it finds what was said last.
//
// It returns an error if the attempt is over (the cause with which its context ended), if the details cannot be stored
// ([*EncodingError], [*SizeError]), or outside of a body (ErrNoBody). A body may return it.
func Heartbeat(ctx context.Context, details any) error {
	a := execution.AttemptFrom(ctx)
	if a == nil {
		return execution.ErrNoBody
	}
	what := fmt.Sprintf("heartbeat of step %q", a.Name)
	raw, err := json.Marshal(details)
	if err != nil {
		return hide(&EncodingError{What: what, Err: err}, a.Config.Sensitive)
	}
	if len(raw) > MaxHeartbeat {
		return &SizeError{What: what, Size: int64(len(raw)), Limit: MaxHeartbeat}
	}
	return execution.Heartbeat(ctx, raw)
}

// HeartbeatTimeout lets an attempt of a step fail that does not call [Heartbeat] for so long: its context ends, and it
// is tried again like after any other failure, which is named HeartbeatError. The default is none.
func HeartbeatTimeout(d time.Duration) StepOption { return heartbeatTimeout(d) }

type heartbeatTimeout time.Duration

func (h heartbeatTimeout) applyStep(o *stepOptions) error {
	o.config.Heartbeat = protocol.Duration(h)
	return checkDuration("HeartbeatTimeout", time.Duration(h))
}

// Heartbeat decodes into v what an earlier attempt of the step said last with [Heartbeat]; ok is false if none said
// anything.
func (a Attempt) Heartbeat(v any) (ok bool, err error) {
	if a.heartbeat == "" {
		return false, nil
	}
	if err := json.Unmarshal([]byte(a.heartbeat), v); err != nil {
		return false, hide(&EncodingError{What: fmt.Sprintf("heartbeat of step %q", a.Step), Err: err}, a.Config.Sensitive)
	}
	return true, nil
}
