package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/auth"
	"github.com/skein-run/skein/pkg/protocol"
)

// authCommand is what all sub-commands of auth share.
type authCommand struct {
	dir, output string
}

func newAuth() *cobra.Command {
	a := &authCommand{}
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Make the users, certificates and configuration of a NATS cluster",
		Long: "Make what the NATS servers and the processes of Skein need to trust each other: a user for each project and role,\n" +
			"with the rights that it needs and no others, certificates, and the configuration that nats-server loads.\n" +
			"What that stops, and what not, stands in docs/security.md.",
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.dir, "dir", "skein-auth", "folder of all files")
	flags.StringVar(&a.output, "output", "text", "text or json")
	cmd.AddCommand(a.newInit(), a.newAddProject(), a.newRotate())
	return cmd
}

// say tells what was done, and what is to be done next.
func (a *authCommand) say(out io.Writer, r *auth.Report, next string) error {
	if a.output == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	for _, list := range []struct {
		what  string
		files []string
	}{{"created", r.Created}, {"changed", r.Changed}, {"removed", r.Removed}} {
		for _, name := range list.files {
			if _, err := fmt.Fprintf(out, "%s  %s\n", list.what, filepath.Join(r.Dir, name)); err != nil {
				return err
			}
		}
	}
	if len(r.Created)+len(r.Changed)+len(r.Removed) == 0 {
		_, err := fmt.Fprintf(out, "All %d files in %s are as they should be.\n", len(r.Kept), r.Dir)
		return err
	}
	_, err := fmt.Fprintln(out, "\n"+next)
	return err
}

const loadUsers = "Give each server its folder of servers/ again, and let it load that:\n  nats-server --signal reload"

func (a *authCommand) newInit() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the files of a cluster, or what is missing of them",
		Long: "Make an authority, certificates, a user for each project and role, and what each server loads.\n" +
			"Called again, it adds what is missing, changes no key, and writes over nothing that was changed by hand.",
		Example: "  skein auth init --project flight-desk --project email-workflows --grant flight-desk:email-workflows --servers 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := f.plan(a.dir)
			if err != nil {
				return err
			}
			if err := checkOutput(a.output); err != nil {
				return err
			}
			r, err := auth.Init(a.dir, plan)
			if err != nil {
				return err
			}
			return a.say(cmd.OutOrStdout(), r, "Give each server its folder of servers/, and start it:\n  nats-server --config nats.conf\n"+
				"Give each process ca.pem and its own file of users/:\n  --nats-ca ca.pem --nats-nkey users/<project>/<role>.nk\n"+
				f.schedulers()+"Keep ca.key and auth.json where no server and no process is.")
		},
	}
	f.define(cmd)
	return cmd
}

// initFlags say what a cluster shall be.
type initFlags struct {
	accounts                         bool
	cluster, serverDir, storeDir     string
	projects, grants, servers, names []string
	count, port, clusterPort         int
}

// schedulers says who schedulers are.
func (f *initFlags) schedulers() string {
	if !f.accounts {
		return "Schedulers serve all projects:\n  --nats-nkey users/scheduler.nk\n"
	}
	return "Schedulers serve all projects, as a user in the account of each:\n  --nats-users schedulers\n"
}

func (f *initFlags) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.projects, "project", nil, "a project as NAME, or NAME=SHARDS if its skein.jsonc has shards; may be given several times")
	defineGrants(cmd, &f.grants)
	flags.BoolVar(&f.accounts, "accounts", false,
		"give each project a NATS account of its own: for projects that do not trust each other; stays as it was chosen first")
	flags.StringVar(&f.cluster, "cluster", "skein", "name of the cluster")
	flags.IntVar(&f.count, "servers", 3, "how many servers, called nats-1, nats-2, … and reached by these names: 1, 3 or 5")
	flags.StringArrayVar(&f.servers, "server", nil, "a server as NAME=HOST[:PORT[:CLUSTERPORT]], in place of --servers; may be given several times")
	flags.IntVar(&f.port, "port", 4222, "port for clients")
	flags.IntVar(&f.clusterPort, "cluster-port", 6222, "port for the other servers")
	flags.StringArrayVar(&f.names, "name", nil, "a further name or IP address for the certificates, as of a load balancer; may be given several times")
	flags.StringVar(&f.serverDir, "server-dir", "", "where a server finds its folder when it runs (default: where it is made)")
	flags.StringVar(&f.storeDir, "store-dir", "", "where a server keeps its streams (default: data in its folder)")
}

func defineGrants(cmd *cobra.Command, grants *[]string) {
	cmd.Flags().StringArrayVar(grants, "grant", nil,
		"FROM:TO lets one project reach workflows and agents of another, FROM:TO/WORKFLOW one workflow; may be given several times")
}

func (f *initFlags) plan(dir string) (plan auth.Plan, err error) {
	if plan, err = parseProjects(f.projects, f.grants); err != nil {
		return plan, err
	}
	plan.Cluster, plan.Accounts = f.cluster, f.accounts
	servers := f.servers
	if len(servers) == 0 {
		for n := range f.count {
			name := "nats-" + strconv.Itoa(n+1)
			servers = append(servers, name+"="+name)
		}
	}
	for _, text := range servers {
		server, err := f.server(dir, text)
		if err != nil {
			return plan, err
		}
		plan.Servers = append(plan.Servers, server)
	}
	return plan, nil
}

// server reads NAME=HOST[:PORT[:CLUSTERPORT]].
func (f *initFlags) server(dir, text string) (auth.Server, error) {
	v := auth.Server{Port: f.port, ClusterPort: f.clusterPort, Names: f.names, Dir: f.serverDir, Store: f.storeDir}
	bad := fmt.Errorf("--server: %q: allowed is NAME=HOST[:PORT[:CLUSTERPORT]]", text)
	name, address, ok := strings.Cut(text, "=")
	if !ok {
		return v, bad
	}
	v.Name, v.Host = name, address
	if net.ParseIP(address) == nil { // an IPv6 address has colons of its own
		parts := strings.Split(address, ":")
		v.Host = parts[0]
		for i, port := range parts[1:] {
			n, err := strconv.Atoi(port)
			if err != nil || i > 1 {
				return v, bad
			}
			*[]*int{&v.Port, &v.ClusterPort}[i] = n
		}
	}
	if v.Dir == "" {
		made, err := filepath.Abs(filepath.Join(dir, "servers", name))
		if err != nil {
			return v, err
		}
		v.Dir = made
	}
	if v.Store == "" {
		v.Store = filepath.Join(v.Dir, "data")
	}
	return v, nil
}

// parseProjects makes a plan of projects, as NAME or NAME=SHARDS, and grants.
func parseProjects(projects, grants []string) (plan auth.Plan, err error) {
	plan.Shards = map[string]int{}
	for _, text := range projects {
		name, count, sharded := strings.Cut(text, "=")
		if sharded {
			shards, err := strconv.Atoi(count)
			if err != nil || shards < 1 || shards > protocol.MaxShards {
				return plan, fmt.Errorf("project %q: allowed is NAME or NAME=SHARDS, with 1 to %d shards", text, protocol.MaxShards)
			}
			plan.Shards[name] = shards
		}
		plan.Projects = append(plan.Projects, name)
	}
	plan.Grants, err = parseGrants(grants)
	return plan, err
}

func parseGrants(texts []string) ([]auth.Grant, error) {
	var grants []auth.Grant
	for _, text := range texts {
		g, err := auth.ParseGrant(text)
		if err != nil {
			return nil, err
		}
		grants = append(grants, g)
	}
	return grants, nil
}

func (a *authCommand) newAddProject() *cobra.Command {
	var grants []string
	cmd := &cobra.Command{
		Use:   "add-project NAME[=SHARDS]...",
		Short: "Add users for projects, and grants",
		Long: "Add users for projects, and grants. A project that has shards in its skein.jsonc is given as NAME=SHARDS: each shard is a\n" +
			"stream, and nobody has rights to streams that are not known here. One that is there already gets the rights that it lacks.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(a.output); err != nil {
				return err
			}
			plan, err := parseProjects(args, grants)
			if err != nil {
				return err
			}
			r, err := auth.AddProjects(a.dir, plan)
			if err != nil {
				return err
			}
			return a.say(cmd.OutOrStdout(), r, loadUsers)
		},
	}
	defineGrants(cmd, &grants)
	return cmd
}
