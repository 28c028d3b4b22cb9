//go:build conformance

package grpc_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// webFilter is Envoy's gRPC-Web filter.
func webFilter() proxyrun.Object {
	return proxyrun.Object{"name": "envoy.filters.http.grpc_web",
		"typed_config": proxyrun.Object{"@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"}}
}

// The environment of a program that runs one interop case over gRPC-Web.
const (
	webAt   = "GRPC_WEB_AT"
	webForm = "GRPC_WEB_FORM"
	webCase = "GRPC_WEB_CASE"
)

// callWeb is grpc-go's own interop case over gRPC-Web: a program, because a
// case that fails ends the process.
func callWeb() error {
	ctx, cancel := context.WithTimeout(context.Background(), caseTime)
	defer cancel()
	c := &webConn{at: os.Getenv(webAt), text: os.Getenv(webForm) == "text", http: &http.Client{Transport: &http.Transport{}}}
	tc := testpb.NewTestServiceClient(c)
	switch name := os.Getenv(webCase); name {
	case "empty_unary":
		interop.DoEmptyUnaryCall(ctx, tc)
	case "large_unary":
		interop.DoLargeUnaryCall(ctx, tc)
	case "client_streaming":
		interop.DoClientStreaming(ctx, tc)
	case "server_streaming":
		interop.DoServerStreaming(ctx, tc)
	case "ping_pong":
		interop.DoPingPong(ctx, tc)
	case "empty_stream":
		interop.DoEmptyStream(ctx, tc)
	case "timeout_on_sleeping_server":
		interop.DoTimeoutOnSleepingServer(ctx, tc)
	case "cancel_after_begin":
		interop.DoCancelAfterBegin(ctx, tc)
	case "cancel_after_first_response":
		interop.DoCancelAfterFirstResponse(ctx, tc)
	case "status_code_and_message":
		interop.DoStatusCodeAndMessage(ctx, tc)
	case "special_status_message":
		interop.DoSpecialStatusMessage(ctx, tc)
	case "custom_metadata":
		interop.DoCustomMetadata(ctx, tc)
	case "unimplemented_method": // grpc-go's own takes nothing but its own connection
		err := c.Invoke(ctx, "/grpc.testing.TestService/UnimplementedCall", &testpb.Empty{}, &testpb.Empty{})
		if status.Code(err) != codes.Unimplemented {
			return fmt.Errorf("an unimplemented method: %w", err)
		}
	case "unimplemented_service":
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(c))
	default:
		return fmt.Errorf("no case %q", name)
	}
	return nil
}

// webCases runs all cases over gRPC-Web against an address, in both forms.
func webCases(t *testing.T, at string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"binary", "text"} {
		for _, name := range plainCases() {
			t.Run(form+" "+name, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), exe)
				cmd.Env = append(os.Environ(), role+"=web-caller", webAt+"="+at, webForm+"="+form, webCase+"="+name)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

func TestInteropCasesPassOverGRPCWeb(t *testing.T) {
	ca := proxyrun.NewAuthority(t)
	server, caller := ca.Issue(t, "server", "localhost"), ca.Issue(t, "caller", "localhost")
	gateway := func(t *testing.T, be proxyrun.Cluster) *proxyrun.Proxy {
		return proxyrun.Start(t, binary, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "edge", Filters: []proxyrun.Object{webFilter()}}}, []proxyrun.Cluster{be}))
	}
	check := func(t *testing.T, edge *proxyrun.Proxy) {
		webCases(t, edge.At(t, "edge"))
		// A web client that leaves is the only one whose call does not end well.
		for line := range strings.Lines(edge.AccessLog()) {
			if f := strings.Fields(line); f[3] != "200" && f[4] != "DC" && f[4] != "DR" && !strings.Contains(line, "response_timeout") {
				t.Errorf("logged %q", line)
			}
		}
	}
	t.Run("a gateway", func(t *testing.T) {
		check(t, gateway(t, proxyrun.Cluster{Name: "be", To: []string{interopServer(t, nil)}, HTTP2: true}))
	})
	t.Run("a gateway, and mutual TLS to a sidecar", func(t *testing.T) {
		sidecar := proxyrun.Start(t, binary, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "inbound", TLS: server, Mutual: true}},
			[]proxyrun.Cluster{{Name: "be", To: []string{interopServer(t, nil)}, HTTP2: true}}))
		check(t, gateway(t, proxyrun.Cluster{Name: "be", To: []string{sidecar.At(t, "inbound")}, HTTP2: true, TLS: caller}))
	})
}

// A gateway's port that declares GRPC-WEB leads calls of browsers to a service
// of gRPC, behind its sidecar.
func TestGRPCWebPassesThroughAMesh(t *testing.T) {
	m, _ := mesh(t)
	m.Write(t, "mtls.yaml", mtls("STRICT"))
	m.Write(t, "gateway.yaml", strings.Replace(gateway, "protocol: HTTP", "protocol: GRPC-WEB", 1))
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &webConn{at: m.Gateway, http: &http.Client{Transport: transport}}
	m.Await(t, 20*time.Second, "a call of gRPC-Web comes through the gateway", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return c.Invoke(ctx, "/grpc.testing.TestService/EmptyCall", &testpb.Empty{}, &testpb.Empty{}) == nil
	})
	webCases(t, m.Gateway)
	answers(t, m, m.Gateway) // gRPC itself passes as before
}
