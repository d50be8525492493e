// Command node is what runs on the machines of the fault lab that have runners or agent hosts. It must never know that it is in a lab.
package main

import (
	"fmt"
	"os"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/test/lab/work"
)

func main() {
	roles := map[string]func() project.Service{"runner": work.Runner, "host": func() project.Service { return work.Host() }}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: node runner|host FLAGS")
		os.Exit(2)
	}
	role := roles[os.Args[1]]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	project.Main(role())
}
