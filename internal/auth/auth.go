package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report says what was done with the files of a directory, by their paths in it.
type Report struct {
	Dir     string   `json:"dir"`
	Created []string `json:"created"`
	Changed []string `json:"changed"`
	Kept    []string `json:"kept"`
	Removed []string `json:"removed"`
}

func newReport(dir string) *Report {
	return &Report{Dir: dir, Created: []string{}, Changed: []string{}, Kept: []string{}, Removed: []string{}}
}

// Plan is what a directory shall be for.
type Plan struct {
	Cluster string
	// Accounts gives each project an account of its own.
	Accounts bool
	Servers  []Server
	Projects []string
	// Shards are those of projects that have more than one: what skein.jsonc has as shards.
	Shards map[string]int
	Grants []Grant
}

// Init makes a directory for a cluster: an authority, what each server loads, and a file for each user. In one that was
// made, it adds what is missing and changes nothing that processes or servers rely on.
func Init(dir string, plan Plan) (*Report, error) {
	s, err := load(dir)
	switch {
	case errors.Is(err, ErrNotMade):
		s = &State{
			Cluster: plan.Cluster, Accounts: plan.Accounts, Password: rand.Text(), Servers: plan.Servers, Made: map[string]string{}, dir: dir,
		}
	case err != nil:
		return nil, err
	default:
		if err := s.matches(plan); err != nil {
			return nil, err
		}
	}
	s.add(plan)
	return s.apply(false)
}

// matches refuses a plan that would change what was made: servers and their names are what clients have been told.
func (s *State) matches(plan Plan) error {
	if plan.Cluster != s.Cluster {
		return fmt.Errorf("cluster: %q: the directory is for %q", plan.Cluster, s.Cluster)
	}
	if plan.Accounts != s.Accounts {
		return fmt.Errorf("accounts: \"%t\": the directory was made with \"%t\", and streams stay in their account: make a directory for another cluster "+
			"(docs/security.md, \"From one account to one for each project\")", plan.Accounts, s.Accounts)
	}
	same := slices.EqualFunc(s.Servers, plan.Servers, func(a, b Server) bool {
		return a.Name == b.Name && a.Host == b.Host && a.Port == b.Port && a.ClusterPort == b.ClusterPort && a.Dir == b.Dir && a.Store == b.Store
	})
	if !same {
		return fmt.Errorf("servers: %s: the directory is for %s, with other names, hosts, ports or paths; those of a cluster stay",
			describe(plan.Servers), describe(s.Servers))
	}
	return nil
}

func describe(servers []Server) string {
	var names []string
	for _, v := range servers {
		names = append(names, fmt.Sprintf("%s=%s/%d", v.Name, v.address(), v.ClusterPort))
	}
	return strings.Join(names, ", ")
}

// add puts what a plan has more into the state.
func (s *State) add(plan Plan) {
	for _, project := range plan.Projects {
		if !slices.Contains(s.Projects, project) {
			s.Projects = append(s.Projects, project)
		}
	}
	for project, shards := range plan.Shards {
		if s.Shards == nil {
			s.Shards = map[string]int{}
		}
		s.Shards[project] = shards
	}
	for _, g := range plan.Grants {
		if !slices.Contains(s.Grants, g) {
			s.Grants = append(s.Grants, g)
		}
	}
	for i := range min(len(s.Servers), len(plan.Servers)) {
		for _, name := range plan.Servers[i].Names {
			if !slices.Contains(s.Servers[i].Names, name) {
				s.Servers[i].Names = append(s.Servers[i].Names, name)
			}
		}
	}
}

// AddProjects adds the projects and grants of a plan to what Init has made, and what is new about projects that are there: the
// number of their shards.
func AddProjects(dir string, plan Plan) (*Report, error) {
	s, err := load(dir)
	if err != nil {
		return nil, err
	}
	s.add(plan)
	return s.apply(false)
}

// Renew makes new certificates for all servers. Those that run take them when they are told to reload; clients trust the
// authority, and notice nothing. While the authority is exchanged, the new one signs from now on.
func Renew(dir string) (*Report, error) {
	s, err := load(dir)
	if err != nil {
		return nil, err
	}
	return s.apply(true)
}

// apply makes the directory as the state has it. The state is stored last, so that what was interrupted is done again.
func (s *State) apply(renew bool) (*Report, error) {
	if err := errors.Join(s.check(), s.unchanged()); err != nil {
		return nil, err
	}
	r := newReport(s.dir)
	for _, role := range s.sharedRoles() {
		if err := s.provide(r, "", role); err != nil {
			return nil, err
		}
	}
	for _, project := range s.Projects {
		for _, role := range s.projectRoles() {
			if err := s.provide(r, project, role); err != nil {
				return nil, err
			}
		}
	}
	a, err := openAuthority(s.dir, s.Cluster, r)
	if err != nil {
		return nil, err
	}
	if renew {
		if err := a.takeOver(r); err != nil {
			return nil, err
		}
	}
	if err := s.certifyServers(a, renew, r); err != nil {
		return nil, err
	}
	return s.finish(r, a)
}

// finish makes what servers load, and stores the state.
func (s *State) finish(r *Report, a *authority) (*Report, error) {
	err := errors.Join(s.makeConfigs(r, a), s.save())
	for _, list := range [][]string{r.Created, r.Changed, r.Kept, r.Removed} {
		slices.Sort(list)
	}
	return r, err
}

func (s *State) makeConfigs(r *Report, a *authority) error {
	users := s.usersConfig()
	for _, v := range s.Servers {
		for name, data := range map[string][]byte{"nats.conf": s.serverConfig(v), "users.conf": users, authorityCert: a.pem} {
			if err := s.make(r, filepath.Join(v.folder(), name), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// provide gives a user a key, unless it has one.
func (s *State) provide(r *Report, project string, role Role) error {
	if u := s.user(project, role); u != nil {
		if _, err := os.Stat(filepath.Join(s.dir, u.file())); err == nil {
			r.Kept = append(r.Kept, u.file())
		}
		return nil // a file that was taken to where it is used is not missed
	}
	u := User{Project: project, Role: role}
	key, file, err := newKey(u)
	if err != nil {
		return err
	}
	u.Keys = []Key{key}
	if err := create(filepath.Join(s.dir, u.file()), file); err != nil {
		return fmt.Errorf("user %s: %w", u.Name(), err)
	}
	s.Users = append(s.Users, u)
	r.Created = append(r.Created, u.file())
	return s.save()
}
