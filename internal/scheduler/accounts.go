package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
)

const (
	// partAccounts is ready while one account is served, and all were tried.
	partAccounts = "accounts"
	// scanEvery is how often it is looked which accounts there are.
	scanEvery = 2 * time.Second
)

// accounts has a scheduler in each of several accounts of NATS: those that a folder has a user for. What is wrong with one
// is no matter of the others. One goroutine uses it.
type accounts struct {
	*process.Env
	rounds  janitor.Rounds
	running map[string]*account
	// unread is why the folder cannot be read now, once it could be.
	unread string
}

func newAccounts(env *process.Env, rounds janitor.Rounds) *accounts {
	return &accounts{Env: env, rounds: rounds, running: map[string]*account{}}
}

// Run serves accounts until ctx is done, and those that come later from when their file is there. A file that goes ends that,
// one that changes lets it begin anew, as another user. It returns an error only if there is no account at the start.
func (a *accounts) Run(ctx context.Context) error {
	a.Health.Expect(partAccounts)
	ctx, stop := context.WithCancel(ctx)
	defer a.await()
	defer stop()
	found, err := a.files()
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s %q: has no file of a user; allowed are files NAME.nk or NAME.creds, one for each account", process.SettingNATSUsers, a.Settings.NATSUsers)
	}
	if err != nil {
		return err
	}
	ticker := time.NewTicker(scanEvery)
	defer ticker.Stop()
	for {
		a.update(ctx, found)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		found = a.scan(ctx, found)
	}
}

// scan looks into the folder. If that cannot be read all stays as it was.
func (a *accounts) scan(ctx context.Context, before map[string][]byte) map[string][]byte {
	found, err := a.files()
	if err == nil {
		a.unread = ""
		return found
	}
	if a.unread != err.Error() {
		a.unread = err.Error()
		a.Log.WarnContext(ctx, "cannot look which accounts there are, trying on", slog.Any(logkey.Error, err))
	}
	return before
}

// files returns the contents of all files of users, by their names.
func (a *accounts) files() (map[string][]byte, error) {
	entries, err := os.ReadDir(a.Settings.NATSUsers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", process.SettingNATSUsers, err)
	}
	found, names := map[string][]byte{}, map[string]string{}
	for _, entry := range entries {
		file, ext := entry.Name(), filepath.Ext(entry.Name())
		if ext != extNKey && ext != extCreds {
			continue
		}
		name := strings.TrimSuffix(file, ext)
		if other, ok := names[name]; ok {
			return nil, fmt.Errorf("%s %q: has %q and %q; allowed is one file for an account", process.SettingNATSUsers, a.Settings.NATSUsers, other, file)
		}
		names[name] = file
		if found[file], err = os.ReadFile(filepath.Join(a.Settings.NATSUsers, file)); err != nil {
			return nil, fmt.Errorf("%s: %w", process.SettingNATSUsers, err)
		}
	}
	return found, nil
}

// Ends of files of users.
const (
	extNKey  = ".nk"
	extCreds = ".creds"
)

// update serves the accounts whose files were found and no others.
func (a *accounts) update(ctx context.Context, found map[string][]byte) {
	for file, s := range a.running {
		if data, ok := found[file]; !ok || !bytes.Equal(data, s.data) {
			s.stop()
		}
		select {
		case <-s.ended:
			a.Health.Warn(s.about(), nil)
			s.metrics.drop()
			delete(a.running, file)
		default:
		}
	}
	for file, data := range found {
		if a.running[file] == nil && ctx.Err() == nil {
			a.start(ctx, file, data)
		}
	}
	all := slices.Collect(maps.Values(a.running))
	a.Health.Check(partAccounts, func() error { return served(all) })
}

func (a *accounts) start(ctx context.Context, file string, data []byte) {
	ctx, cancel := context.WithCancel(ctx)
	name := strings.TrimSuffix(file, filepath.Ext(file))
	s := &account{
		rounds: a.rounds,
		name:   name, data: data, stop: cancel, ended: make(chan struct{}), begun: time.Now(), health: process.NewHealth(),
		env:     process.Env{Name: a.Name, Settings: a.Settings, Log: a.Log.With(slog.String(logkey.Account, name))},
		metrics: &group{Registerer: prometheus.WrapRegistererWith(prometheus.Labels{logkey.Account: name}, a.Metrics)},
	}
	s.env.Settings.NATSUsers, s.env.Settings.NATSNKey, s.env.Settings.NATSCreds = "", "", ""
	path := filepath.Join(a.Settings.NATSUsers, file)
	if filepath.Ext(file) == extCreds {
		s.env.Settings.NATSCreds = path
	} else {
		s.env.Settings.NATSNKey = path
	}
	a.running[file] = s
	s.expose()
	a.Health.Warn(s.about(), s.trouble)
	go func() { // waited for by await
		defer close(s.ended)
		s.run(ctx)
	}()
}

// await waits until all have handed back what they held.
func (a *accounts) await() {
	for _, s := range a.running {
		<-s.ended
	}
}

// served says why the accounts together cannot be called ready: one has not been tried yet, or none is served.
func served(all []*account) error {
	var troubles []error
	for _, s := range all {
		if s.serves() {
			continue
		}
		err := fmt.Errorf("account %s: %w", s.name, s.trouble())
		if !s.wasTried() {
			return err
		}
		troubles = append(troubles, err)
	}
	if len(troubles) < len(all) {
		return nil
	}
	return errors.Join(append([]error{errors.New("no account is served")}, troubles...)...)
}
