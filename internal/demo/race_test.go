//go:build race

package demo

// raceFlag builds the demo as the test is built: a race in one of its processes then fails the demo.
const raceFlag = "-race"
