//go:build race

package sim

// raced is set if data races are looked for. A game is played by one goroutine at a time, so that there is nothing to
// find, but it takes seven times as long.
const raced = true
