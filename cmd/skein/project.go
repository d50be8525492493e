package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
)

// connectLimit is how long a command waits for a NATS server.
const connectLimit = 10 * time.Second

// projectFlags say which project a command is about and how it is reached.
type projectFlags struct {
	config, name string
	// nats are the settings of the connection, by their flags.
	nats map[string]*string
}

// natsSettings are those that every command about a project takes, beside its file.
var natsSettings = [...]struct{ setting, usage string }{
	{"nats_url", "NATS servers, separated by commas"},
	{"nats_creds", "file with NATS credentials"},
	{"nats_nkey", "file with the NKey seed of a NATS user"},
	{"nats_ca", "file with the certificates that vouch for the NATS servers"},
	{"nats_cert", "file with the certificate that NATS servers are shown"},
	{"nats_key", "file with the key of nats_cert"},
}

// projectCommand is a command whose sub-commands are about a project, and say in one of two forms what they find.
type projectCommand struct {
	project projectFlags
	output  string
}

func (c *projectCommand) define(cmd *cobra.Command) {
	c.project.define(cmd)
	cmd.PersistentFlags().StringVar(&c.output, "output", "text", "text or json")
}

// details are what there is to say of something that was done, by name.
type details [][2]string

// eachOf does something with every id, goes on after an error, and says of each what is done.
func (c *projectCommand) eachOf(out io.Writer, ids []string, done string, do func(id string) error) error {
	return c.eachSays(out, ids, done, func(id string) (details, error) { return nil, do(id) })
}

// eachSays is eachOf with more to say.
func (c *projectCommand) eachSays(out io.Writer, ids []string, done string, do func(id string) (details, error)) error {
	var errs []error
	encoder := json.NewEncoder(out)
	for _, id := range ids {
		more, err := do(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fields, text := map[string]string{"id": id, "state": done}, id+": "+done
		for _, s := range more {
			fields[s[0]] = s[1]
			text += ", " + s[0] + " " + s[1]
		}
		if c.output == "json" {
			err = encoder.Encode(fields)
		} else {
			_, err = fmt.Fprintln(out, text)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// again is another command about the project of a sub-command, whole, as a person can paste it into a shell.
func again(cmd *cobra.Command, words ...string) string {
	line := append(strings.Fields(cmd.Parent().CommandPath()), words...)
	names := []string{"config", "project"}
	for _, n := range natsSettings {
		names = append(names, strings.ReplaceAll(n.setting, "_", "-"))
	}
	for _, name := range names {
		if flag := cmd.Flag(name); flag.Changed {
			line = append(line, "--"+name, process.RedactURL(flag.Value.String()))
		}
	}
	for i, word := range line {
		line[i] = shellWord(word)
	}
	return strings.Join(line, " ")
}

// run opens the project for one sub-command.
func (c *projectCommand) run(cmd *cobra.Command, do func(context.Context, *project.Project) error) error {
	if err := checkOutput(c.output); err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	cmd.SetContext(ctx)
	p, err := c.project.open(cmd)
	if err != nil {
		return err
	}
	defer p.Close()
	return do(ctx, p)
}

func (f *projectFlags) define(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.config, "config", project.File(), "file that describes the project (env "+project.EnvConfig+")")
	flags.StringVar(&f.name, "project", "", "name of the project, in place of a file")
	f.nats = map[string]*string{}
	for _, n := range natsSettings {
		f.nats[n.setting] = flags.String(strings.ReplaceAll(n.setting, "_", "-"), "", n.usage+" (env "+process.EnvName(n.setting)+")")
	}
}

// open opens the project, which must exist.
func (f *projectFlags) open(cmd *cobra.Command) (*project.Project, error) {
	config, err := f.load()
	if err != nil {
		return nil, err
	}
	config.Settings.LogLevel = "warn"
	log, err := process.NewLogger(cmd.ErrOrStderr(), config.Settings.WithDefaults())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), connectLimit)
	defer cancel()
	p, err := project.Open(ctx, *config, project.Logger(log))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, process.WithHint(err, "start the NATS server, or name another one with --nats-url")
	}
	if err != nil {
		return nil, err
	}
	row, err := streams.LookUp(ctx, p.JS, config.Name)
	if err != nil {
		p.Close()
		if errors.Is(err, streams.ErrUnknownProject) {
			err = process.WithHint(err, "check the name and the server; a project is registered when one of its programs first runs")
		}
		return nil, err
	}
	if f.name != "" { // what stands in no file
		for name, class := range row.Workflows {
			p.Config.Workflows = append(p.Config.Workflows, project.Workflow{Name: name, Binding: name, ClassName: class.Class})
		}
	}
	return p, nil
}

func (f *projectFlags) load() (*project.Config, error) {
	config := &project.Config{Name: f.name}
	if f.name == "" {
		var err error
		if config, err = project.Load(f.config); err != nil {
			return nil, err
		}
	}
	for setting, flag := range f.nats {
		value, source := *flag, "--"+strings.ReplaceAll(setting, "_", "-")
		if value == "" {
			value, source = os.Getenv(process.EnvName(setting)), process.EnvName(setting)
		}
		if value == "" {
			continue
		}
		err := config.Settings.Set(setting, value)
		if wrong, ok := errors.AsType[*process.SettingError](err); ok {
			wrong.Source = source
		}
		if err != nil {
			return nil, err
		}
	}
	return config, nil
}
