package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Everything is for its owner only: seeds and keys are secrets, and who else is a user is nobody's business.
const (
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700
)

// ErrChanged is wrapped if a file is to be made again that was changed by hand.
var ErrChanged = errors.New("was changed by hand")

// create writes a file that must not be there yet.
func create(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace writes a file whole or not at all.
func replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // its mode is fileMode
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// unchanged refuses to go on if a file that will be made again is not as it was made.
func (s *State) unchanged() error {
	var errs []error
	for name, made := range s.Made {
		data, err := os.ReadFile(filepath.Join(s.dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist): // it will be there again
		case err != nil:
			errs = append(errs, err)
		case digest(data) != made:
			errs = append(errs, fmt.Errorf("%s %w, and would be lost: put what is yours into a file that includes it, and remove this one",
				filepath.Join(s.dir, name), ErrChanged))
		}
	}
	return errors.Join(errs...)
}

// make writes a file that follows from the state, unless it is so already.
func (s *State) make(r *Report, name string, data []byte) error {
	path := filepath.Join(s.dir, name)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.Made[name] = digest(data)
	if err == nil && digest(old) == s.Made[name] {
		r.Kept = append(r.Kept, name)
		return nil
	}
	if err == nil {
		r.Changed = append(r.Changed, name)
	} else {
		r.Created = append(r.Created, name)
	}
	return replace(path, data)
}
