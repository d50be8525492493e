package agenttest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Do sends a request to the host, whatever host its address names, and returns the answer. httptest.NewRequest makes one.
func (k *Kit) Do(r *http.Request) *http.Response {
	k.t.Helper()
	r = r.Clone(r.Context())
	r.RequestURI = ""
	r.URL = &url.URL{Scheme: "http", Host: k.host.service.Addr().String(), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		k.t.Fatalf("agenttest: %s %s: %v", r.Method, r.URL.Path, err)
	}
	return response
}

// Request sends a request with a body and returns the status and the body of the answer.
func (k *Kit) Request(method, path, body string) (status int, answer string) {
	k.t.Helper()
	response := k.Do(httptest.NewRequestWithContext(k.t.Context(), method, path, strings.NewReader(body)))
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		k.t.Fatalf("agenttest: %s %s: %v", method, path, err)
	}
	return response.StatusCode, string(text)
}

// State is the state of an agent as it is stored when nothing moves; the zero S if it has none. Reading it does not wake the
// agent.
func State[S any](k *Kit, class, name string) S {
	k.t.Helper()
	k.Settle()
	var s S
	bucket := protocol.AgentsBucket(k.Project.Config.Name)
	m, err := k.Project.Journal().Last(k.t.Context(), protocol.KVStream(bucket), protocol.KVSubject(bucket, protocol.AgentKey(class, name)))
	if errors.Is(err, journal.ErrNotFound) {
		return s
	}
	var r protocol.Record
	if err == nil && m.Header.Get(protocol.HeaderKVOperation) == "" {
		err = json.Unmarshal(m.Data, &r)
	}
	if err == nil && r.StateObject != nil {
		r.State, err = k.Project.Objects().Get(k.t.Context(), k.Project.Config.Name, *r.StateObject)
	}
	if err == nil && r.State != nil {
		err = json.Unmarshal(r.State, &s)
	}
	if err != nil {
		k.t.Fatalf("agenttest: state of %s: %v", describe(class, name), err)
	}
	return s
}

// records are those of all agents.
func (k *Kit) records() (all []protocol.Record) {
	k.t.Helper()
	bucket := protocol.AgentsBucket(k.Project.Config.Name)
	batch, err := k.Project.Journal().LastOfMany(k.t.Context(), protocol.KVStream(bucket), []string{protocol.KVSubject(bucket, ">")})
	if err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
	for _, m := range batch.Messages {
		var r protocol.Record
		if m.Header.Get(protocol.HeaderKVOperation) != "" {
			continue
		}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			k.t.Fatalf("agenttest: %s: %v", m.Subject, err)
		}
		all = append(all, r)
	}
	return all
}
