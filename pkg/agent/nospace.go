package agent

import (
	"net/http"
	"time"

	"github.com/skein-run/skein/internal/journal"
)

// ErrNoSpace is what a turn, a call or a tell comes to for which NATS has no room: nothing of it is stored. A request is answered
// with status 507 and the name NoSpaceError. There may be room later: see docs/operations.md.
var ErrNoSpace = journal.ErrNoSpace

// noSpaceRetry is after how long clients are told to try again. It is above the longest time that passes until a host finds that
// there is room.
const noSpaceRetry = 5 * time.Second

// room refuses what comes from outside while there is no room. The host finds that out, and that there is room again, by the
// renewals of its lease: without those, nothing that is taken could be answered.
func (h *host) room() error {
	if err := h.store.Full(h.lease.where.subject(h.id)); err != nil {
		return noSpace(err)
	}
	return nil
}

// noSpace is how such a refusal is answered.
func noSpace(err error) *Error {
	return &Error{
		Status: http.StatusInsufficientStorage, Name: "NoSpaceError", Message: "nothing was stored: " + journal.ErrNoSpace.Error(),
		Err: err, RetryAfter: noSpaceRetry,
	}
}
