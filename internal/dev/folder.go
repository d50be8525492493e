package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/process"
)

// folder is a data folder that this process alone may use: two servers on the same files would destroy them.
type folder struct{ lock *os.File }

const lockFile = "skein-dev.lock"

// openFolder makes the folder, if it is not there, and locks it.
func openFolder(dir string) (*folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, process.WithHint(fmt.Errorf("data folder %q: %w", dir, err), "choose another folder with --data")
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, process.WithHint(fmt.Errorf("data folder %q: %w", dir, err), "choose another folder with --data")
	}
	if err := tryLock(lock); err != nil {
		return nil, errors.Join(inUse(dir, lock, err), lock.Close())
	}
	if err := writeOwner(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %q: %w", dir, err), lock.Close())
	}
	return &folder{lock}, nil
}

// close gives the folder free. The file stays: removing it would let two processes lock two files of that name.
func (f *folder) close() error { return f.lock.Close() }

func writeOwner(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func inUse(dir string, lock *os.File, err error) error {
	if !errors.Is(err, errLocked) {
		return fmt.Errorf("data folder %q: lock: %w", dir, err)
	}
	text := make([]byte, 32)
	n, _ := lock.ReadAt(text, 0) // who it is only adorns the message
	return process.WithHint(
		fmt.Errorf("data folder %q: process %s uses it", dir, strings.TrimSpace(string(text[:n]))),
		"stop that process, or choose another folder with --data")
}

// errLocked is returned by tryLock if another process has the lock.
var errLocked = errors.New("locked by another process")
