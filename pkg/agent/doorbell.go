package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// inbox is where the mail of a project's agents waits.
type inbox struct {
	store   *journal.Store
	stream  string
	project string
}

// agents are those who have mail.
func (i inbox) agents(ctx context.Context) (map[protocol.Agent]bool, error) {
	all := map[protocol.Agent]bool{}
	for offset := 0; ; {
		page, err := i.store.Subjects(ctx, i.stream, protocol.InboxSubjects(i.project), offset)
		if err != nil {
			return nil, fmt.Errorf("list who has mail: %w", err)
		}
		for _, subject := range page.Subjects {
			if id, _, err := protocol.ParseInboxSubject(subject); err == nil {
				all[id] = true
			}
		}
		if offset += len(page.Subjects); len(page.Subjects) == 0 || offset >= page.Total {
			return all, nil
		}
	}
}

func isNotFound(err error) bool { return errors.Is(err, journal.ErrNotFound) }

const (
	doorbellPull = 256
	// doorbellExpiry is also how long a host that is frozen or cut off goes on to be sent bells: shorter than others need to
	// find out that it is, so that mail whose bell it got is there when they look for it.
	doorbellExpiry = 4 * time.Second
	doorbellBind   = 10 * time.Second
	doorbellPulse  = time.Second
	doorbellPause  = 250 * time.Millisecond
)

// followDoorbell rings for all mail of the project's agents until ctx ends. Any host hears any bell: it hands it to the
// owner of the agent, which acks it when the mail is applied.
func (h *host) followDoorbell(ctx, work context.Context) error {
	told := false
	for ctx.Err() == nil {
		err := h.doorbellSession(ctx, work)
		if ctx.Err() != nil {
			return nil
		}
		if h.nc.IsClosed() {
			return fmt.Errorf("follow the inbox: %w", nats.ErrConnectionClosed)
		}
		if !told {
			told = true
			h.log.DebugContext(ctx, "doorbell was interrupted, trying on", slog.Any(logkey.Error, err))
		}
		if ctxtime.Sleep(ctx, doorbellPause) != nil {
			return nil
		}
	}
	return nil
}

func (h *host) doorbellSession(ctx, work context.Context) error {
	bind, cancel := context.WithTimeout(ctx, doorbellBind)
	defer cancel()
	consumer, err := h.project.JS.Consumer(bind, h.inbox.stream, protocol.ConsumerDoorbell)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(doorbellPull), jetstream.PullExpiry(doorbellExpiry),
		jetstream.PullHeartbeat(doorbellPulse), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		h.onBell(work, m)
	}
}

// onBell must not wait: the bells of other agents are behind this one.
func (h *host) onBell(ctx context.Context, m jetstream.Msg) {
	id, _, err := protocol.ParseInboxSubject(m.Subject())
	meta, metaErr := m.Metadata()
	if err := errors.Join(err, metaErr); err != nil {
		h.log.WarnContext(ctx, "mail that is for no agent is removed", slog.String(logkey.Subject, m.Subject()), slog.Any(logkey.Error, err))
		send(h.nc, m.Reply(), ack)
		return
	}
	b := protocol.Bell{Sequence: meta.Sequence.Stream, Ack: m.Reply()}
	if a := h.find(id); a != nil && a.hasStarted() && a.mail.ring(b) {
		return
	}
	h.couriers.send(ctx, id, b)
}

// couriers bring bells to agents that are not here: one goroutine per agent that has some.
type couriers struct {
	host *host

	mu    sync.Mutex // guards bells
	bells map[protocol.Agent][]protocol.Bell
}

// send takes a bell and returns at once.
func (c *couriers) send(ctx context.Context, id protocol.Agent, b protocol.Bell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, busy := c.bells[id]
	c.bells[id] = append(waiting, b)
	if busy {
		return
	}
	c.host.crew.do(func() {
		for next := c.take(id); next != nil; next = c.take(id) {
			c.bring(ctx, id, next)
		}
	})
}

// take removes and returns the bells of an agent; without any, the courier is done.
func (c *couriers) take(id protocol.Agent) []protocol.Bell {
	c.mu.Lock()
	defer c.mu.Unlock()
	bells := c.bells[id]
	if len(bells) == 0 {
		delete(c.bells, id)
		return nil
	}
	c.bells[id] = nil
	return bells
}

// bring hands over bells. One that finds nobody is dropped: it rings again when its time is over.
func (c *couriers) bring(ctx context.Context, id protocol.Agent, bells []protocol.Bell) {
	h := c.host
	for _, b := range bells {
		var err error
		if h.class(id.Class) != nil {
			var reply protocol.Reply
			if reply, err = h.deliver(ctx, id, &bellErrand{bell: b}, h.times.bellWithin); err == nil {
				err = result(reply)
			}
		} else {
			request := protocol.Request{V: protocol.Version, Bell: &b, Activate: &protocol.Activate{Class: id.Class, Name: id.Name}}
			_, err = h.ask(ctx, protocol.ActivateSubject(h.name, id.Class), request)
		}
		if err != nil {
			h.log.DebugContext(ctx, "bell was not heard, it will ring again", slog.String(logkey.Agent, id.Name),
				slog.String(logkey.Class, id.Class), slog.Any(logkey.Error, err))
			return
		}
	}
}
