// Package clock gives programs a clock that can be set. No namespace of Linux has a wall clock of its own, so the programs are compiled
// with a standard library in which time.Now adds an offset, which it reads from a file that is mapped into memory. The monotonic
// clock goes on, as it does when a machine's clock is set. It must never set the clock of the machine.
package clock

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Env names the file of the clock in the environment of a program that was compiled with Overlay. Without it, the clock is right.
const Env = "SKEIN_LAB_CLOCK"

// now is what time.Now begins with in the standard library, and skewed what it begins with here.
const (
	now    = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	skewed = "func Now() Time {\n\tsec, nsec, mono := labNow()\n"
)

// addition is the file that is added to package time. The first number of the file is the offset in nanoseconds, the second the offset
// that the program has last used.
const addition = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var labClock = openLabClock()

func openLabClock() *[2]atomic.Int64 {
	path, ok := syscall.Getenv("` + Env + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open the clock " + path + ": " + err.Error())
	}
	memory, err := syscall.Mmap(fd, 0, 16, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic("map the clock " + path + ": " + err.Error())
	}
	_ = syscall.Close(fd)
	return (*[2]atomic.Int64)(unsafe.Pointer(&memory[0]))
}

func labNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	if labClock == nil {
		return sec, nsec, mono
	}
	offset := labClock[0].Load()
	if labClock[1].Load() != offset {
		labClock[1].Store(offset)
	}
	sec += offset / 1e9
	sum := int64(nsec) + offset%1e9
	switch {
	case sum < 0:
		sec, sum = sec-1, sum+1e9
	case sum >= 1e9:
		sec, sum = sec+1, sum-1e9
	}
	return sec, int32(sum), mono
}
`

// Overlay writes into dir what go build -overlay needs to compile programs whose clock can be set, and returns the path of its
// description. goroot is that of the compiler. If its package time is not as expected, it says so.
func Overlay(goroot, dir string) (string, error) {
	source := filepath.Join(goroot, "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", fmt.Errorf("clock of the lab: %w", err)
	}
	if n := strings.Count(string(text), now); n != 1 {
		return "", fmt.Errorf("clock of the lab: %s has %d times %q, want 1: package time has changed, and test/lab/clock has to follow", source, n, now)
	}
	changed := filepath.Join(dir, "time.go")
	added := filepath.Join(dir, "lab.go")
	description, err := json.Marshal(map[string]map[string]string{"Replace": {
		source: changed, filepath.Join(goroot, "src", "time", "lab.go"): added,
	}})
	path := filepath.Join(dir, "overlay.json")
	err = errors.Join(err,
		os.MkdirAll(dir, 0o755),
		os.WriteFile(changed, []byte(strings.Replace(string(text), now, skewed, 1)), 0o644),
		os.WriteFile(added, []byte(addition), 0o644),
		os.WriteFile(path, description, 0o644),
	)
	if err != nil {
		return "", fmt.Errorf("clock of the lab: %w", err)
	}
	return path, nil
}

// Clock is the clock of one process.
type Clock struct {
	path   string
	memory []byte
	words  *[2]atomic.Int64
}

const fileSize = 16

// New makes the file of a clock that is right.
func New(path string) (*Clock, error) {
	if err := os.WriteFile(path, make([]byte, fileSize), 0o644); err != nil {
		return nil, fmt.Errorf("make a clock: %w", err)
	}
	return open(path)
}

func open(path string) (*Clock, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open a clock: %w", err)
	}
	defer file.Close()
	memory, err := syscall.Mmap(int(file.Fd()), 0, fileSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the clock %s: %w", path, err)
	}
	return &Clock{path: path, memory: memory, words: (*[2]atomic.Int64)(unsafe.Pointer(&memory[0]))}, nil
}

// Setting is the variable of the environment by which a process gets this clock.
func (c *Clock) Setting() string { return Env + "=" + c.path }

// Set puts the clock off by that much; 0 puts it right.
func (c *Clock) Set(offset time.Duration) { c.words[0].Store(int64(offset)) }

// Offset is by how much the clock is off.
func (c *Clock) Offset() time.Duration { return time.Duration(c.words[0].Load()) }

// Seen is the offset that the process has last read the clock with.
func (c *Clock) Seen() time.Duration { return time.Duration(c.words[1].Load()) }

// Close lets go of the file.
func (c *Clock) Close() error { return syscall.Munmap(c.memory) }
