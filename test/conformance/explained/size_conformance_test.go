//go:build conformance

package explained_test

// 10,000 requests over random configurations (the acceptance).
const (
	worlds    = 10
	rounds    = 2
	questions = 500
	calls     = 500
)
