package integration

import (
	"fmt"
	"io"
	"net/http"

	"github.com/skein-run/skein/pkg/agent"
)

// sinkTakes is how much a sink takes of a body.
const sinkTakes = 1 << 20

// sink is the agent of hosts that are there for large bodies. It takes sinkTakes of one when the gate that its request names is open, keeps
// nothing of that, and answers with its length.
type sink struct{ agent.Base[struct{}] }

func sinks() agent.Class { return agent.Define("Sink", func() *sink { return &sink{} }) }

// OnRequest takes the body.
func (*sink) OnRequest(w http.ResponseWriter, r *http.Request) error {
	if err := awaitGate(r.URL.Query().Get("gate")); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r.Body, sinkTakes))
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(w, n)
	return err
}
