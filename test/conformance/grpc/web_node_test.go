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

// webModules are Node.js' modules with clients of gRPC-Web.
func webModules(t *testing.T) string {
	t.Helper()
	return program.Need(t, "GRPC_WEB_MODULES", filepath.Join("..", "..", "grpcweb.sh"))
}

// browserCases are the interop cases that clients in browsers can run: unary
// calls, and streams of the server.
func browserCases() []string {
	return []string{"empty_unary", "large_unary", "server_streaming", "status_code_and_message", "special_status_message",
		"custom_metadata", "unimplemented_method", "unimplemented_service", "timeout_on_sleeping_server"}
}

// browsers runs all cases from clients that browsers use.
func browsers(t *testing.T, modules, at string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*caseTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join("testdata", "web.mjs"), at, modules)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || said.Len() > 0 {
		t.Errorf("%v: %s", err, said.String())
	}
	var want []string
	for _, client := range []string{"grpc-web-text", "grpc-web-binary", "protobuf-ts-text", "protobuf-ts-binary"} {
		for _, name := range browserCases() {
			if client == "grpc-web-binary" && (name == "server_streaming" || name == "timeout_on_sleeping_server") {
				continue // it streams in text alone
			}
			want = append(want, client+" "+name)
		}
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
		t.Errorf("cases that held (-want +got):\n%s", diff)
	}
}

func TestClientsOfBrowsersPassThroughAGateway(t *testing.T) {
	modules := webModules(t)
	edge := proxyrun.Start(t, binary, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "edge", Filters: []proxyrun.Object{webFilter()}}},
		[]proxyrun.Cluster{{Name: "be", To: []string{interopServer(t, nil)}, HTTP2: true}}))
	browsers(t, modules, edge.At(t, "edge"))
}
