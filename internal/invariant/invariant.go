// Package invariant checks what can only be false when our own code is wrong.
//
// In comes a condition, out goes the same condition. A false one panics in
// tests and in binaries built with the race detector, so that it can't be
// missed; in production it is counted and returned, and the caller must fail
// closed (refuse the request, keep the last configuration). Input of a user or
// of a peer is never an invariant: it is validated and refused with an error.
//
// Check owns the only process-wide counter of the program; Violations reads it.
package invariant

import (
	"sync/atomic"
	"testing"
)

// violations counts broken invariants. It is package state because a broken
// invariant has no owner that could be trusted with the count.
var violations atomic.Uint64 //nolint:gochecknoglobals // see above

// Check returns holds. When holds is false it panics with message in tests and
// under the race detector, and is counted otherwise.
func Check(holds bool, message string) bool {
	if holds {
		return true
	}
	violations.Add(1)
	if raceDetector || testing.Testing() {
		panic("invariant violated: " + message)
	}
	return false
}

// Violations returns how many checks were false since the process began.
func Violations() uint64 { return violations.Load() }
