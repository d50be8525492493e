//go:build race

package engine_test

// raced is set if data races are looked for. A search is one goroutine, so that there is nothing to find, but it takes ten
// times as long.
const raced = true
