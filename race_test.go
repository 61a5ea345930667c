//go:build race

package taskpool_test

// raceEnabled scales the stress tests down: the race detector makes them about
// ten times slower.
const raceEnabled = true
