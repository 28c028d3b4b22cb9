//go:build conformance

// Package http2_test holds the proxy to HTTP/2 as its peers see it: h2spec, servers that misbehave, floods, resets at every frame boundary,
// and the same requests over both versions.
//
// The program is built once and runs as a child process with a bootstrap (testkit/proxyrun); peers speak to it in frames that they build by
// themselves, because honest libraries can't misbehave. Read this file first, then wire_test.go, the frames, and h2spec_test.go.
package http2_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// program is tulle, built once for all tests by TestMain.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tulle-http2-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = meshrun.Build(context.Background(), filepath.Join("..", "..", ".."), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}
