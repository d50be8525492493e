//go:build !linux

package bench

import "errors"

// yieldToAll is known of Linux only.
func yieldToAll() error { return errors.New("run at the lowest priority: not on this system") }
