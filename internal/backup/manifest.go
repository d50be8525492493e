package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// FormatVersion is that of the folders that are written. Newer ones are refused.
const FormatVersion = 1

const manifestFile = "manifest.json"

// Manifest says what a backup consists of. It is written last: a folder without one is no backup.
type Manifest struct {
	V int `json:"v"`
	// ID is chosen once per backup.
	ID string `json:"id"`
	// Began and Ended are when it was made: what was acknowledged before Began is in it.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Server is the version of the NATS server that was asked.
	Server   string   `json:"server"`
	Projects []string `json:"projects"`
	Streams  []Stream `json:"streams"`
	// Digest is the SHA-256 of the manifest without it.
	Digest string `json:"digest"`
}

// Stream is one stream of a backup.
type Stream struct {
	Name   string                 `json:"name"`
	Config jetstream.StreamConfig `json:"config"`
	// File is relative to the folder, Size and SHA256 are the file's.
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Messages is how many are in the file, First and Last the sequences of the first and the last of them; 0 if there is none.
	Messages uint64 `json:"messages"`
	First    uint64 `json:"first,omitempty"`
	Last     uint64 `json:"last,omitempty"`
	// End is the highest sequence that the stream had used when the backup ended.
	End       uint64     `json:"end"`
	Consumers []consumer `json:"consumers,omitempty"`
}

// DamagedError says why a folder is no backup that can be restored.
type DamagedError struct {
	Dir     string
	Reasons []string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("backup %s: %s", e.Dir, strings.Join(e.Reasons, "; "))
}

func damaged(dir, format string, args ...any) error {
	return &DamagedError{Dir: dir, Reasons: []string{fmt.Sprintf(format, args...)}}
}

func (m *Manifest) digest() (string, error) {
	without := *m
	without.Digest = ""
	data, err := json.Marshal(without)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// write writes the manifest, whole or not at all.
func (m *Manifest) write(dir string) (err error) {
	if m.Digest, err = m.digest(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, manifestFile)
	f, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// ReadManifest reads what a folder says that it holds, and looks at nothing else. What is wrong with it is a *DamagedError.
func ReadManifest(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(dir, "there is no %s: it is none, or was not finished", manifestFile)
	}
	if err != nil {
		return nil, err
	}
	var version struct{ V int }
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, damaged(dir, "%s cannot be read: %v", manifestFile, err)
	}
	if version.V != FormatVersion {
		return nil, damaged(dir, "it has version %d, this program knows %d", version.V, FormatVersion)
	}
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, damaged(dir, "%s cannot be read: %v", manifestFile, err)
	}
	digest, err := m.digest()
	if err != nil {
		return nil, err
	}
	if digest != m.Digest {
		return nil, damaged(dir, "%s was changed: its digest is %s, it says %q", manifestFile, digest, m.Digest)
	}
	for _, s := range m.Streams {
		if kind, _, ok := protocol.ParseStream(s.Name); !ok || s.File != fileOf(s.Name) || s.Config.Name != s.Name {
			return nil, damaged(dir, "stream %q (%s) in file %q: is none of Skein", s.Name, kind, s.File)
		}
	}
	return m, nil
}

// fileOf is the file of a stream. Names of streams are names of files.
func fileOf(stream string) string { return stream + ".s2" }
