// Package disk is the disk of a machine of the lab: a file system in user space that passes everything on to a folder, and remembers what
// a loss of power would take back, or says that it is full.
//
// What is lost is modelled after a file system with a journal, as ext4 and XFS: what was written into a file stays if that file was synced
// after it; making, renaming, removing and cutting off files stays if any file or directory was synced after it, because those go
// into the journal in order. What is older than half a minute stays, because the kernel writes that by itself. Nothing else stays.
// It must never keep less than a sync has promised.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Undo knows how to take back what was not synced of the files below a folder. All changes are made through it. It is safe for
// concurrent use.
type Undo struct {
	// trash has what was removed, until that is synced.
	trash string

	mu      sync.Mutex // guards what follows
	names   []func() error
	named   time.Time // when the first of the names came
	removed []string
	dirty   map[uint64]*unsynced
	count   int
	full    bool
	refused int64
	synced  int64
}

// unsynced is what was done to the contents of a file since it was last synced.
type unsynced struct {
	// file is open as long as this is kept, wherever the file is renamed to.
	file *os.File
	// since is when the first of it was done.
	since time.Time
	// size that the file had when it was last synced, or was cut off to for good since.
	size int64
	// cut is the least size that it was cut off to since anything was synced, or that of before.
	cut int64
	// overwritten parts, in the order in which they were.
	overwritten []extent
	written     int64
}

type extent struct {
	at  int64
	old []byte
}

// Lost is what a loss of power has taken back.
type Lost struct {
	// Bytes that were written and not synced, of that many Files.
	Bytes int64
	Files int
	// Names is how many files were made, renamed or removed in vain.
	Names int
}

func (l Lost) String() string {
	return fmt.Sprintf("%d unsynced bytes of %d files and %d changes of directories lost", l.Bytes, l.Files, l.Names)
}

// NewUndo returns an Undo that keeps what is removed in a folder, which must be on the same file system.
func NewUndo(trash string) *Undo { return &Undo{trash: trash, dirty: map[uint64]*unsynced{}} }

// SetFull has the disk refuse from now on whatever takes room, or no longer.
func (u *Undo) SetFull(full bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.full = full
}

// Refused is how often a full disk has said so.
func (u *Undo) Refused() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.refused
}

// Syncs is how often something was synced.
func (u *Undo) Syncs() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.synced
}

// room refuses what takes room of a full disk. The caller holds the lock.
func (u *Undo) room() error {
	if !u.full {
		return nil
	}
	u.refused++
	return syscall.ENOSPC
}

// of returns what is remembered of a file. The caller holds the lock.
func (u *Undo) of(fd int) (*unsynced, int64, error) {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return nil, 0, err
	}
	if d := u.dirty[stat.Ino]; d != nil {
		return d, stat.Size, nil
	}
	file, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	d := &unsynced{file: file, since: time.Now(), size: stat.Size, cut: stat.Size}
	u.dirty[stat.Ino] = d
	return d, stat.Size, nil
}

// keep remembers a part of a file that will change. What lies beyond the synced size goes anyway.
func (d *unsynced) keep(from, to int64) error {
	if to = min(to, d.size); from >= to {
		return nil
	}
	old := make([]byte, to-from)
	if _, err := d.file.ReadAt(old, from); err != nil {
		return err
	}
	d.overwritten = append(d.overwritten, extent{from, old})
	return nil
}

// Write writes to an open file.
func (u *Undo) Write(fd int, data []byte, at int64) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	d, size, err := u.of(fd)
	if err != nil {
		return 0, err
	}
	end := at + int64(len(data))
	if end > size {
		if err := u.room(); err != nil {
			return 0, err
		}
	}
	if err := d.keep(at, min(end, size)); err != nil {
		return 0, err
	}
	d.written += int64(len(data))
	return syscall.Pwrite(fd, data, at)
}

// Truncate sets the size of an open file.
func (u *Undo) Truncate(fd int, to int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.truncate(fd, to)
}

func (u *Undo) truncate(fd int, to int64) error {
	d, size, err := u.of(fd)
	if err != nil {
		return err
	}
	if to > size {
		if err := u.room(); err != nil {
			return err
		}
	}
	if err := d.keep(to, size); err != nil {
		return err
	}
	if err := syscall.Ftruncate(fd, to); err != nil {
		return err
	}
	d.cut = min(d.cut, to)
	return nil
}

// Sync makes durable what was written to an open file, and all that was done to directories and sizes.
func (u *Undo) Sync(fd int) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return err
	}
	var err error
	if d := u.dirty[stat.Ino]; d != nil {
		delete(u.dirty, stat.Ino)
		err = d.file.Close()
	}
	return errors.Join(err, u.commit())
}

// WriteBack makes durable what was begun before a moment, as the kernel does by itself after a while.
func (u *Undo) WriteBack(before time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := len(u.names) > 0 && u.named.Before(before)
	var errs error
	for inode, d := range u.dirty {
		if d.since.Before(before) {
			delete(u.dirty, inode)
			errs = errors.Join(errs, d.file.Close())
			old = true
		}
	}
	if !old {
		return errs
	}
	return errors.Join(errs, u.commit())
}

// SyncNames makes durable all that was done to directories and sizes.
func (u *Undo) SyncNames() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.commit()
}

// name remembers how to take back what was done to a directory. The caller holds the lock.
func (u *Undo) name(back func() error) {
	if len(u.names) == 0 {
		u.named = time.Now()
	}
	u.names = append(u.names, back)
}

func (u *Undo) commit() error {
	u.synced++
	var err error
	for _, path := range u.removed {
		err = errors.Join(err, u.forget(path), os.Remove(path))
	}
	u.names, u.removed = u.names[:0], u.removed[:0]
	for _, d := range u.dirty {
		d.size = d.cut
	}
	return err
}

// forget lets go of a file that will be gone for good. The caller holds the lock.
func (u *Undo) forget(path string) error {
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return err
	}
	d := u.dirty[stat.Ino]
	if d == nil || stat.Nlink > 1 {
		return nil
	}
	delete(u.dirty, stat.Ino)
	return d.file.Close()
}

// Create opens a file, and makes it if there is none.
func (u *Undo) Create(path string, flags int, mode fs.FileMode) (*os.File, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.room(); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) && flags&os.O_EXCL == 0 {
		return u.openExisting(path, flags, mode)
	}
	if err == nil {
		u.name(func() error { return os.Remove(path) })
	}
	return file, err
}

// openExisting opens a file that is there. The caller holds the lock.
func (u *Undo) openExisting(path string, flags int, mode fs.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, flags&^os.O_TRUNC, mode)
	if err != nil || flags&os.O_TRUNC == 0 {
		return file, err
	}
	if err := u.truncate(int(file.Fd()), 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Mkdir makes a directory.
func (u *Undo) Mkdir(path string, mode fs.FileMode) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.room(); err != nil {
		return err
	}
	err := os.Mkdir(path, mode)
	if err == nil {
		u.name(func() error { return os.Remove(path) })
	}
	return err
}

// Rmdir removes an empty directory.
func (u *Undo) Rmdir(path string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := os.Stat(path)
	if err == nil {
		err = syscall.Rmdir(path)
	}
	if err == nil {
		u.name(func() error { return os.Mkdir(path, info.Mode().Perm()) })
	}
	return err
}

// Unlink removes a file.
func (u *Undo) Unlink(path string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept := u.kept()
	if err := os.Rename(path, kept); err != nil {
		return err
	}
	u.removed = append(u.removed, kept)
	u.name(func() error { return os.Rename(kept, path) })
	return nil
}

func (u *Undo) kept() string {
	u.count++
	return filepath.Join(u.trash, strconv.Itoa(u.count))
}

// Rename renames a file or a directory. A file that there is under the new name is replaced.
func (u *Undo) Rename(from, to string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if info, err := os.Lstat(to); err == nil && info.IsDir() {
		return u.renameOver(from, to, info)
	}
	kept := u.kept()
	err := os.Link(to, kept)
	replaces := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		if replaces {
			return errors.Join(err, os.Remove(kept))
		}
		return err
	}
	if replaces {
		u.removed = append(u.removed, kept)
	}
	u.name(func() error {
		err := os.Rename(to, from)
		if replaces {
			err = errors.Join(err, os.Rename(kept, to))
		}
		return err
	})
	return nil
}

// renameOver renames a directory over an empty one. The caller holds the lock.
func (u *Undo) renameOver(from, to string, replaced fs.FileInfo) error {
	if err := syscall.Rename(from, to); err != nil {
		return err
	}
	u.name(func() error {
		return errors.Join(os.Rename(to, from), os.Mkdir(to, replaced.Mode().Perm()))
	})
	return nil
}

// LosePower takes back what was not synced. Nobody may use the files meanwhile, nor have them open.
func (u *Undo) LosePower() (Lost, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	lost := Lost{Files: len(u.dirty), Names: len(u.names)}
	var errs error
	for i := len(u.names) - 1; i >= 0; i-- {
		errs = errors.Join(errs, u.names[i]())
	}
	u.names, u.removed = nil, nil
	for inode, d := range u.dirty {
		lost.Bytes += d.written
		errs = errors.Join(errs, d.takeBack())
		delete(u.dirty, inode)
	}
	if errs != nil {
		return lost, fmt.Errorf("lose power: %w", errs)
	}
	return lost, nil
}

func (d *unsynced) takeBack() error {
	var errs error
	for i := len(d.overwritten) - 1; i >= 0; i-- {
		_, err := d.file.WriteAt(d.overwritten[i].old, d.overwritten[i].at)
		errs = errors.Join(errs, err)
	}
	return errors.Join(errs, d.file.Truncate(d.size), d.file.Close())
}
