// Command skein is the tool beside the servers: it tries Skein out and looks after it.
package main

import "github.com/skein-run/skein/internal/process"

func main() { process.Main(newRoot()) }
