//go:build conformance

// Package grpc_test holds the mesh to gRPC as its implementations speak it: grpc-go's interop client and server, Python's grpcio, grpc-go as
// xDS client and xDS server of our control plane, gRPC-Web through a gateway.
//
// The program and grpc-go's interop client are built once and run as child processes; the interop server is this test's own binary in a
// role, or a goroutine. Read this file first, then interop_test.go.
package grpc_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// role is the environment variable by which the test's binary is a program of
// a mesh: one of roles.
const role = "GRPC_ROLE"

func roles() map[string]func() error {
	return map[string]func() error{"server": serve, "caller": call, "xds-server": proxylessServer, "xds-client": proxylessClient}
}

var (
	binary string // the program
	client string // grpc-go's interop client
)

func TestMain(m *testing.M) {
	if f := roles()[os.Getenv(role)]; f != nil {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tulle-grpc-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
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

// build builds both programs. The client is of the version that go.mod names.
func build(dir string) error {
	root := filepath.Join("..", "..", "..")
	var err error
	if binary, err = meshrun.Build(context.Background(), root, dir); err != nil {
		return err
	}
	client = filepath.Join(dir, "interop-client")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", client, "google.golang.org/grpc/interop/client")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the interop client: %w\n%s", err, out)
	}
	return nil
}
