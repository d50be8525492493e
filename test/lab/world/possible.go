//go:build linux

package world

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// devices are what the lab cannot do without.
var devices = []struct{ path, what string }{
	{"/dev/net/tun", "the network of the machines; load the module tun, or give a container the device"},
	{"/dev/fuse", "the disks of the NATS servers; load the module fuse, or give a container the device"},
}

// Possible says what this machine lacks for a lab, if anything.
func Possible() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("the lab makes networks and mounts, which needs root, and this is user %d; run it as root, as in sudo", uid)
	}
	var errs error
	for _, d := range devices {
		file, err := os.OpenFile(d.path, os.O_RDWR, 0)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("the lab needs %s for %s: %w", d.path, d.what, err))
			continue
		}
		errs = errors.Join(errs, file.Close())
	}
	return errs
}

// Private keeps mounts from spreading to where the lab was started, and allows as many files as there may be.
func Private() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the lab's mounts to itself: %w", err)
	}
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("ask how many files may be open: %w", err)
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
