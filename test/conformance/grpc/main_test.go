//go:build conformance

// Package grpc_test holds the mesh to gRPC as its implementations speak it: grpc-go's interop client and server, Python's grpcio, grpc-go as
// xDS client and xDS server of our control plane, gRPC-Web through a gateway.
//
// The program and grpc-go's interop client are built once and run as child processes; the interop server is this test's own binary in a
// role, or a goroutine. Read this file first, then interop_test.go.
package grpc_test

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/testkit/program"
)

// role is the environment variable by which the test's binary is a program of
// a mesh: one of roles.
const role = "GRPC_ROLE"

func roles() map[string]func() error {
	return map[string]func() error{"server": serve, "caller": call, "web-caller": callWeb, "xds-server": proxylessServer, "xds-client": proxylessClient}
}

var (
	binary string // the program
	client string // grpc-go's interop client
)

func TestMain(m *testing.M) {
	program.Suite{Part: roles()[os.Getenv(role)], Build: build, Leaks: func() error { return goleak.Find() }}.Main(m)
}

// build builds both programs. The client is of the version that go.mod names.
func build(dir string) (err error) {
	if binary, err = program.Build(context.Background(), dir, program.Tulle); err != nil {
		return err
	}
	client, err = program.Build(context.Background(), dir, "google.golang.org/grpc/interop/client")
	return err
}
