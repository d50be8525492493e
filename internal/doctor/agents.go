package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// bucket is a key-value bucket of the project, as the stream that it is.
type bucket struct{ name, stream string }

func bucketOf(name string) bucket { return bucket{name, protocol.KVStream(name)} }

func (b bucket) subject(key string) string { return protocol.KVSubject(b.name, key) }
func (b bucket) key(subject string) string { return strings.TrimPrefix(subject, b.subject("")) }

func (d *Doctor) agents() bucket      { return bucketOf(protocol.AgentsBucket(d.Project.Name)) }
func (d *Doctor) hosts() bucket       { return bucketOf(protocol.HostsBucket(d.Project.Name)) }
func (d *Doctor) connections() bucket { return bucketOf(protocol.ConnectionsBucket(d.Project.Name)) }

// hasAgents reports whether the project has what agents need.
func (d *Doctor) hasAgents() bool { return len(d.Project.Agents) > 0 }

// record reads the record of an agent from the leader; nil if there is none. It is whole but for what no look needs.
func (d *Doctor) record(ctx context.Context, class, name string) (*protocol.Record, uint64, error) {
	m, err := d.last(ctx, d.agents().stream, d.agents().subject(protocol.AgentKey(class, name)))
	if err != nil || m == nil {
		return nil, 0, err
	}
	r, err := readRecord(m)
	return r, m.Sequence, err
}

func readRecord(m *journal.Message) (*protocol.Record, error) {
	if m.Header.Get(protocol.HeaderKVOperation) != "" || len(m.Data) == 0 {
		return nil, nil // the marker of a deleted record
	}
	var r protocol.Record
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Subject, err)
	}
	if r.V > protocol.Version {
		return nil, fmt.Errorf("%s: %w: has version %d, this program knows %d", m.Subject, errUnreadable, r.V, protocol.Version)
	}
	if r.Life == 0 { // the write could not know its own sequence
		r.Life = m.Sequence
	}
	if r.Epoch == 0 {
		r.Epoch = m.Sequence
	}
	return &r, nil
}

// isHost reports whether a host has a row: it lives, or others will look after what it has left.
func (d *Doctor) isHost(ctx context.Context, id string) (bool, error) {
	m, err := d.last(ctx, d.hosts().stream, d.hosts().subject(id))
	return m != nil, err
}

// scanAgents goes through the records, for those of which something is left to do and that are with nobody, and those that have sockets
// at a host that is gone.
func (d *Doctor) scanAgents(ctx context.Context) error {
	if !d.hasAgents() {
		return nil
	}
	hosts := map[string]bool{}
	return d.each(ctx, d.agents().stream, ">", func(m *journal.Message) error {
		d.pace.advance(1)
		r, err := readRecord(m)
		if err != nil {
			d.report.Unreadable++
			return nil
		}
		if r == nil {
			return nil
		}
		for host, at := range r.Gateways {
			if _, known := hosts[host]; !known && len(at.Open) > 0 {
				if hosts[host], err = d.isHost(ctx, host); err != nil {
					return err
				}
			}
			if len(at.Open) == 0 || hosts[host] {
				continue
			}
			if err := d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineOpen(ctx, r.Class, r.Name, host) }); err != nil {
				return err
			}
		}
		if len(r.Outbox) == 0 && !r.Condemned {
			return nil
		}
		return d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineAgent(ctx, r.Class, r.Name) })
	})
}

// examineOpen looks whether an agent has open connections at a host that is gone, of which no row tells who sweeps up after hosts.
func (d *Doctor) examineOpen(ctx context.Context, class, name, host string) ([]complaint, error) {
	r, _, err := d.record(ctx, class, name)
	if err != nil || r == nil || len(r.Gateways[host].Open) == 0 {
		return nil, err
	}
	if there, err := d.isHost(ctx, host); there || err != nil {
		return nil, err
	}
	rows := d.connections()
	for _, key := range []string{protocol.ConnectionsKey(host, class, name, 0), protocol.FurtherConnectionsKeys(host, class, name)} {
		if m, err := d.last(ctx, rows.stream, rows.subject(key)); err != nil || m != nil && len(m.Data) > 0 {
			return nil, err // that is a finding of its own
		}
	}
	ids := map[uint64]string{}
	for conn := range r.Gateways[host].Open.All() {
		ids[conn] = ""
	}
	a := protocol.Agent{Project: d.Project.Name, Class: class, Name: name}
	return []complaint{{
		Finding: Finding{
			Kind: ConnectionsLeft, Subject: a.String(),
			Problem: fmt.Sprintf("%d connections at host %s are open for it, which is gone, and nothing says so to others", len(ids), host),
			Remedy:  "put back the row of the connections and that of the host: others find that its lease is over, and tell the agent",
		},
		evidence: fmt.Sprint(host, r.Life, ids),
		mend: func(ctx context.Context) (string, error) {
			body, err := json.Marshal(protocol.SocketRow{V: protocol.Version, Class: class, Name: name, IDs: ids})
			if err != nil {
				return "", err
			}
			_, err = d.Store.Append(ctx, rows.stream, rows.subject(protocol.ConnectionsKey(host, class, name, 0)), 0, body)
			if errors.Is(err, journal.ErrConflict) {
				return seen, nil
			}
			if err != nil {
				return "", err
			}
			done, err := d.restoreHost(ctx, host)
			return "put back the row of its connections; " + done, err
		},
	}}, nil
}

// examineAgent looks whether anybody will carry out what an agent has asked for. While its host has a row, that does, or who
// sweeps up after it.
func (d *Doctor) examineAgent(ctx context.Context, class, name string) ([]complaint, error) {
	r, sequence, err := d.record(ctx, class, name)
	if err != nil || r == nil || len(r.Outbox) == 0 && !r.Condemned {
		return nil, err
	}
	if r.Owner != "" {
		if there, err := d.isHost(ctx, r.Owner); there || err != nil {
			return nil, err
		}
	}
	a := protocol.Agent{Project: d.Project.Name, Class: class, Name: name}
	if m, err := d.last(ctx, protocol.InboxStream(d.Project.Name), a.MailSubject()); m != nil || err != nil {
		return nil, err // who takes the agent for its mail does that, too
	}
	problem := fmt.Sprintf("%d entries of its outbox may not be carried out, and no host has the agent", len(r.Outbox))
	if r.Condemned {
		problem = "it is destroyed, and no host takes away what is left of it"
	}
	return []complaint{{
		Finding:  Finding{Kind: OutboxLeft, Subject: a.String(), Problem: problem, Remedy: "ring the agent: a host takes it, and begins with that"},
		evidence: fmt.Sprint(sequence),
		mend:     func(ctx context.Context) (string, error) { return d.ring(ctx, a) },
	}}, nil
}

// ring puts mail into the inbox of an agent that brings nothing: it names a dead letter that there never was. A host takes
// the agent for it, now or when there is one.
func (d *Doctor) ring(ctx context.Context, a protocol.Agent) (string, error) {
	body, err := json.Marshal(protocol.Mail{
		V: protocol.Version, Source: protocol.RedriveSource(sourceKind), Number: uint64(time.Now().UnixMilli()), Sent: time.Now().UTC(),
	})
	if err != nil {
		return "", err
	}
	sequence, err := d.Store.Append(ctx, protocol.InboxStream(d.Project.Name), a.InboxSubject(d.Project.Name), 0, body)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	return fmt.Sprintf("put message %d into its inbox, which only wakes it", sequence), err
}

// scanConnections goes through the rows that say which sockets hosts hold.
func (d *Doctor) scanConnections(ctx context.Context) error {
	if !d.hasAgents() {
		return nil
	}
	var lost []string
	err := d.each(ctx, d.connections().stream, ">", func(m *journal.Message) error {
		d.pace.advance(1)
		host, _, _, _, err := protocol.ParseConnectionsKey(d.connections().key(m.Subject))
		if err != nil || len(m.Data) == 0 || slices.Contains(lost, host) {
			return nil
		}
		there, err := d.isHost(ctx, host)
		if err != nil || there {
			return err
		}
		lost = append(lost, host)
		return d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineConnections(ctx, host) })
	})
	return err
}

// examineConnections looks whether sockets are on record at a host that is gone, without anybody to tell their agents.
func (d *Doctor) examineConnections(ctx context.Context, host string) ([]complaint, error) {
	rows := d.connections()
	m, err := d.last(ctx, rows.stream, rows.subject(protocol.ConnectionsKeys(host)))
	if err != nil || m == nil || len(m.Data) == 0 {
		return nil, err
	}
	if there, err := d.isHost(ctx, host); there || err != nil {
		return nil, err
	}
	return []complaint{{
		Finding: Finding{
			Kind: ConnectionsLeft, Subject: rows.subject(protocol.ConnectionsKeys(host)),
			Problem: fmt.Sprintf("host %s is gone, and agents were not told that the sockets which it held have ended", host),
			Remedy:  "put back the row of the host: others find that its lease is over, and tell them",
		},
		evidence: fmt.Sprint(m.Sequence),
		mend:     func(ctx context.Context) (string, error) { return d.restoreHost(ctx, host) },
	}}, nil
}

// restoreHost puts back the row of a host, so that others sweep up after it once more. Should it live all the same, its next
// renewal is refused, and it begins anew.
func (d *Doctor) restoreHost(ctx context.Context, host string) (string, error) {
	body, err := json.Marshal(protocol.Host{V: protocol.Version, ID: host, Renewed: time.Now().UTC()})
	if err != nil {
		return "", err
	}
	_, err = d.Store.Append(ctx, d.hosts().stream, d.hosts().subject(host), 0, body)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	return "put back the row of host " + host, err
}
