//go:build !race

package taskpool_test

const raceEnabled = false
