package project

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
)

const defaultFile = "skein.jsonc"

// EnvConfig is the variable that names the file of a project, if no flag does.
const EnvConfig = "SKEIN_CONFIG"

// File is the file of a project that no flag names.
func File() string {
	if named := os.Getenv(EnvConfig); named != "" {
		return named
	}
	return defaultFile
}

// Main runs services as the whole program.
func Main(services ...Service) {
	process.Main(Command(filepath.Base(os.Args[0]), services...))
}

// Command makes a command that runs services: a program of its own, or below another command.
//
// A service that has a method Settings() []string gets the flags and variables of the settings it names there, beside
// those that all have.
func Command(use string, services ...Service) *cobra.Command {
	var path string
	var config *Config
	names := make([]string, len(services))
	var settings []string
	for i, s := range services {
		names[i] = s.Name()
		if more, ok := s.(interface{ Settings() []string }); ok {
			settings = append(settings, more.Settings()...)
		}
	}
	spec := process.Spec{
		Use:      use,
		Short:    "Run " + strings.Join(names, " and ") + " of the project in " + defaultFile,
		Settings: settings,
		Parts:    names,
	}
	spec.File = func() (process.Settings, error) {
		var err error
		if config, err = Load(path); err != nil {
			return process.Settings{}, err
		}
		return config.Settings, nil
	}
	spec.Run = func(ctx context.Context, env *process.Env) error {
		config.Settings = env.Settings
		p, err := newProject(*config, env.NC, env.Log, env.Health)
		if err != nil {
			return err
		}
		defer p.Close()
		p.metrics = env.Metrics
		return Run(ctx, p, services...)
	}
	cmd := process.Command(spec)
	cmd.Flags().StringVar(&path, "config", File(), "file that describes the project (env "+EnvConfig+")")
	return cmd
}
