//go:build race

package process_test

// raceEnabled reports whether the race detector is on, with which a child takes
// long to start.
const raceEnabled = true
