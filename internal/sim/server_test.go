package sim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// server is what Skein sees of a NATS server: streams that are appended to by comparison, read from their leader or from
// a replica that lags, and purged. What it answers is byte for byte what package journal reads (TestServerIsFaithful).
type server struct {
	streams map[string]*stream
	// lag says how many changes a replica lacks that is asked to read; nil: none.
	lag func(s *stream) int
	// blind is a fault to be found: the server compares nothing.
	blind bool
	// keep is a fault to be found: a purge takes what is newer than its bound, too.
	unbounded bool
}

// stream is one stream with everything it ever held.
type stream struct {
	name     string
	messages []*message
	changes  int
	stored   func(m *message)
	purged   func(m *message)
}

// message is a stored message. At which change it came and went says what a replica knows.
type message struct {
	sequence   uint64
	subject    string
	header     nats.Header
	data       []byte
	time       time.Time
	came, went int
}

func (m *message) here(change int) bool { return m.came <= change && (m.went == 0 || m.went > change) }

func (s *stream) last() uint64 { return uint64(len(s.messages)) }

// newest is the newest message of a subject, nil if there is none.
func (s *stream) newest(subject string) *message {
	for i := len(s.messages) - 1; i >= 0; i-- {
		if m := s.messages[i]; m.went == 0 && matches(subject, m.subject) {
			return m
		}
	}
	return nil
}

func (s *stream) put(m *message) {
	s.changes++
	m.sequence, m.came = s.last()+1, s.changes
	s.messages = append(s.messages, m)
	if s.stored != nil {
		s.stored(m)
	}
}

func (s *stream) purge(filter string, bound uint64) {
	s.changes++
	for _, m := range s.messages {
		if m.went == 0 && m.sequence < bound && matches(filter, m.subject) {
			m.went = s.changes
			if s.purged != nil {
				s.purged(m)
			}
		}
	}
}

// matches reports whether a filter covers a subject.
func matches(filter, subject string) bool {
	if filter == subject {
		return true
	}
	for filter != "" {
		var f, t string
		f, filter, _ = strings.Cut(filter, ".")
		if f == ">" {
			return subject != ""
		}
		t, subject, _ = strings.Cut(subject, ".")
		if t == "" || f != "*" && f != t {
			return false
		}
	}
	return subject == ""
}

// handle answers a request.
func (v *server) handle(m *nats.Msg, now time.Time) []*nats.Msg {
	api := func(prefix string) *stream {
		if name, ok := strings.CutPrefix(m.Subject, prefix); ok {
			return v.streams[name]
		}
		return nil
	}
	if s := api("$JS.API.STREAM.MSG.GET."); s != nil {
		return one(v.get(s, m.Data))
	}
	if s := api("$JS.API.DIRECT.GET."); s != nil {
		return v.direct(s, m.Data)
	}
	if s := api("$JS.API.STREAM.PURGE."); s != nil {
		var r struct {
			Filter string `json:"filter"`
			Bound  uint64 `json:"seq"`
		}
		decode(m.Data, &r)
		if r.Filter == "" {
			r.Filter = ">"
		}
		if v.unbounded {
			r.Bound = s.last() + 1
		}
		s.purge(r.Filter, r.Bound)
		return one([]byte(`{"success":true}`))
	}
	if s := api("$JS.API.STREAM.INFO."); s != nil {
		return one(s.info(now))
	}
	return one(v.publish(m, now))
}

// info says what a stream holds.
func (s *stream) info(now time.Time) []byte {
	state := map[string]any{"first_seq": s.last() + 1, "first_ts": time.Time{}, "last_seq": s.last()}
	if s.last() == 0 {
		state["first_seq"] = 0
	}
	messages, bytes := 0, 0
	for i := len(s.messages) - 1; i >= 0; i-- {
		if m := s.messages[i]; m.went == 0 {
			messages, bytes = messages+1, bytes+len(m.data)
			state["first_seq"], state["first_ts"] = m.sequence, m.time
		}
	}
	state["messages"], state["bytes"] = messages, bytes
	return encode(map[string]any{"state": state, "ts": now})
}

func one(data []byte) []*nats.Msg { return []*nats.Msg{{Data: data}} }

// decode reads what our own code wrote.
func decode(data []byte, v any) {
	if err := json.Unmarshal(data, v); err != nil {
		panic(fmt.Sprintf("%q: %v", data, err))
	}
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// publish stores a message, if its subject is as far as the publisher expects.
func (v *server) publish(m *nats.Msg, now time.Time) []byte {
	var s *stream
	for _, candidate := range v.streams {
		if covers := strings.HasPrefix(m.Subject, "wf.") == strings.HasPrefix(candidate.name, "WORKFLOWS"); covers {
			s = candidate
		}
	}
	if expected := m.Header.Get(protocol.HeaderExpectedSubjectSequence); expected != "" && !v.blind {
		last := uint64(0)
		if newest := s.newest(m.Subject); newest != nil {
			last = newest.sequence
		}
		if strconv.FormatUint(last, 10) != expected {
			return fmt.Appendf(nil, `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: %d"},"stream":%q,"seq":0}`, last, s.name)
		}
	}
	s.put(&message{subject: m.Subject, header: m.Header, data: m.Data, time: now})
	return fmt.Appendf(nil, `{"stream":%q,"seq":%d}`, s.name, s.last())
}

// get reads one message from the leader.
func (v *server) get(s *stream, request []byte) []byte {
	var r struct {
		Last string `json:"last_by_subj"`
		Next string `json:"next_by_subj"`
		From uint64 `json:"seq"`
	}
	decode(request, &r)
	found := s.newest(r.Last)
	for _, m := range s.messages {
		if r.Next != "" && m.went == 0 && m.sequence >= r.From && matches(r.Next, m.subject) {
			found = m
			break
		}
	}
	if found == nil {
		return []byte(`{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","error":{"code":404,"err_code":10037,"description":"no message found"}}`)
	}
	return encode(map[string]any{"message": map[string]any{
		"subject": found.subject, "seq": found.sequence, "data": found.data, "time": found.time,
	}})
}

// direct reads many messages from a replica.
func (v *server) direct(s *stream, request []byte) []*nats.Msg {
	var r struct {
		Last  []string `json:"multi_last"`
		Next  string   `json:"next_by_subj"`
		From  uint64   `json:"seq"`
		Batch int      `json:"batch"`
	}
	decode(request, &r)
	change := s.changes
	if v.lag != nil {
		change = max(0, change-v.lag(s))
	}
	var found []*message
	upTo := uint64(0)
	for _, m := range s.messages {
		if m.came <= change {
			upTo = m.sequence
		}
		wanted := r.Next != "" && m.sequence >= r.From && matches(r.Next, m.subject)
		if m.here(change) && (wanted || r.Next == "" && s.isLast(m, r.Last, change)) {
			found = append(found, m)
		}
	}
	if len(found) == 0 {
		return []*nats.Msg{{Header: nats.Header{protocol.HeaderStatus: {"404"}}}}
	}
	pending := 0
	if r.Batch > 0 && len(found) > r.Batch {
		pending = len(found) - r.Batch
		found = found[:r.Batch]
	}
	return answers(s, found, upTo, pending)
}

// isLast reports whether a message is the newest of its subject, as a replica sees it, and asked for.
func (s *stream) isLast(m *message, filters []string, change int) bool {
	asked := false
	for _, f := range filters {
		asked = asked || matches(f, m.subject)
	}
	if !asked {
		return false
	}
	for _, newer := range s.messages[m.sequence:] {
		if newer.subject == m.subject && newer.here(change) {
			return false
		}
	}
	return true
}

// answers are the messages of a batch and its end.
func answers(s *stream, found []*message, upTo uint64, pending int) []*nats.Msg {
	var all []*nats.Msg
	last := "0"
	for _, m := range found {
		sequence := strconv.FormatUint(m.sequence, 10)
		all = append(all, &nats.Msg{Data: m.data, Header: nats.Header{
			protocol.HeaderSubject: {m.subject}, protocol.HeaderSequence: {sequence}, protocol.HeaderLastSequence: {last},
			protocol.HeaderTime: {m.time.Format(time.RFC3339Nano)},
		}})
		last = sequence
	}
	return append(all, &nats.Msg{Header: nats.Header{
		protocol.HeaderStatus: {"204"}, protocol.HeaderPending: {strconv.Itoa(pending)}, protocol.HeaderLastSequence: {last},
		protocol.HeaderUpToSequence: {strconv.FormatUint(upTo, 10)},
	}})
}
