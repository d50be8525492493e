//go:build linux

package world

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/skein-run/skein/test/lab/clock"
)

// Packages of the programs, and what they are called when they are compiled.
const (
	natsPackage      = "github.com/nats-io/nats-server/v2"
	schedulerPackage = "github.com/skein-run/skein/cmd/scheduler"
	nodePackage      = "github.com/skein-run/skein/test/lab/node"

	natsProgram      = "nats-server"
	schedulerProgram = "scheduler"
	nodeProgram      = "node"
)

// Compile compiles what runs on the machines into dir/bin, with a clock that can be set. It works in any folder of the repository.
func Compile(ctx context.Context, dir string) error {
	goroot, err := output(ctx, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	overlay, err := clock.Overlay(goroot, filepath.Join(dir, "overlay"))
	if err != nil {
		return err
	}
	_, err = output(ctx, "go", "build", "-trimpath", "-overlay", overlay, "-o", filepath.Join(dir, "bin")+string(filepath.Separator),
		natsPackage, schedulerPackage, nodePackage)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
