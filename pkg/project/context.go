package project

import "context"

type contextKey struct{}

// With returns a context that carries p: bindings used with it act for that project. Services give it to the code
// that they run.
func With(ctx context.Context, p *Project) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From returns the project that ctx carries, if any.
func From(ctx context.Context) (*Project, bool) {
	p, ok := ctx.Value(contextKey{}).(*Project)
	return p, ok
}

// Known returns the number of shards of a target that was found before.
func (p *Project) Known(t Target) (shards int, ok bool) {
	v, ok := p.known.Load(t)
	if !ok {
		return 0, false
	}
	return v.(int), true
}

// Know remembers that a target is registered. Registrations are never taken back.
func (p *Project) Know(t Target, shards int) { p.known.Store(t, shards) }
