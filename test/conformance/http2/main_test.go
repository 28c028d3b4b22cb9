//go:build conformance

// Package http2_test holds the proxy to HTTP/2 as its peers see it: h2spec, servers that misbehave, floods, resets at every frame boundary,
// and the same requests over both versions.
//
// The program is built once and runs as a child process with a bootstrap (testkit/proxyrun); peers speak to it in frames that they build by
// themselves, because honest libraries can't misbehave. Read this file first, then wire_test.go, the frames, and h2spec_test.go.
package http2_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/testkit/program"
)

// tulle is the program, built once for all tests by TestMain.
var tulle string

func TestMain(m *testing.M) {
	program.Suite{
		Build: func(dir string) (err error) {
			tulle, err = program.Build(context.Background(), dir, program.Tulle)
			return err
		},
		Leaks: func() error { return goleak.Find() },
	}.Main(m)
}
