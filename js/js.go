// Package js holds the client of agents for web pages: one ES module, skein.js, that needs no build step. A host serves it
// beside its agents:
//
//	project.Main(agent.Host(rooms).Handle("/skein.js", js.Handler()))
//
// skein.d.ts has the types of the module, and docs/clients.md says how it behaves.
//
// It must never need anything but the standard library, nor know of a server: whoever wants the module can copy the file.
package js

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the module
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed skein.js
var module []byte

// Module is the source of the module.
func Module() []byte { return bytes.Clone(module) }

// Handler serves the module, whatever the path. Browsers keep it and ask each time whether it is still the same. Pages of all
// origins may load it: it is no secret.
func Handler() http.Handler {
	sum := sha256.Sum256(module)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(module))
	})
}
