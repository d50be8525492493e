//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package dev

import (
	"errors"
	"os"
	"syscall"
)

// tryLock locks the file until it is closed or the process ends, however it ends.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
