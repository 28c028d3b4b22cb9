//go:build !conformance

package explained_test

// How much of the comparison runs with every `go test`.
const (
	worlds    = 5
	rounds    = 1
	questions = 100
	calls     = 20
)
