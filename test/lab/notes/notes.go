// Package notes keeps what clients of the fault lab were told, and what its bodies and turns did: in files outside of Skein, and of
// all faults. The checker holds what Skein has stored against them.
//
// It must never go through anything that is judged: a note is one write to a file of its process alone, so that one that was killed
// has lost nothing that it had noted.
package notes

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Kind says what a note is about.
type Kind string

// Kinds of notes.
const (
	// Begun and Answered are the two ends of a request of a client.
	Begun    Kind = "begun"
	Answered Kind = "answered"
	// Body tells that the body of a step begins, Returned what it is about to return.
	Body     Kind = "body"
	Returned Kind = "returned"
	// Frame is what came over a socket, Closed how it ended.
	Frame  Kind = "frame"
	Closed Kind = "closed"
)

// Outcome is what a client was told.
type Outcome string

// Outcomes of requests.
const (
	// OK is an acknowledgement: what was asked for is durable.
	OK Outcome = "ok"
	// Refused is an answer that says that nothing was stored.
	Refused Outcome = "refused"
	// Unknown is everything else: nobody can tell from the answer whether it happened.
	Unknown Outcome = "unknown"
)

// Note is one line. Which fields are set depends on Kind.
type Note struct {
	At time.Time `json:"at"`
	// By is the process that has noted it.
	By   string `json:"by"`
	Kind Kind   `json:"kind"`

	// Request is unique; Action is what it asks for, of whom: an instance, or an agent (then Workflow is its class, ID its name).
	Request  string  `json:"request,omitempty"`
	Action   string  `json:"action,omitempty"`
	Project  string  `json:"project,omitempty"`
	Workflow string  `json:"workflow,omitempty"`
	ID       string  `json:"id,omitempty"`
	Outcome  Outcome `json:"outcome,omitempty"`
	// Detail is an error, or whatever else helps people.
	Detail string `json:"detail,omitempty"`
	// Value is what a request was answered with, or what a body returns.
	Value json.RawMessage `json:"value,omitempty"`

	// Step, Attempt, Key and Fence are those of a body.
	Step    string `json:"step,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Key     string `json:"key,omitempty"`
	Fence   uint64 `json:"fence,omitempty"`
	// Lane and Number place a message among those of its sender.
	Lane   string `json:"lane,omitempty"`
	Number int    `json:"number,omitempty"`
	// Do, To, Other and Times are what an agent was asked for beside that.
	Do    string `json:"do,omitempty"`
	To    string `json:"to,omitempty"`
	Other bool   `json:"other,omitempty"`
	Times int    `json:"times,omitempty"`
}

// Writer appends the notes of one process to a file. It is safe for concurrent use.
type Writer struct {
	by string

	mu   sync.Mutex // guards file
	file *os.File
}

const suffix = ".jsonl"

// Open begins the notes of a process in a folder, which it makes if need be.
func Open(dir, by string) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open notes: %w", err)
	}
	name := fmt.Sprintf("%s-%d-%d%s", by, os.Getpid(), time.Now().UnixNano(), suffix)
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open notes: %w", err)
	}
	return &Writer{by: by, file: file}, nil
}

// Add notes something, which is safe from the end of the process when Add returns.
func (w *Writer) Add(n Note) error {
	n.At, n.By = time.Now().UTC(), w.by
	line, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("note: %w", err)
	}
	return nil
}

// Close ends the notes of the process.
func (w *Writer) Close() error { return w.file.Close() }

// Read reads all notes in a folder, each file in its order. A last line that was cut off is left out.
func Read(dir string) ([]Note, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("read notes: %w", err)
	}
	var all []Note
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read notes: %w", err)
		}
		found, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("read notes: %s: %w", strings.TrimPrefix(file, dir), err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func parse(text []byte) ([]Note, error) {
	var all []Note
	if last := bytes.LastIndexByte(text, '\n'); last >= 0 {
		text = text[:last+1]
	} else {
		return nil, nil
	}
	lines := bufio.NewReader(bytes.NewReader(text))
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 {
			return all, nil
		}
		var n Note
		if err := errors.Join(json.Unmarshal(line, &n)); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		all = append(all, n)
		if err != nil {
			return all, nil
		}
	}
}
