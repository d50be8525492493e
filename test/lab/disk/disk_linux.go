package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Disk is the disk of one machine.
type Disk struct {
	*Undo
	// Path is where its files are for programs.
	Path    string
	live    string
	server  *fuse.Server
	closing chan struct{}
	kernel  sync.WaitGroup
	// failed is what writeBack ended with.
	failed error
}

// Linux looks every 5 s for what was written 30 s ago, by default (dirty_writeback_centisecs, dirty_expire_centisecs).
const (
	writesBackEvery = 5 * time.Second
	writesBackAfter = 30 * time.Second
)

// New makes an empty disk that keeps its files in a folder and shows them at Path, which is below it. That needs root.
func New(folder string) (*Disk, error) {
	d := &Disk{Undo: NewUndo(filepath.Join(folder, "removed")), Path: filepath.Join(folder, "disk"), live: filepath.Join(folder, "live"),
		closing: make(chan struct{})}
	for _, path := range []string{d.trash, d.Path, d.live} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make a disk: %w", err)
		}
	}
	if err := d.mount(); err != nil {
		return nil, err
	}
	d.kernel.Go(d.writeBack)
	return d, nil
}

// writeBack does what the kernel does by itself, until the disk is closed.
func (d *Disk) writeBack() {
	ticks := time.NewTicker(writesBackEvery)
	defer ticks.Stop()
	for {
		select {
		case <-d.closing:
			return
		case now := <-ticks.C:
			if err := d.WriteBack(now.Add(-writesBackAfter)); err != nil {
				d.failed = fmt.Errorf("write back %s: %w", d.live, err)
				return
			}
		}
	}
}

func (d *Disk) mount() error {
	root, err := fs.NewLoopbackRoot(d.live)
	if err != nil {
		return fmt.Errorf("mount %s: %w", d.Path, err)
	}
	long := time.Hour // nobody else changes the files
	d.server, err = fs.Mount(d.Path, &node{root.(*fs.LoopbackNode), d.Undo}, &fs.Options{
		AttrTimeout: &long, EntryTimeout: &long,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "lab", Name: "lab", MaxWrite: 1 << 20},
	})
	if err != nil {
		return fmt.Errorf("mount %s (which needs root and /dev/fuse): %w", d.Path, err)
	}
	return nil
}

// Close unmounts the disk. The files stay in its folder.
func (d *Disk) Close() error {
	close(d.closing)
	d.kernel.Wait()
	return errors.Join(d.failed, d.unmount())
}

func (d *Disk) unmount() error {
	if err := d.server.Unmount(); err != nil {
		return fmt.Errorf("unmount %s: %w", d.Path, err)
	}
	return nil
}

// LosePower takes back what was not synced. The processes that have used the disk must have ended.
func (d *Disk) LosePower() (Lost, error) {
	if err := d.unmount(); err != nil { // so that the kernel forgets what it knows of the files
		return Lost{}, err
	}
	lost, err := d.Undo.LosePower()
	return lost, errors.Join(err, d.mount())
}

// node is a file or a directory. What changes it goes through the Undo, the rest to the folder.
type node struct {
	*fs.LoopbackNode
	undo *Undo
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeFsyncer     = (*node)(nil)
)

func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode), n.undo}
}

func (n *node) path() string {
	return filepath.Join(n.RootData.Path, n.Path(n.RootData.RootNode.EmbeddedInode()))
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	f, err := n.undo.Create(filepath.Join(n.path(), name), int(flags)&^syscall.O_APPEND, os.FileMode(mode))
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	child, errno := n.Lookup(ctx, name, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return child, &handle{f, n.undo}, 0, 0
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, err := os.OpenFile(n.path(), int(flags)&^(syscall.O_APPEND|syscall.O_TRUNC|fuse.FMODE_EXEC), 0)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	if flags&syscall.O_TRUNC != 0 {
		if err := n.undo.Truncate(int(f.Fd()), 0); err != nil {
			return nil, 0, fs.ToErrno(errors.Join(err, f.Close()))
		}
	}
	return &handle{f, n.undo}, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	size, ok := in.GetSize()
	if !ok {
		return n.LoopbackNode.Setattr(ctx, nil, in, out)
	}
	if h, ok := h.(*handle); ok {
		if err := n.undo.Truncate(int(h.file.Fd()), int64(size)); err != nil {
			return fs.ToErrno(err)
		}
		return h.Getattr(ctx, out)
	}
	f, err := os.OpenFile(n.path(), os.O_RDWR, 0)
	if err != nil {
		return fs.ToErrno(err)
	}
	if err := errors.Join(n.undo.Truncate(int(f.Fd()), int64(size)), f.Close()); err != nil {
		return fs.ToErrno(err)
	}
	return n.LoopbackNode.Getattr(ctx, nil, out)
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := n.undo.Mkdir(filepath.Join(n.path(), name), os.FileMode(mode)); err != nil {
		return nil, fs.ToErrno(err)
	}
	return n.Lookup(ctx, name, out)
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return fs.ToErrno(n.undo.Rmdir(filepath.Join(n.path(), name)))
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return fs.ToErrno(n.undo.Unlink(filepath.Join(n.path(), name)))
}

func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := parent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	return fs.ToErrno(n.undo.Rename(filepath.Join(n.path(), name), filepath.Join(to.path(), newName)))
}

// Fsync of a file or a directory.
func (n *node) Fsync(_ context.Context, h fs.FileHandle, _ uint32) syscall.Errno {
	if h, ok := h.(*handle); ok {
		return fs.ToErrno(n.undo.Sync(int(h.file.Fd())))
	}
	return fs.ToErrno(n.undo.SyncNames())
}

// What the Undo does not know is refused.

func (n *node) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOTSUP
}

// handle is an open file.
type handle struct {
	file *os.File
	undo *Undo
}

func (h *handle) Read(_ context.Context, buffer []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	n, err := syscall.Pread(int(h.file.Fd()), buffer, at)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(buffer[:n]), 0
}

func (h *handle) Write(_ context.Context, data []byte, at int64) (uint32, syscall.Errno) {
	n, err := h.undo.Write(int(h.file.Fd()), data, at)
	return uint32(n), fs.ToErrno(err)
}

func (h *handle) Flush(context.Context) syscall.Errno { return 0 }

func (h *handle) Release(context.Context) syscall.Errno { return fs.ToErrno(h.file.Close()) }

func (h *handle) Getattr(_ context.Context, out *fuse.AttrOut) syscall.Errno {
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(h.file.Fd()), &stat); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStat(&stat)
	return 0
}

func (h *handle) String() string { return strconv.Quote(h.file.Name()) }
