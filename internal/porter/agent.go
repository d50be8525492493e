package porter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Agents is what only hosts of agents can do.
type Agents struct {
	// Classes are those that the host serves.
	Classes []string
	// Allows says why other projects may not tell agents of a class something, or call a method of theirs; nil if they may.
	Allows func(class, method string, tell bool) error
	// Mail puts mail of a caller into the inbox of an agent.
	Mail func(ctx context.Context, caller string, to protocol.Agent, mail protocol.Mail) error
	// Call brings a call to an agent, and returns its answer. If there is none when ctx ends, the answer is that it was accepted.
	Call func(ctx context.Context, to protocol.Agent, id string, call protocol.AgentCall) protocol.Reply
}

var agentOps = map[string]func(*Porter, context.Context, *visit) (protocol.DoorAnswer, error){
	protocol.DoorOpMail: (*Porter).mail,
	protocol.DoorOpCall: (*Porter).call,
}

// agent is the one that a request is about.
func (v *visit) agent() (protocol.Agent, error) {
	if err := protocol.CheckAgent(v.request.ID); err != nil {
		return protocol.Agent{}, refused("%v", err)
	}
	return protocol.Agent{Project: v.Owner, Class: v.Name, Name: v.request.ID}, nil
}

// mail stores what the caller tells an agent.
func (p *Porter) mail(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	to, err := v.agent()
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	mail, err := checkMail(v, time.Now())
	if err == nil {
		err = p.Agents.Allows(to.Class, mail.Callback, true)
	}
	if err != nil {
		return protocol.DoorAnswer{}, refused("mail: %v", err)
	}
	err = p.Agents.Mail(ctx, v.Caller, to, mail)
	if errors.Is(err, journal.ErrFull) {
		err = &protocol.Failure{Name: protocol.FailureBusy, Message: err.Error()}
	}
	if err == nil {
		testsignal.At(testsignal.PorterStored)
	}
	return protocol.DoorAnswer{}, err
}

// atOnce is how long an answer waits that may not wait: as long as a turn may take that has nothing to do.
const atOnce = 50 * time.Millisecond

// call calls a method of an agent.
func (p *Porter) call(ctx context.Context, v *visit) (protocol.DoorAnswer, error) {
	to, err := v.agent()
	if err != nil {
		return protocol.DoorAnswer{}, err
	}
	call, err := checkCall(v)
	if err == nil {
		err = p.Agents.Allows(to.Class, call.Method, false)
	}
	if err != nil {
		return protocol.DoorAnswer{}, refused("call: %v", err)
	}
	wait := atOnce
	if v.patient {
		wait = min(time.Duration(v.request.Wait), client.MaxWait)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	reply := p.Agents.Call(ctx, to, v.request.CallID, call)
	if !reply.Accepted {
		testsignal.At(testsignal.PorterStored)
	}
	return protocol.DoorAnswer{Reply: p.fitting(reply)}, nil
}

// fitting is an answer with what its caller needs, or the error that it does not fit into a message: else it would be asked for again and again.
func (p *Porter) fitting(r protocol.Reply) *protocol.Reply {
	reply := &protocol.Reply{V: protocol.Version, Accepted: r.Accepted, Busy: r.Busy, Result: r.Result, Error: fit(r.Error)}
	body, err := json.Marshal(protocol.DoorAnswer{V: protocol.Version, Reply: reply})
	if most := p.Store.Conn().MaxPayload(); err == nil && int64(len(body)) > most {
		return &protocol.Reply{V: protocol.Version, Error: &protocol.Failure{Name: protocol.FailureAnswerTooLarge, Terminal: true,
			Message: fmt.Sprintf("the answer has %d bytes as a message, at most %d are allowed", len(body), most)}}
	}
	return reply
}

// checkMail takes what another project may tell an agent.
func checkMail(v *visit, now time.Time) (protocol.Mail, error) {
	m := v.request.Mail
	if m == nil {
		return protocol.Mail{}, errors.New("it is missing")
	}
	err := errors.Join(checkMethod(m.Callback), checkPayload(m.Payload), checkMailSource(m))
	if m.V < 1 || m.V > protocol.Version {
		err = errors.Join(err, fmt.Errorf("version %d, allowed is %d", m.V, protocol.Version))
	}
	if m.ID != "" || m.Life != 0 || m.Notice != nil || m.Retry != nil || m.Planned != nil || m.Last || m.Bounds != "" || m.Schedule != "" || m.Overlap != "" {
		err = errors.Join(err, errors.New("what belongs to schedules, queues, workflows or the agent itself is not for others"))
	}
	if err != nil {
		return protocol.Mail{}, err
	}
	return protocol.Mail{
		V: protocol.Version, Source: m.Source, Number: m.Number, Key: m.Key, Keep: m.Keep, Callback: m.Callback, Payload: m.Payload, Sent: moment(m.Sent, now),
	}, nil
}

// checkMailSource wants the source of an agent with a number, or that of a key: others are not those of projects.
func checkMailSource(m *protocol.Mail) error {
	if m.Key != "" {
		if len(m.Key) > protocol.MaxInput || !utf8.ValidString(m.Key) || m.Source != protocol.KeySource(m.Key) || m.Number != 0 {
			return fmt.Errorf("key of %d bytes with source %.80q and number %d: allowed are at most %d of UTF-8, the source of the key, and no number",
				len(m.Key), m.Source, m.Number, protocol.MaxInput)
		}
		return nil
	}
	who, ok := strings.CutPrefix(m.Source, protocol.SourcesOfAgents)
	agent, life, _ := strings.Cut(who, "/")
	_, err := strconv.ParseUint(life, 10, 64)
	if !ok || err != nil || agent == "" || len(m.Source) > maxTellSource || strings.ContainsFunc(agent, isOdd) || m.Number == 0 {
		return fmt.Errorf("source %.80q with number %d: allowed is that of an agent with a number, or a key", m.Source, m.Number)
	}
	return nil
}

// maxTellSource is longer than any source of an agent.
const maxTellSource = 256

// isOdd reports whether a character stands in no key of an agent.
func isOdd(r rune) bool { return r <= ' ' || r > '~' || r == '/' }

// checkCall takes what another project may ask an agent. Who calls is not for it to say.
func checkCall(v *visit) (protocol.AgentCall, error) {
	c := v.request.Call
	if c == nil {
		return protocol.AgentCall{}, errors.New("it is missing")
	}
	err := errors.Join(checkMethod(c.Method), checkPayload(c.Payload), checkChain(c.Chain))
	if id := v.request.CallID; id == "" || len(id) > protocol.MaxInput || !utf8.ValidString(id) {
		err = errors.Join(err, fmt.Errorf("id %.80q has %d bytes, allowed are 1 to %d of UTF-8", id, len(id), protocol.MaxInput))
	}
	if c.Within <= 0 || time.Duration(c.Within) > maxCallTime {
		err = errors.Join(err, fmt.Errorf("within %s: allowed is what is positive, up to %s", time.Duration(c.Within), maxCallTime))
	}
	if c.Destroy != 0 || c.Terminate {
		err = errors.Join(err, errors.New("the end of an agent is not for others"))
	}
	if err != nil {
		return protocol.AgentCall{}, err
	}
	return protocol.AgentCall{
		From: v.Caller, Method: c.Method, Payload: c.Payload, Within: c.Within, Until: c.Until, Fresh: c.Fresh, Keep: c.Keep, Chain: c.Chain,
	}, nil
}

// maxCallTime is the longest that a caller may wait for an agent: so long is it remembered.
const maxCallTime = 24 * time.Hour

func checkChain(chain []protocol.CallLink) error {
	if len(chain) > protocol.MaxCallChain+1 {
		return fmt.Errorf("chain of %d agents, allowed are %d", len(chain), protocol.MaxCallChain)
	}
	for _, link := range chain {
		if len(link.Agent) > maxLink || !utf8.ValidString(link.Agent) {
			return fmt.Errorf("chain: an agent has %d bytes, allowed are %d of UTF-8", len(link.Agent), maxLink)
		}
	}
	return nil
}

// maxLink is longer than project, class and name of any agent.
const maxLink = 2 * protocol.MaxAgentName

func checkMethod(name string) error {
	if name == "" || len(name) > maxMethod || !utf8.ValidString(name) {
		return fmt.Errorf("method %.80q has %d bytes, allowed are 1 to %d of UTF-8", name, len(name), maxMethod)
	}
	return nil
}

// maxMethod bounds the name of a method.
const maxMethod = 256

func checkPayload(raw []byte) error {
	if len(raw) > protocol.MaxPayload {
		return fmt.Errorf("payload has %d bytes as JSON, allowed are %d", len(raw), protocol.MaxPayload)
	}
	return nil
}
