package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is the network of one machine. It has no name: it is gone when the last process in it has ended.
type Namespace struct{ file *os.File }

// NewNamespace makes a network without anything in it. That needs root.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err error
		n.file, err = current()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace (which needs root): %w", err)
	}
	return n, nil
}

func current() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// apart calls f on a thread of its own, and takes the thread back to the network where it was.
func apart(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := current()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("go back to the network of before: %w", back))
			return // the thread ends with its goroutine, as it is locked
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// Do calls f on a thread that is in this network; a process that f starts is in it, too.
func (n *Namespace) Do(f func() error) error {
	return apart(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

const (
	tunDevice = "/dev/net/tun"
	ifName    = "lab0"
)

// OpenTUN makes a device with the address 10.77.0.host in this network, and returns the file of packets that go into it and come from it.
func (n *Namespace) OpenTUN(host byte) (*os.File, error) {
	var file *os.File
	err := n.Do(func() (err error) {
		file, err = openTUN()
		if err != nil {
			return err
		}
		return errors.Join(raise("lo", nil, 0), raise(ifName, []byte{10, 77, 0, host}, MTU))
	})
	return file, err
}

func openTUN() (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	request, err := unix.NewIfreq(ifName)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", ifName, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}

// raise gives a device an address, if there is one, and has it work.
func raise(name string, address []byte, mtu uint32) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	set := func(call uint, fill func(*unix.Ifreq) error) error {
		request, err := unix.NewIfreq(name)
		if err == nil {
			err = fill(request)
		}
		if err == nil {
			err = unix.IoctlIfreq(socket, call, request)
		}
		return err
	}
	if address != nil {
		err = errors.Join(
			set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address) }),
			set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }),
			set(unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }),
		)
	}
	err = errors.Join(err, set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }))
	if err != nil {
		return fmt.Errorf("set up device %s: %w", name, err)
	}
	return nil
}

// Own is the network that this process is in. It must be one that nobody else uses.
func Own() (*Namespace, error) {
	file, err := current()
	if err != nil {
		return nil, fmt.Errorf("network of the lab: %w", err)
	}
	return &Namespace{file}, nil
}
