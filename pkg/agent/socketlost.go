package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// A gateway that dies can tell no agent that its sockets have ended. Whoever sweeps up after it does: its rows say which agents had
// some, and which. The agents' records say which of those were opened and have not been told to have ended.

// tellOfGateway tells all agents that had sockets at a lost host that those have ended. It returns false if some could not be told.
func (h *host) tellOfGateway(ctx context.Context, lost string) bool {
	rows := bucketOf(protocol.ConnectionsBucket(h.name))
	subjects, err := h.subjects(ctx, rows.stream, rows.subject(protocol.ConnectionsKeys(lost)))
	agents := map[protocol.Agent][]string{}
	for _, subject := range subjects {
		_, class, name, _, wrong := protocol.ParseConnectionsKey(strings.TrimPrefix(subject, rows.subject("")))
		if wrong != nil {
			err = errors.Join(err, wrong)
			continue
		}
		id := protocol.Agent{Project: h.name, Class: class, Name: name}
		agents[id] = append(agents[id], subject)
	}
	var untold failures
	untold.add(err)
	var group errgroup.Group
	group.SetLimit(takenAtATime)
	for id, subjects := range agents {
		group.Go(func() error {
			untold.add(h.tellAgent(ctx, lost, id, subjects))
			return nil
		})
	}
	_ = group.Wait() // none returns an error: they are counted
	if err = untold.err(); err != nil && ctx.Err() == nil {
		h.log.WarnContext(ctx, "cannot tell all agents that the sockets at a lost host have ended, trying on",
			slog.String(logkey.Owner, lost), slog.Any(logkey.Error, err))
	}
	return err == nil
}

// failures are what went wrong with some of many agents. One stands for all, however many there are: it is for a line of the log.
type failures struct {
	mu    sync.Mutex // guards what follows
	first error
	more  int
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
	case f.first == nil:
		f.first = err
	default:
		f.more++
	}
}

func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.more == 0 {
		return f.first
	}
	return fmt.Errorf("%w (and %d more errors)", f.first, f.more)
}

// tellAgent tells an agent that its sockets at a lost host have ended, and then removes the rows that say which those were. They are
// there until all of them are told. One that takes long does not keep the others waiting: it goes on, and is asked again.
func (h *host) tellAgent(ctx context.Context, lost string, id protocol.Agent, subjects []string) error {
	ctx, cancel := context.WithTimeout(ctx, h.times.bellWithin)
	defer cancel()
	rows := bucketOf(protocol.ConnectionsBucket(h.name))
	stored, err := h.connectionRows(ctx, rows, subjects)
	if err != nil || len(stored) == 0 {
		return err
	}
	number := uint64(0)
	for _, m := range stored {
		number = max(number, m.Sequence)
	}
	if err := h.bringLost(ctx, lost, id, number); err != nil {
		return err
	}
	for _, m := range stored {
		err = errors.Join(err, h.store.Purge(ctx, rows.stream, m.Subject, m.Sequence+1))
	}
	return err
}

// bringLost brings an agent the loss of a gateway, until it has told itself of all that has ended. A gateway can be lost twice, if it was only
// away: what is new about its rows is in the number, or an owner would take this for what it has heard before.
func (h *host) bringLost(ctx context.Context, lost string, id protocol.Agent, number uint64) error {
	for part := uint64(0); ; part++ {
		ack, err := (socketHost{h}).Bring(ctx, id, protocol.SocketUp{Kind: protocol.SocketLost, Gateway: lost, Conn: part, Number: number}, gateway.Underway{})
		if err != nil || !ack.More {
			return err
		}
	}
}

// connectionRows reads those rows that are there.
func (h *host) connectionRows(ctx context.Context, rows bucket, subjects []string) (found []*journal.Message, err error) {
	for _, subject := range subjects {
		m, err := h.store.Last(ctx, rows.stream, subject)
		if errors.Is(err, journal.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	return found, nil
}

// idsAt are the ids of the connections that a gateway holds, or has held, as its rows say.
func (h *host) idsAt(ctx context.Context, gateway string, id protocol.Agent) (map[uint64]string, error) {
	rows := bucketOf(protocol.ConnectionsBucket(h.name))
	subjects, err := h.subjects(ctx, rows.stream, rows.subject(protocol.FurtherConnectionsKeys(gateway, id.Class, id.Name)))
	if err != nil {
		return nil, err
	}
	subjects = append(subjects, rows.subject(protocol.ConnectionsKey(gateway, id.Class, id.Name, 0)))
	stored, err := h.connectionRows(ctx, rows, subjects)
	if err != nil {
		return nil, err
	}
	ids := map[uint64]string{}
	for _, m := range stored {
		var row protocol.SocketRow
		if err := json.Unmarshal(m.Data, &row); err != nil {
			return nil, fmt.Errorf("row of connections at %s: %w", m.Subject, err)
		}
		maps.Copy(ids, row.IDs)
	}
	return ids, nil
}

// lostAtATime bounds how many ends are told before the agent does something else.
const lostAtATime = 64

// serveLost gives connections at a gateway that is gone their ends, each in a turn of its own, and says whether there are more. What of it was
// done before is not done again: those connections are open no more.
func (a *actor) serveLost(ctx context.Context, j *job) error {
	gateway := j.frame.Gateway
	open := a.at.record.Gateways[gateway].Open
	var ids map[uint64]string
	if len(open) > 0 {
		var err error
		if ids, err = a.host.idsAt(ctx, gateway, a.id); err != nil {
			j.finish(outcome{err: errMoved}) // it is brought again
			return nil
		}
	}
	ack := protocol.SocketAck{More: len(open) > lostAtATime}
	told := 0
	for conn := range open.All() {
		if told++; told > lostAtATime {
			break
		}
		t := a.lostTurn(connKey{gateway, conn}, ids[conn])
		if t == nil { // it has ended while the turn of the one before was outside
			continue
		}
		j.ending = t
		_, err := a.frameTurn(ctx, j, t)
		if isEnd(err) {
			j.finish(outcome{err: errMoved})
			return err
		}
		if err := a.afterTurn(ctx); err != nil {
			j.finish(outcome{err: errMoved})
			return err
		}
	}
	j.finish(outcome{reply: protocol.Reply{Socket: &ack}})
	return nil
}

// lostTurn is the end of a connection at a gateway that is gone; nil if it is open no more. The id is that of its row: who has asked the
// gateway knows more of it.
func (a *actor) lostTurn(key connKey, id string) *turnSocket {
	applied, open := a.at.record.Gateways[key.gateway].Open.Applied(key.conn)
	if !open {
		return nil
	}
	known, ok := a.sockets[key]
	if !ok {
		known = protocol.SocketConnection{Conn: key.conn, ID: id}
	}
	up := &protocol.SocketUp{
		Kind: protocol.SocketClosed, Gateway: key.gateway, Conn: key.conn, Number: applied + 1,
		Close: &protocol.SocketClose{Code: 1006, Reason: "the host that held the socket is lost"},
	}
	return &turnSocket{key: key, up: up, lost: true, conn: &Connection{agent: a.id, key: key, known: known}}
}

// giveUpLost ends the connection whose end does not return, and has the rest brought again.
func (a *actor) giveUpLost(ctx context.Context, j *job) error {
	if t := a.lostTurn(j.ending.key, j.ending.conn.ID()); t != nil { // the code that does not return has the other one
		if _, err := a.endWithout(ctx, t, errStuck); err != nil {
			j.finish(outcome{err: errMoved}) // it is brought again
			return err
		}
	}
	j.finish(outcome{reply: protocol.Reply{Socket: &protocol.SocketAck{More: true}}})
	return a.afterTurn(ctx)
}
