//go:build conformance

package explained_test

// 10,000 requests over random configurations (the acceptance).
const (
	worlds    = 25
	rounds    = 2
	questions = 200
	calls     = 200
)
