package agent

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

func draining(grace, drain time.Duration) hostOption {
	return func(_ *HostService, c *project.Config) {
		c.Settings.ShutdownGrace, c.Settings.HTTPDrain = process.Duration(grace), process.Duration(drain)
	}
}

// TestDrainedHostTakesRequests: a host that was told to stop serves on for http_drain, over open connections and new ones, but
// keeps none of them open.
func TestDrainedHostTakesRequests(t *testing.T) {
	t.Parallel()
	h := newRig(t).host(t, rooms(nil), draining(time.Minute, 8*time.Second))
	kept := &http.Client{Transport: &http.Transport{}}
	get := func(client *http.Client) (closed bool, err error) {
		response, err := client.Get(h.url + roomPath)
		if err != nil {
			return false, err
		}
		return response.Close, response.Body.Close()
	}
	if closed, err := get(kept); err != nil || closed {
		t.Fatalf("connection is closed: %v, error %v", closed, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- h.stop() }()
	natstest.Eventually(t, soon, "an open connection is closed with an answer", func() bool {
		closed, err := get(kept)
		if err != nil {
			t.Fatalf("a request over an open connection has failed: %v", err)
		}
		return closed
	})
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if closed, err := get(fresh); err != nil || !closed {
		t.Errorf("new connection is closed: %v, error %v", closed, err)
	}
	if err := awaitTurn(t, "the host has stopped", stopped); err != nil {
		t.Error(err)
	}
	if _, err := get(fresh); err == nil {
		t.Error("the host takes requests after it has stopped")
	}
}

func TestDrainThatLeavesNoTime(t *testing.T) {
	t.Parallel()
	p := &project.Project{Config: project.Config{Settings: process.Settings{ShutdownGrace: process.Duration(time.Second), HTTPDrain: process.Duration(time.Second)}}}
	err := Host(rooms(nil)...).Serve(t.Context(), p)
	wrong, ok := errors.AsType[*process.SettingError](err)
	if !ok || wrong.Error() != `http_drain: "1s": allowed is at most half of shutdown_grace, which is 1s` {
		t.Errorf("got %v", err)
	}
}
