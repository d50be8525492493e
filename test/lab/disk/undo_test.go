package disk

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// drive is an Undo with a folder, and what a test does to files in it.
type drive struct {
	*Undo
	t      *testing.T
	folder string
}

func newDrive(t *testing.T) *drive {
	t.Helper()
	d := &drive{NewUndo(t.TempDir()), t, t.TempDir()}
	t.Cleanup(func() { // lets go of what it has open
		if _, err := d.LosePower(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *drive) at(name string) string { return filepath.Join(d.folder, name) }

func (d *drive) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// open opens a file, and makes it if there is none. The test closes it.
func (d *drive) open(name string) *os.File {
	d.t.Helper()
	f, err := d.Create(d.at(name), os.O_RDWR, 0o644)
	d.must(err)
	d.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (d *drive) write(f *os.File, at int64, text string) {
	d.t.Helper()
	_, err := d.Write(int(f.Fd()), []byte(text), at)
	d.must(err)
}

func (d *drive) sync(f *os.File) { d.t.Helper(); d.must(d.Sync(int(f.Fd()))) }

// stored makes a file that has been synced.
func (d *drive) stored(name, text string) *os.File {
	d.t.Helper()
	f := d.open(name)
	d.write(f, 0, text)
	d.sync(f)
	return f
}

// has are all files and what is in them; directories end with a slash.
func (d *drive) has() map[string]string {
	d.t.Helper()
	all := map[string]string{}
	d.must(filepath.WalkDir(d.folder, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(d.folder, path)
		if err != nil || name == "." {
			return err
		}
		if e.IsDir() {
			all[name+"/"] = ""
			return nil
		}
		text, err := os.ReadFile(path)
		all[name] = string(text)
		return err
	}))
	return all
}

func TestLosePower(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		do   func(d *drive)
		want map[string]string
	}{
		{"a new file", func(d *drive) { d.write(d.open("a"), 0, "text") }, map[string]string{}},
		{"a new file that was synced", func(d *drive) { d.stored("a", "text") }, map[string]string{"a": "text"}},
		{"what was appended", func(d *drive) { d.write(d.stored("a", "one"), 3, " two") }, map[string]string{"a": "one"}},
		{"what was appended and synced", func(d *drive) {
			f := d.stored("a", "one")
			d.write(f, 3, " two")
			d.sync(f)
			d.write(f, 7, " three")
		}, map[string]string{"a": "one two"}},
		{"what was overwritten, twice", func(d *drive) {
			f := d.stored("a", "12345678")
			d.write(f, 2, "abc")
			d.write(f, 4, "xyz and more")
		}, map[string]string{"a": "12345678"}},
		{"what was cut off", func(d *drive) {
			f := d.stored("a", "12345678")
			d.must(d.Truncate(int(f.Fd()), 3))
			d.write(f, 3, "xy")
			d.must(d.Truncate(int(f.Fd()), 0))
			d.write(f, 0, "another, longer text")
		}, map[string]string{"a": "12345678"}},
		{"what was cut off, before something else was synced", func(d *drive) {
			f := d.stored("a", "12345678")
			d.must(d.Truncate(int(f.Fd()), 5))
			d.must(d.Truncate(int(f.Fd()), 3))
			d.write(f, 3, "xy")
			d.stored("b", "text")
			d.must(d.Truncate(int(f.Fd()), 1))
			d.write(f, 1, "more than there was")
		}, map[string]string{"a": "123", "b": "text"}},
		{"what was cut off and written again, before something else was synced", func(d *drive) {
			f := d.stored("a", "12345678")
			d.write(f, 0, "ab")
			d.must(d.Truncate(int(f.Fd()), 0))
			d.write(f, 0, "xyz")
			d.must(d.SyncNames())
		}, map[string]string{"a": ""}},
		{"synced through another handle", func(d *drive) {
			f := d.stored("a", "one")
			d.write(f, 3, " two")
			other, err := os.Open(d.at("a"))
			d.must(err)
			d.sync(other)
			d.must(other.Close())
			d.write(f, 7, " three")
		}, map[string]string{"a": "one two"}},
		{"synced after it was renamed", func(d *drive) {
			f := d.open("a")
			d.write(f, 0, "text")
			d.must(d.Rename(d.at("a"), d.at("b")))
			d.sync(f)
		}, map[string]string{"b": "text"}},
		{"renamed, and its directory synced", func(d *drive) {
			d.must(d.Mkdir(d.at("dir"), 0o755))
			d.stored("dir/a.tmp", "new")
			d.must(d.Rename(d.at("dir/a.tmp"), d.at("dir/a")))
			d.must(d.SyncNames())
			d.must(d.Unlink(d.at("dir/a")))
		}, map[string]string{"dir/": "", "dir/a": "new"}},
		{"opened once more, to be cut off", func(d *drive) {
			d.stored("a", "text")
			f, err := d.Create(d.at("a"), os.O_RDWR|os.O_TRUNC, 0o644)
			d.must(err)
			d.write(f, 0, "x")
			d.must(f.Close())
		}, map[string]string{"a": "text"}},
		{"another file was synced", func(d *drive) {
			d.write(d.open("a"), 0, "text")
			d.stored("b", "text")
		}, map[string]string{"a": "", "b": "text"}}, // its name is there, its contents are not
		{"a directory was synced", func(d *drive) {
			d.write(d.open("a"), 0, "text")
			d.must(d.SyncNames())
		}, map[string]string{"a": ""}},
		{"what was removed", func(d *drive) {
			d.stored("a", "text")
			d.must(d.Unlink(d.at("a")))
		}, map[string]string{"a": "text"}},
		{"what was removed for good", func(d *drive) {
			d.write(d.stored("a", "text"), 4, " and more")
			d.must(d.Unlink(d.at("a")))
			d.stored("b", "text")
		}, map[string]string{"b": "text"}},
		{"what was replaced", func(d *drive) {
			d.stored("a", "old")
			d.stored("b", "new")
			d.must(d.Rename(d.at("b"), d.at("a")))
		}, map[string]string{"a": "old", "b": "new"}},
		{"what was replaced for good", func(d *drive) {
			d.stored("a", "old")
			d.stored("b", "new")
			d.must(d.Rename(d.at("b"), d.at("a")))
			d.must(d.SyncNames())
		}, map[string]string{"a": "new"}},
		{"what was replaced by what was not synced", func(d *drive) {
			d.stored("a", "old")
			d.write(d.open("b"), 0, "new")
			d.must(d.Rename(d.at("b"), d.at("a")))
			d.must(d.SyncNames())
		}, map[string]string{"a": ""}},
		{"directories", func(d *drive) {
			d.must(d.Mkdir(d.at("kept"), 0o755))
			d.must(d.Mkdir(d.at("empty"), 0o755))
			d.stored("kept/a", "text")
			d.must(d.Mkdir(d.at("new"), 0o755))
			d.must(d.Rename(d.at("kept"), d.at("renamed")))
			d.must(d.Unlink(d.at("renamed/a")))
			d.must(d.Rmdir(d.at("renamed")))
			d.must(d.Rename(d.at("new"), d.at("empty")))
		}, map[string]string{"kept/": "", "kept/a": "text", "empty/": ""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newDrive(t)
			row.do(d)
			lost, err := d.LosePower()
			d.must(err)
			if have := d.has(); !maps.Equal(have, row.want) {
				t.Errorf("after %v there is %q, want %q", lost, have, row.want)
			}
			before := d.has()
			if lost, err := d.LosePower(); err != nil || lost != (Lost{}) || !maps.Equal(d.has(), before) {
				t.Errorf("a second loss took back %v (%v), want nothing", lost, err)
			}
		})
	}
}

// TestWriteBack: what is old stays without a sync, and what is not old does not.
func TestWriteBack(t *testing.T) {
	t.Parallel()
	d := newDrive(t)
	f := d.stored("a", "one")
	d.write(f, 3, " two")
	d.must(d.WriteBack(time.Now().Add(-time.Hour)))
	if lost, err := d.LosePower(); err != nil || lost.Bytes != 4 {
		t.Errorf("lost %v (%v), want the 4 bytes that were new", lost, err)
	}
	d.write(f, 3, " two")
	d.must(d.Unlink(d.at("a")))
	d.open("b")
	d.must(d.WriteBack(time.Now().Add(time.Hour)))
	d.write(f, 7, " three")
	d.open("c")
	if _, err := d.LosePower(); err != nil {
		t.Fatal(err)
	}
	if have, want := d.has(), map[string]string{"b": ""}; !maps.Equal(have, want) {
		t.Errorf("there is %q, want %q", have, want)
	}
}

// TestNothingIsKept: what a sync has made durable needs no memory.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	d := newDrive(t)
	f := d.stored("a", "text")
	d.write(d.open("b"), 0, "text")
	d.must(d.Unlink(d.at("b")))
	d.write(f, 1, "more")
	d.sync(f)
	if len(d.dirty) != 0 || len(d.names) != 0 || len(d.removed) != 0 {
		t.Errorf("kept are %d files, %d names, %d removed ones, want none", len(d.dirty), len(d.names), len(d.removed))
	}
	if entries, err := os.ReadDir(d.trash); err != nil || len(entries) != 0 {
		t.Errorf("removed files are still there: %v (%v)", entries, err)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	d := newDrive(t)
	f := d.stored("a", "text")
	d.SetFull(true)
	_, err := d.Write(int(f.Fd()), []byte("more"), 4)
	_, create := d.Create(d.at("b"), os.O_RDWR, 0o644)
	for what, err := range map[string]error{
		"append": err, "create": create, "mkdir": d.Mkdir(d.at("c"), 0o755), "extend": d.Truncate(int(f.Fd()), 100),
	} {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s on a full disk: %v, want %v", what, err, syscall.ENOSPC)
		}
	}
	d.write(f, 0, "TEXT") // takes no room
	d.sync(f)
	if n := d.Refused(); n != 4 {
		t.Errorf("refused were %d, want 4", n)
	}
	d.SetFull(false)
	d.write(f, 4, " and more")
	d.sync(f)
	if have := d.has()["a"]; have != "TEXT and more" {
		t.Errorf("the file has %q, want %q", have, "TEXT and more")
	}
}
