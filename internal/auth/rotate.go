package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/nkeys"
)

// Selection says whose keys are exchanged: of one project, of one role, of both, or of all if it is empty.
type Selection struct {
	Project string
	Role    Role
}

func (w Selection) has(u User) bool {
	return (w.Project == "" || w.Project == u.Project) && (w.Role == "" || w.Role == u.Role)
}

// oldSuffix marks the file with the key that a user had before.
const oldSuffix = ".old"

// Rotate gives users a second key. Both are good until FinishRotation: first all servers load the users anew, then the
// processes are started with the new file, one after the other, and nothing is cut off. Of a user whose key is being exchanged
// already, nothing changes.
func Rotate(dir string, which Selection) (*Report, error) {
	return rotation(dir, which, func(s *State, r *Report, u *User) error { return s.exchange(r, u) })
}

// FinishRotation takes the first key from users that have two. Whoever still uses it is cut off when the servers load the
// users anew.
func FinishRotation(dir string, which Selection) (*Report, error) {
	var old []string
	r, err := rotation(dir, which, func(s *State, r *Report, u *User) error {
		if len(u.Keys) < 2 {
			return nil
		}
		u.Keys = u.Keys[len(u.Keys)-1:]
		old = append(old, u.file()+oldSuffix)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range old { // no server takes it any more
		switch err := os.Remove(filepath.Join(dir, name)); {
		case err == nil:
			r.Removed = append(r.Removed, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return r, nil
}

func rotation(dir string, which Selection, change func(*State, *Report, *User) error) (*Report, error) {
	s, err := load(dir)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.Users, which.has) {
		return nil, fmt.Errorf("there is no user of project %q in role %q", which.Project, which.Role)
	}
	if err := s.unchanged(); err != nil {
		return nil, err
	}
	r := newReport(dir)
	for i := range s.Users {
		if u := &s.Users[i]; which.has(*u) {
			if err := change(s, r, u); err != nil {
				return nil, fmt.Errorf("user %s: %w", u.Name(), err)
			}
		}
	}
	a, err := openAuthority(dir, s.Cluster, newReport(dir))
	if err != nil {
		return nil, err
	}
	return s.finish(r, a)
}

// exchange gives a user a second key. The state has it before the user does, so that no user has a key that servers will
// not know; if the file was not written then, another key is made.
func (s *State) exchange(r *Report, u *User) error {
	path := filepath.Join(s.dir, u.file())
	present, err := publicKey(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(u.Keys) == 2 && (err != nil || present == u.Keys[1].Public) {
		r.Kept = append(r.Kept, u.file())
		return nil
	}
	key, file, err := newKey(*u)
	if err != nil {
		return err
	}
	u.Keys = []Key{u.Keys[0], key}
	if err := s.save(); err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil:
		err = replace(path+oldSuffix, old)
	case errors.Is(err, fs.ErrNotExist): // it was taken to where it is used
		err = nil
	}
	if err == nil {
		err = replace(path, file)
	}
	r.Changed = append(r.Changed, u.file())
	return err
}

// publicKey reads the public half of the key in a user's file.
func publicKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.ParseDecoratedNKey(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

// RotateRoutes begins to exchange the password by which servers know each other. Until FinishRoutes no server asks for one,
// as it can ask for one only: meanwhile the certificates alone say who is a server.
func RotateRoutes(dir string) (*Report, error) {
	return withAuthority(dir, func(s *State, _ *authority, _ *Report) error {
		if s.NextPassword == "" {
			s.NextPassword = rand.Text()
		}
		return nil
	})
}

// FinishRoutes has the servers ask for the new password. One that loads it tells the others that, who do not ask for any yet,
// or for the same.
func FinishRoutes(dir string) (*Report, error) {
	return withAuthority(dir, func(s *State, _ *authority, _ *Report) error {
		if s.NextPassword != "" {
			s.Password, s.NextPassword = s.NextPassword, ""
		}
		return nil
	})
}
