package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Options say what is copied, and to where. JS, Store and Dir are needed.
type Options struct {
	JS    jetstream.JetStream
	Store *journal.Store
	// Dir is made, or empty.
	Dir string
	// Projects are those that are copied; none: all that there are.
	Projects []string
	// Progress is called now and then with a stream, or what else is counted, and how many of its messages were read. Nil: nobody is
	// told.
	Progress func(what string, done int)
}

// Create copies projects into a folder, beside all that works. If it fails, what it has written is no backup.
func Create(ctx context.Context, o Options) (m *Manifest, err error) {
	m = &Manifest{V: FormatVersion, ID: uuid.NewString(), Began: time.Now().UTC(), Server: o.Store.Conn().ConnectedServerVersion()}
	if err := makeEmpty(o.Dir); err != nil {
		return nil, err
	}
	c := &copier{Options: o}
	configs, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	spool, err := os.MkdirTemp(o.Dir, "reading-")
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, t := range c.tapes {
			err = errors.Join(err, t.close())
		}
		err = errors.Join(err, os.RemoveAll(spool))
	}()
	for _, t := range c.tapes {
		if err := t.open(filepath.Join(spool, fileOf(t.stream))); err != nil {
			return nil, err
		}
	}
	c.watch()
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	m.Projects = c.copied
	if m.Streams, err = c.write(ctx, configs); err != nil {
		return nil, err
	}
	m.Ended = time.Now().UTC()
	return m, m.write(o.Dir)
}

// makeEmpty makes a folder, unless it is there and empty.
func makeEmpty(dir string) error {
	switch found, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return os.MkdirAll(dir, 0o700)
	case err != nil:
		return err
	case len(found) > 0:
		return fmt.Errorf("folder %q: is not empty, wanted is an empty one, or one that is not there", dir)
	}
	return nil
}

// UnknownProjectError says that there are no streams of a project.
type UnknownProjectError struct{ Project string }

func (e *UnknownProjectError) Error() string {
	return fmt.Sprintf("project %q: has no streams here", e.Project)
}

// find finds the streams that are copied.
func (c *copier) find(ctx context.Context) (map[string]jetstream.StreamConfig, error) {
	configs := map[string]jetstream.StreamConfig{}
	list := c.JS.ListStreams(ctx)
	for info := range list.Info() {
		kind, project, ok := protocol.ParseStream(info.Config.Name)
		if !ok || project != "" && len(c.Projects) > 0 && !slices.Contains(c.Projects, project) {
			continue
		}
		if info.Config.Metadata[protocol.MetadataRestore] != "" {
			return nil, fmt.Errorf("stream %q: is being restored from a backup, and not whole", info.Config.Name)
		}
		configs[info.Config.Name] = info.Config
		c.tapes = append(c.tapes, &tape{store: c.Store, stream: info.Config.Name, kind: kind, project: project, direct: info.Config.AllowDirect})
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	c.copied = c.projects()
	for _, project := range c.Projects {
		if !slices.Contains(c.copied, project) {
			return nil, &UnknownProjectError{project}
		}
	}
	if len(c.copied) == 0 {
		return nil, errors.New("there are no projects here")
	}
	return configs, nil
}

// write writes what is kept of all tapes.
func (c *copier) write(ctx context.Context, configs map[string]jetstream.StreamConfig) (written []Stream, err error) {
	k := &known{agents: map[string]bool{}, schedules: map[string]bool{}, rows: map[string]bool{}}
	for _, kind := range order {
		for _, t := range c.of(kind) {
			keep, err := c.keep(t, k)
			if err != nil {
				return nil, err
			}
			end, err := c.Store.State(ctx, t.stream)
			if err != nil {
				return nil, err
			}
			s, err := writeFile(c.Dir, t, configs[t.stream], end.Last, c.floors[t.stream], keep)
			if err != nil {
				return nil, err
			}
			written = append(written, s)
		}
	}
	return written, nil
}
