//go:build conformance

package grpc_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/testkit/program"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// python is a Python with grpcio.
func python(t *testing.T) string {
	t.Helper()
	return program.Need(t, "GRPCIO_PYTHON", filepath.Join("..", "..", "grpcio.sh"))
}

// pythonCases runs all cases from grpcio against an address.
func pythonCases(t *testing.T, python, at string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*caseTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, filepath.Join("testdata", "interop.py"), at)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	if diff := cmp.Diff(plainCases(), strings.Fields(string(out))); diff != "" {
		t.Errorf("cases that held (-want +got):\n%s", diff)
	}
}

func TestPythonsInteropCasesPassThroughProxies(t *testing.T) {
	with := python(t)
	ca := proxyrun.NewAuthority(t)
	for _, way := range ways() {
		if way.tls {
			continue // the client's TLS is grpc-go's case
		}
		t.Run(way.name, func(t *testing.T) {
			_, at := way.start(t, ca)
			pythonCases(t, with, at)
		})
	}
}

func TestPythonsInteropCasesPassThroughAMesh(t *testing.T) {
	with := python(t)
	m, at := mesh(t)
	m.Write(t, "mtls.yaml", mtls("STRICT"))
	answers(t, m, at)
	pythonCases(t, with, at)
}
