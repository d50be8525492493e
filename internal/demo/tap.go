package demo

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"

	"github.com/skein-run/skein/internal/logkey"
)

// facts are what the log of a process tells about it.
type facts struct {
	// health and requests are the addresses of /readyz and of the agents, runner is the id of a workflow runner.
	health, requests, runner string
}

// tap writes the log of a process to a file and notes the facts in it.
type tap struct {
	file *os.File

	mu   sync.Mutex // guards what follows
	rest []byte
	seen facts
}

// Write takes any piece of the log.
func (t *tap) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, p...)
	for {
		line, rest, ok := bytes.Cut(t.rest, []byte("\n"))
		if !ok {
			break
		}
		t.note(line)
		t.rest = rest
	}
	return t.file.Write(p)
}

// note looks for facts in a line; t.mu is held. Lines that are no JSON, such as those of a crash, have none.
func (t *tap) note(line []byte) {
	var entry map[string]any
	if json.Unmarshal(line, &entry) != nil {
		return
	}
	text := func(key string) string {
		s, _ := entry[key].(string)
		return s
	}
	switch entry["msg"] {
	case "serving health":
		t.seen.health = text(logkey.Address)
	case "taking requests":
		t.seen.requests = text(logkey.Address)
	case "runner takes work":
		t.seen.runner = text(logkey.Runner)
	}
}

func (t *tap) facts() facts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

// lastLines reads the end of a log.
func lastLines(path string, n int) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}
