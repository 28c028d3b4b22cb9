//go:build !race

package engine

// raceEnabled: pools drop values at random under the race detector.
const raceEnabled = false
