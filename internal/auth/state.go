package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/skein-run/skein/pkg/protocol"
)

// stateFile holds the State in its directory.
const stateFile = "auth.json"

// Versions of the format of stateFile. The second is only for what a program that knows the first would lose.
const (
	firstVersion  = 1
	secondVersion = 2
)

// State is what a directory was made from. It has no seeds of users and no keys of certificates; the password by which
// servers know each other makes it a secret all the same.
type State struct {
	V       int    `json:"v"`
	Cluster string `json:"cluster"`
	// Accounts gives each project an account of its own. It stays as it was when the directory was made.
	Accounts bool   `json:"accounts,omitempty"`
	Password string `json:"password"`
	// NextPassword is that which servers will know each other by, while it is exchanged: meanwhile none is asked for.
	NextPassword string   `json:"next_password,omitempty"`
	Servers      []Server `json:"servers"`
	Projects     []string `json:"projects"`
	// Shards are how many streams the instances of a project are spread over, if that is more than one.
	Shards map[string]int `json:"shards,omitempty"`
	Grants []Grant        `json:"grants,omitempty"`
	Users  []User         `json:"users"`
	// Made has the digest of every file that is made again from the rest: one with another was changed by hand.
	Made map[string]string `json:"made"`

	dir string
}

// Server is a NATS server.
type Server struct {
	Name string `json:"name"`
	// Host is the name or address under which clients and the other servers reach it.
	Host        string `json:"host"`
	Port        int    `json:"port"`
	ClusterPort int    `json:"cluster_port"`
	// Names are others that stand in its certificate.
	Names []string `json:"names,omitempty"`
	// Dir is where its files lie when it runs, Store where it keeps its streams.
	Dir   string `json:"dir"`
	Store string `json:"store"`
}

// User is a user of NATS. While its key is exchanged it has two.
type User struct {
	Project string `json:"project,omitempty"`
	Role    Role   `json:"role"`
	Keys    []Key  `json:"keys"`
}

// Name is that of the user in messages.
func (u User) Name() string { return userName(u.Project, u.Role) }

// file is where the seed of the user's newest key lies. Those of the schedulers of all projects lie in one folder: whoever
// runs schedulers gives them that.
func (u User) file() string {
	if u.Role == Scheduler && u.Project != "" {
		return filepath.Join("schedulers", u.Project+".nk")
	}
	return filepath.Join("users", filepath.FromSlash(strings.TrimPrefix(u.Project+"/"+string(u.Role)+".nk", "/")))
}

// Key is a key of a user: its public half.
type Key struct {
	Public  string    `json:"public"`
	Created time.Time `json:"created"`
}

// ErrNotMade is wrapped if there is nothing in a directory to be changed.
var ErrNotMade = errors.New("nothing was made there")

// load reads the state of a directory.
func load(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotMade)
	}
	if err != nil {
		return nil, err
	}
	s := &State{dir: dir}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	if s.V < firstVersion || s.V > secondVersion {
		return nil, fmt.Errorf("%s: has version %d, this program knows %d to %d", filepath.Join(dir, stateFile), s.V, firstVersion, secondVersion)
	}
	return s, nil
}

func (s *State) save() error {
	s.V = firstVersion
	if s.Accounts || s.NextPassword != "" {
		s.V = secondVersion
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.dir, stateFile), append(data, '\n'))
}

// user finds a user; nil if there is none.
func (s *State) user(project string, role Role) *User {
	for i := range s.Users {
		if s.Users[i].Project == project && s.Users[i].Role == role {
			return &s.Users[i]
		}
	}
	return nil
}

// newKey makes a key and the file that its user is given.
func newKey(u User) (Key, []byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return Key{}, nil, err
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return Key{}, nil, err
	}
	seed, err := pair.Seed()
	if err != nil {
		return Key{}, nil, err
	}
	file := fmt.Sprintf("# User of NATS: %s. Whoever has this file is that user.\n# inbox-prefix: %s\n%s\n",
		u.Name(), protocol.UserInbox(u.Name()), seed)
	return Key{Public: public, Created: time.Now().UTC().Truncate(time.Second)}, []byte(file), nil
}

var serverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// check names what of a state cannot be.
func (s *State) check() error {
	var errs []error
	if !serverName.MatchString(s.Cluster) {
		errs = append(errs, fmt.Errorf("cluster: %q: allowed are letters, digits, dots and dashes", s.Cluster))
	}
	for _, p := range s.Projects {
		errs = append(errs, protocol.CheckProject(p))
		if s.Accounts && p == sysAccount {
			errs = append(errs, fmt.Errorf("project: %q: is the account of the servers; allowed is another name", p))
		}
	}
	for p, shards := range s.Shards {
		if shards < 1 || shards > protocol.MaxShards {
			errs = append(errs, fmt.Errorf("shards of project %s: \"%d\": allowed is 1 to %d", p, shards, protocol.MaxShards))
		}
	}
	for _, g := range s.Grants {
		for _, p := range []string{g.From, g.To} {
			if !slices.Contains(s.Projects, p) {
				errs = append(errs, fmt.Errorf("grant: %q: there is no project %q; there are %s", g, p, strings.Join(s.Projects, ", ")))
			}
		}
	}
	if n := len(s.Servers); n != 1 && n != 3 && n != 5 {
		errs = append(errs, fmt.Errorf("servers: \"%d\": allowed is 1, 3 or 5: a cluster needs a majority", n))
	}
	for _, server := range s.Servers {
		errs = append(errs, server.check())
	}
	return errors.Join(errs...)
}

func (v Server) check() error {
	var errs []error
	if !serverName.MatchString(v.Name) {
		errs = append(errs, fmt.Errorf("server: %q: allowed are letters, digits, dots and dashes", v.Name))
	}
	for _, host := range append([]string{v.Host}, v.Names...) {
		if net.ParseIP(host) == nil && !serverName.MatchString(host) {
			errs = append(errs, fmt.Errorf("host of server %s: %q: allowed is a name or an IP address", v.Name, host))
		}
	}
	for what, port := range map[string]int{"port": v.Port, "cluster port": v.ClusterPort} {
		if port < 1 || port > 65535 {
			errs = append(errs, fmt.Errorf("%s of server %s: \"%d\": allowed is 1 to 65535", what, v.Name, port))
		}
	}
	return errors.Join(errs...)
}
