//go:build !race

package pooltest

// Race scales stress down: the race detector makes it about ten times slower.
const Race = false
