// Command record stores what the project past has stored when it stops in the middle of everything: see test/skew.
//
// It is built with the code of the version that is to be recorded:
//
//	git worktree add /tmp/then COMMIT && cp -r test/skew /tmp/then/test/ && cd /tmp/then && go run ./test/skew/record -out NAME.tar.gz
//
// It must never use what the oldest recorded version does not have.
package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"

	"github.com/skein-run/skein/test/skew/past"
)

func main() {
	out := flag.String("out", "", "the file to be written, .tar.gz")
	flag.Parse()
	if err := record(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func record(ctx context.Context, out string) error {
	if out == "" {
		return errors.New("-out: is missing")
	}
	dir, err := os.MkdirTemp("", "skew")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	nats.Start()
	if !nats.ReadyForConnections(10 * time.Second) {
		return errors.New("the server takes no connections")
	}
	past.Recording.Store(true)
	config := past.Config(nats.ClientURL())
	if err := live(ctx, config); err != nil {
		return err
	}
	nats.Shutdown()
	nats.WaitForShutdown()
	return pack(dir, out)
}

// live brings all instances to where they stop.
func live(ctx context.Context, config project.Config) error {
	p, err := project.Open(ctx, config, project.Logger(slog.Default()))
	if err != nil {
		return err
	}
	defer p.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- project.Run(running, p, services()...) }()
	for !p.IsReady() {
		select {
		case err := <-done:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
	b := func(name string) workflow.Bound[string, string] { return workflow.Bind[string, string](name).In(p) }
	for _, name := range past.Names {
		for _, id := range []string{"one", "two"} {
			if _, err := b(name).Create(ctx, past.Input(name, id), workflow.ID(id)); err != nil {
				return err
			}
		}
	}
	if err := agents(ctx, p); err != nil {
		return err
	}
	if err := settle(ctx, b); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // what is on its way to rest has come there
	stop()
	if err := <-done; err != nil {
		return err
	}
	return leave(ctx, p, b)
}

// settle pauses an instance, and ends one.
func settle(ctx context.Context, b func(string) workflow.Bound[string, string]) error {
	for _, id := range []string{"paused", "done"} {
		i, err := b("waiter").Create(ctx, id, workflow.ID(id))
		if err != nil {
			return err
		}
		if id == "paused" {
			err = i.Pause(ctx)
		} else {
			err = i.SendEvent(ctx, "go", "ended")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leave stores what nobody has seen: creates and events while no runner is there.
func leave(ctx context.Context, p *project.Project, b func(string) workflow.Bound[string, string]) error {
	if _, err := b("waiter").Create(ctx, "unseen", workflow.ID("unseen")); err != nil {
		return err
	}
	i, err := b("waiter").Get(ctx, "two")
	if err != nil {
		return err
	}
	if err := i.SendEvent(ctx, "go", "sent to nobody"); err != nil {
		return err
	}
	return leaveMail(ctx, p)
}

func pack(dir, out string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
	w := tar.NewWriter(z)
	var paths []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		if err := add(w, dir, path); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close(), f.Close())
}

func add(w *tar.Writer, dir, path string) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	content, err := os.Open(path)
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, content)
	return err
}
