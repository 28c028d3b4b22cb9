//go:build conformance

package grpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/xds"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// The environment of the proxyless roles.
const (
	listenOn = "XDS_LISTEN" // an address without port
	place    = "XDS_PLACE"  // where a server writes its address
	answer   = "XDS_ANSWER" // what it answers
	target   = "XDS_TARGET"
	calls    = "XDS_CALLS"
)

// proxylessServer is a gRPC server that our control plane configures.
func proxylessServer() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(os.Getenv(listenOn), "0"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(os.Getenv(place), []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	creds, err := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		return err
	}
	s, err := xds.NewGRPCServer(grpc.Creds(creds))
	if err != nil {
		return err
	}
	testpb.RegisterTestServiceServer(s, named{name: os.Getenv(answer)})
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

// named answers with its name, and how it was called.
type named struct {
	testpb.UnimplementedTestServiceServer

	name string
}

// UnaryCall implements testpb.TestServiceServer.
func (n named) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	how := "plain"
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			how = "mutual TLS"
		}
	}
	return &testpb.SimpleResponse{ServerId: n.name, Hostname: how}, nil
}

// tally is what a proxyless client writes: calls by who answered and how.
type tally map[string]int

// proxylessClient calls the target with and without x-version: v2 and writes
// who answered.
func proxylessClient() error {
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(os.Getenv(target), grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), caseTime)
	defer cancel()
	n := 0
	if _, err := fmt.Sscan(os.Getenv(calls), &n); err != nil {
		return err
	}
	out := map[string]tally{"any": {}, "v2": {}}
	for _, who := range []string{"any", "v2"} {
		ctx := ctx
		if who != "any" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-version", who)
		}
		for range n {
			r, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.WaitForReady(true))
			if err != nil {
				return err
			}
			out[who][r.GetServerId()+" "+r.GetHostname()]++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// proxyless is a control plane and the peers that it configures.
type proxyless struct {
	dir, xds string
	ca       *proxyrun.Authority
}

// startPlane runs `tulle serve` over a folder.
func startPlane(t *testing.T) *proxyless {
	t.Helper()
	p := &proxyless{dir: t.TempDir(), ca: proxyrun.NewAuthority(t)}
	p.write(t, "mtls.yaml", mtls("DISABLE"))
	addresses := filepath.Join(t.TempDir(), "addresses")
	runProgram(t, "the control plane", nil, binary, "serve", "-f", p.dir, "--xds", "127.0.0.1:0", "--monitoring", "", "--state", t.TempDir(), "--address-file", addresses)
	await(t, "the control plane serves", func() bool {
		data, err := os.ReadFile(addresses)
		p.xds, _, _ = strings.Cut(string(data), "\n")
		return err == nil
	})
	return p
}

func (p *proxyless) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// environment is what a proxyless peer needs: its bootstrap, with certificates of its own.
func (p *proxyless) environment(t *testing.T, name, ip, as string, more ...string) []string {
	t.Helper()
	own := p.ca.Issue(t, name)
	bootstrap, err := json.Marshal(proxyrun.Object{
		"xds_servers": []proxyrun.Object{{"server_uri": "passthrough:///" + p.xds, "channel_creds": []proxyrun.Object{{"type": "insecure"}}, "server_features": []string{"xds_v3"}}},
		"node":        proxyrun.Object{"id": fmt.Sprintf("sidecar~%s~%s.demo~demo.svc.cluster.local", ip, name), "metadata": proxyrun.Object{"GENERATOR": "grpc", "NAMESPACE": "demo"}},
		"certificate_providers": proxyrun.Object{"default": proxyrun.Object{"plugin_name": "file_watcher", "config": proxyrun.Object{
			"certificate_file": own.Chain, "private_key_file": own.Key, "ca_certificate_file": own.Roots, "refresh_interval": "60s"}}},
		"server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
	})
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{role + "=" + as, "GRPC_XDS_BOOTSTRAP_CONFIG=" + string(bootstrap)}, more...)
}

// runProgram starts a program for as long as the test runs.
func runProgram(t *testing.T, what string, env []string, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...) //nolint:noctx // ended by the cleanup, gently
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if t.Failed() {
			t.Logf("%s said: %s", what, said.String()[max(0, said.Len()-3000):])
		}
	})
}

// server starts one version of the service and returns its address.
func (p *proxyless) server(t *testing.T, version, ip string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "address")
	runProgram(t, version, p.environment(t, "echo-"+version, ip, "xds-server", listenOn+"="+ip, place+"="+at, answer+"="+version), exe)
	var data []byte
	await(t, version+" listens", func() bool {
		data, err = os.ReadFile(at)
		return err == nil && len(data) > 0
	})
	return string(data)
}

// ask runs a proxyless client once.
func (p *proxyless) ask(t *testing.T, n int) (map[string]tally, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), p.environment(t, "client", "127.0.0.21", "xds-client", target+"=xds:///echo.demo.svc.cluster.local:9000", fmt.Sprintf("%s=%d", calls, n))...)
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var got map[string]tally
	return got, json.Unmarshal(out, &got)
}

// await waits until ok, 20 s at most.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

// echo are the objects of the service and its two versions. Proxyless clients
// use TLS where a rule says so, and not by themselves (Istio).
func echo(v1, v2, tls string) string {
	var out strings.Builder
	fmt.Fprintf(&out, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo, namespace: demo}
spec:
  hosts: [echo.demo.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: grpc, protocol: GRPC}]
  workloadSelector: {labels: {app: echo}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: demo}
spec:
  host: echo.demo.svc.cluster.local
  trafficPolicy: {tls: {mode: %s}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: demo}
spec:
  hosts: [echo.demo.svc.cluster.local]
  http:
  - match: [{headers: {x-version: {exact: v2}}}]
    route: [{destination: {host: echo.demo.svc.cluster.local, subset: v2}}]
  - route:
    - {destination: {host: echo.demo.svc.cluster.local, subset: v1}, weight: 75}
    - {destination: {host: echo.demo.svc.cluster.local, subset: v2}, weight: 25}
`, tls)
	for version, at := range map[string]string{"v1": v1, "v2": v2} {
		host, port, _ := net.SplitHostPort(at)
		fmt.Fprintf(&out, `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: echo-%[1]s, namespace: demo}
spec: {address: %[2]s, ports: {grpc: %[3]s}, labels: {app: echo, version: %[1]s}, serviceAccount: echo-%[1]s}
`, version, host, port)
	}
	return out.String()
}

func TestProxylessPeersAreDrivenByOurControlPlane(t *testing.T) {
	p := startPlane(t)
	v1, v2 := p.server(t, "v1", "127.0.0.11"), p.server(t, "v2", "127.0.0.12")
	for _, mode := range []struct{ name, how, tls string }{{"DISABLE", "plain", "DISABLE"}, {"STRICT", "mutual TLS", "ISTIO_MUTUAL"}} {
		t.Run(mode.name, func(t *testing.T) {
			p.write(t, "echo.yaml", echo(v1, v2, mode.tls))
			p.write(t, "mtls.yaml", mtls(mode.name))
			last := ""
			defer func() {
				if t.Failed() {
					t.Logf("the last look: %s", last)
				}
			}()
			await(t, "both versions are called in the mode", func() bool {
				got, err := p.ask(t, 20)
				last = fmt.Sprint(got, err)
				return err == nil && got["v2"]["v2 "+mode.how] == 20
			})
			const n = 2000
			got, err := p.ask(t, n)
			if err != nil {
				t.Fatal(err)
			}
			if by := got["v2"]; by["v2 "+mode.how] != n {
				t.Errorf("by header: %v", by)
			}
			// Five standard deviations of a binomial distribution: 5·√(2000·0.75·0.25) = 97.
			by := got["any"]
			if first, second := by["v1 "+mode.how], by["v2 "+mode.how]; first+second != n || first < 1403 || first > 1597 {
				t.Errorf("by weight: %v", by)
			}
		})
	}
}
