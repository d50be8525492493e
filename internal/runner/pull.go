package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpiry is after how long a request ends that is not filled.
	pullExpiry = 30 * time.Second
	// pullHeartbeat is how often the server says that it has the request still.
	pullHeartbeat = 2 * time.Second
)

// pull takes what a durable consumer delivers. All its requests are answered through one subscription: what comes late,
// because this process or the network stood still, is taken as well. Thrown away, it would come again after ack_wait only,
// and the first run of a log that is still empty would look lost.
type pull struct {
	nc      *nats.Conn
	subject string // that requests go to
	inbox   string // answers come to it, with the number of the request
	asked   uint64
	arrived chan *nats.Msg
	sub     *nats.Subscription
}

// newPull makes one that takes up to room deliveries at a time.
func newPull(nc *nats.Conn, consumer jetstream.Consumer, room int) (*pull, error) {
	info := consumer.CachedInfo()
	p := &pull{
		nc: nc, subject: "$JS.API.CONSUMER.MSG.NEXT." + info.Stream + "." + info.Name, inbox: nc.NewInbox() + ".",
		// What comes late may meet what was asked for in its place. A channel that is full loses messages.
		arrived: make(chan *nats.Msg, 2*room+64),
	}
	var err error
	if p.sub, err = nc.ChanSubscribe(p.inbox+"*", p.arrived); err != nil {
		return nil, fmt.Errorf("subscribe to deliveries: %w", err)
	}
	return p, nil
}

// take asks for up to n deliveries and calls receive with each. It returns when the request is over.
func (p *pull) take(ctx context.Context, n int, receive func(*nats.Msg)) error {
	request, err := p.ask(n)
	if err != nil {
		return err
	}
	silence := time.NewTimer(2 * pullHeartbeat)
	defer silence.Stop()
	for n > 0 {
		select {
		case <-ctx.Done():
			return nil
		case m := <-p.arrived:
			switch over, err := end(m); {
			case isDelivery(m):
				n--
				receive(m)
			case over && m.Subject == request:
				return err
			}
		case <-silence.C:
			if !p.hears() {
				return errSilent
			}
		}
		silence.Reset(2 * pullHeartbeat)
	}
	return nil
}

// ask stores a request with the server and tells where its status comes to.
func (p *pull) ask(n int) (request string, err error) {
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{n, pullExpiry, pullHeartbeat})
	if err != nil {
		return "", err
	}
	p.asked++
	request = p.inbox + strconv.FormatUint(p.asked, 10)
	return request, p.nc.PublishRequest(p.subject, request, body)
}

// errSilent says that the server does not know of the request any more.
var errSilent = errors.New("the server is silent about what was asked for")

// hears reports whether there is something to hear after a silence. If it was this process that stood still, all that was
// sent meanwhile is there when the server has answered.
func (p *pull) hears() bool {
	return len(p.arrived) > 0 || p.nc.FlushTimeout(pullHeartbeat) == nil && len(p.arrived) > 0
}

// leave ends the subscription, and calls receive with what has been delivered until then. The server drops the requests when
// nobody hears the answers any more. What it sends at that moment reaches nobody, and comes again as if somebody had had it.
func (p *pull) leave(receive func(*nats.Msg)) {
	if p.sub.Drain() == nil {
		_ = p.nc.FlushTimeout(pullHeartbeat) // what does not arrive comes again
	}
	for {
		select {
		case m := <-p.arrived:
			if isDelivery(m) {
				receive(m)
			}
		default:
			return
		}
	}
}

// statusHeader is what the server's answers to a request have, in place of a body.
const statusHeader = "Status"

func isDelivery(m *nats.Msg) bool { return len(m.Data) > 0 || m.Header.Get(statusHeader) == "" }

// end reports whether a status ends its request, with an error if that was not because it was long enough.
func end(m *nats.Msg) (over bool, err error) {
	switch status := m.Header.Get(statusHeader); status {
	case "100": // a heartbeat
		return false, nil
	case "404", "408":
		return true, nil
	default:
		return true, fmt.Errorf("status %s of the server: %s", status, m.Header.Get("Description"))
	}
}
