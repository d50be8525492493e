package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/auth"
)

// rotateFlags say what is exchanged, and which step that is.
type rotateFlags struct {
	which                                auth.Selection
	role                                 string
	all, certificates, authority, routes bool
	finish                               bool
}

func (a *authCommand) newRotate() *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Exchange keys, certificates and passwords without cutting anybody off",
		Long: "Exchange the keys of users in two steps. The first gives each of them a second key: let the servers load that,\n" +
			"then start the processes with the new files. The second, --finish, takes the old keys away.\n" +
			"With --certificates, the servers get new certificates from the same authority.\n" +
			"With --authority, a second authority is trusted; then --certificates has it sign; then --authority --finish ends the trust in the first.\n" +
			"With --routes, no server asks others for the password any more; then --routes --finish has them ask for a new one.",
		Example: "  skein auth rotate --project flight-desk --role agent-host\n  skein auth rotate --finish",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(checkOutput(a.output), f.check()); err != nil {
				return err
			}
			r, next, err := f.rotate(a.dir)
			if err != nil {
				return err
			}
			return a.say(cmd.OutOrStdout(), r, next)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.which.Project, "project", "", "keys of users of this project")
	flags.StringVar(&f.role, "role", "", "keys of users of this role")
	flags.BoolVar(&f.all, "all", false, "keys of all users")
	flags.BoolVar(&f.certificates, "certificates", false, "certificates of the servers")
	flags.BoolVar(&f.authority, "authority", false, "the authority that signs the certificates")
	flags.BoolVar(&f.routes, "routes", false, "the password by which servers know each other")
	flags.BoolVar(&f.finish, "finish", false, "take away what was exchanged")
	return cmd
}

// check refuses what is not one thing.
func (f *rotateFlags) check() error {
	f.which.Role = auth.Role(f.role)
	if f.role != "" && !slices.Contains(auth.Roles(), f.which.Role) {
		return fmt.Errorf("--role: %q: allowed is one of %v", f.role, auth.Roles())
	}
	things := 0
	for _, chosen := range []bool{f.which != (auth.Selection{}), f.all, f.certificates, f.authority, f.routes} {
		if chosen {
			things++
		}
	}
	if things > 1 || things == 0 && !f.finish || f.certificates && f.finish {
		return fmt.Errorf("rotate: wanted is one of --all, --certificates, --authority, --routes, or --project and --role; with --finish, none is the keys of all")
	}
	return nil
}

func (f *rotateFlags) rotate(dir string) (r *auth.Report, next string, err error) {
	switch {
	case f.certificates:
		r, err = auth.Renew(dir)
		return r, loadUsers, err
	case f.authority && f.finish:
		r, err = auth.FinishAuthority(dir)
		return r, loadUsers + "\nGive each process ca.pem again: who needs the old one keeps its connection until that breaks.", err
	case f.authority:
		r, err = auth.RotateAuthority(dir)
		return r, loadUsers + "\nGive each process ca.pem again; it reads it when it connects. Then: skein auth rotate --certificates\n" +
			"Let the servers load that. Then, in the same way: skein auth rotate --authority --finish", err
	case f.routes && f.finish:
		r, err = auth.FinishRoutes(dir)
		return r, loadUsers + "\nOne after the other: each connects to the others anew.", err
	case f.routes:
		r, err = auth.RotateRoutes(dir)
		return r, loadUsers + "\nThen, in the same way: skein auth rotate --routes --finish", err
	case f.finish:
		r, err = auth.FinishRotation(dir, f.which)
		return r, loadUsers, err
	}
	r, err = auth.Rotate(dir, f.which)
	return r, loadUsers + "\nThen start the processes with their new files. Then, in the same way: skein auth rotate --finish", err
}
