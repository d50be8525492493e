package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// askTimeout bounds the wait for a runner's answer.
const askTimeout = 2 * time.Second

// inVain reports whether a restart that was stored before an end changed nothing, as one that was stored twice. If that
// turned out while the instance was not at its end, nothing was announced: a runner can tell. Without an answer, the
// restart counts.
func (c Client) inVain(ctx context.Context, at protocol.Instance, end *protocol.Done, restart uint64) bool {
	if restart > end.Log {
		return false
	}
	question, err := json.Marshal(protocol.Ask{V: protocol.Version, Workflow: at.Workflow, ID: at.ID, Step: &protocol.Key{}})
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := c.Store.Conn().RequestWithContext(ctx, protocol.AskSubject(at.Project), question)
	if err != nil {
		return false
	}
	var answer protocol.Answer
	if json.Unmarshal(m.Data, &answer) != nil || answer.Status == nil {
		return false
	}
	s := answer.Status
	return s.Incarnation == end.Incarnation && s.Epoch == end.Epoch && s.State == end.State && s.Mark >= restart
}
