package explained_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/app/dataplane"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/testkit/draw"
)

// served is where the workload of the inbound test has its address: the proxy
// listens there, and the app beside it on 127.0.0.1.
const served = "127.0.0.9"

// inbound is a workload with three ports (HTTP, bytes, and one whose protocol
// nobody says) behind a sidecar with certificates.
type inbound struct {
	files    string
	mesh     string
	ports    []int
	apps     map[string]string // by port of the workload
	log      *journal
	cert     *tls.Certificate
	metadata map[string]string
}

func (in *inbound) objects(policy string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: front, namespace: demo}, spec: {clusterIP: 10.9.9.8, selector: {app: front}, ports: [{name: http, port: 80, targetPort: %d}, {name: tcp, port: 81, targetPort: %d}, {port: 82, targetPort: %d}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: front-1, namespace: demo}, spec: {address: %s, labels: {app: front}, serviceAccount: client}}
---
%s
`, in.ports[0], in.ports[1], in.ports[2], served, policy)
}

// policies are what PeerAuthentication can say about the workload.
func (in *inbound) policies() []string {
	pa := "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: %s}, spec: {%s}}"
	return []string{
		"",
		fmt.Sprintf(pa, "demo", "mtls: {mode: STRICT}"),
		fmt.Sprintf(pa, "istio-system", "mtls: {mode: STRICT}"),
		fmt.Sprintf(pa, "demo", "mtls: {mode: PERMISSIVE}"),
		fmt.Sprintf(pa, "demo", "mtls: {mode: DISABLE}"),
		fmt.Sprintf(pa, "demo", fmt.Sprintf("selector: {matchLabels: {app: front}}, mtls: {mode: STRICT}, portLevelMtls: {%d: {mode: DISABLE}, %d: {mode: PERMISSIVE}}", in.ports[0], in.ports[2])),
	}
}

func newInbound(t *testing.T, policy int) *inbound {
	t.Helper()
	dir := t.TempDir()
	in := &inbound{files: filepath.Join(dir, "mesh.yaml"), mesh: filepath.Join(dir, "meshconfig.yaml"), apps: map[string]string{}, log: newJournal()}
	for _, place := range draw.StandIns(t, "one", "two", "three") {
		l, err := net.Listen("tcp", served+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		in.ports = append(in.ports, port)
		in.apps[strconv.Itoa(port)] = "127.0.0.1:" + strconv.Itoa(place)
	}
	config, err := json.Marshal(map[string]any{"accessLogFile": "/dev/stdout", "accessLogFormat": logFormat + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{in.mesh: string(config), in.files: in.objects(in.policies()[policy])} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	apps, err := json.Marshal(in.apps)
	if err != nil {
		t.Fatal(err)
	}
	in.metadata = map[string]string{"INTERCEPTION_MODE": "NONE", "TULLE_APP_PORTS": string(apps)}
	return in
}

// start runs the control plane with its certificate authority, and the sidecar.
func (in *inbound) start(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	plane, err := app.NewControlPlane(ctx, app.ServeOptions{Files: []string{in.files}, MeshConfig: in.mesh, XDSTLS: "127.0.0.1:0", State: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	domains, err := identity.NewTrustDomains("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.LoadOrCreate(filepath.Join(dir, "ca"), ca.Options{TrustDomains: domains})
	if err != nil {
		t.Fatal(err)
	}
	// Explain's clients are of the namespace's default account.
	bundle, err := authority.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "demo", ServiceAccount: "default"}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	in.cert = bundle.Certificate()
	issuer, err := ca.NewTokenIssuer(filepath.Join(dir, "token", "key.pem"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "demo", ServiceAccount: "client"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"roots.pem": plane.Roots(), "token.txt": []byte(token.Reveal())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, secure, _ := plane.Addresses()
	metadata := fmt.Sprintf(`{"NAMESPACE": "demo", "LABELS": {"app": "front"}, "SERVICE_ACCOUNT": "client", "CLUSTER_ID": "Kubernetes", "INTERCEPTION_MODE": "NONE", "TULLE_APP_PORTS": %s}`, in.metadata["TULLE_APP_PORTS"])
	proxy, err := dataplane.New(ctx, dataplane.Options{XDSTLS: secure, Roots: filepath.Join(dir, "roots.pem"), Token: filepath.Join(dir, "token.txt"), ID: "sidecar~" + served + "~front-1.demo~demo.svc.cluster.local",
		Metadata: json.RawMessage(metadata), Stdout: in.log, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{plane.Run, proxy.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("runner: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	in.ready(t)
}

// ready waits until every port takes connections.
func (in *inbound) ready(t *testing.T) {
	t.Helper()
	deadline, tick := time.NewTimer(waitMax), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for _, port := range in.ports {
		for {
			c, err := net.Dial("tcp", net.JoinHostPort(served, strconv.Itoa(port)))
			if err == nil {
				_ = c.Close()
				break
			}
			select {
			case <-deadline.C:
				t.Fatalf("port %d: %v", port, err)
			case <-tick.C:
			}
		}
	}
}

// call is one connection to the workload; from is its client's address. Each
// call has an IP address of its own: ports are used again.
func (in *inbound) call(t *testing.T, n int, q app.Question) (from string) {
	t.Helper()
	client := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	c, err := client.DialContext(t.Context(), "tcp", net.JoinHostPort(served, strconv.Itoa(q.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from = c.LocalAddr().String()
	if err := c.SetDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	stream := c
	if q.TLS != "none" {
		config := &tls.Config{InsecureSkipVerify: true, ServerName: "front.demo" + draw.Domain} //nolint:gosec // who serves is not in question here
		if config.NextProtos = []string{"http/1.1"}; q.TLS == "mtls" {
			config.Certificates = []tls.Certificate{*in.cert}
			config.NextProtos = []string{map[string]string{"http": "istio-http/1.1", "tcp": "istio"}[q.Protocol]}
		} else if q.Protocol == "tcp" {
			config.NextProtos = nil
		}
		stream = tls.Client(c, config)
	}
	text := "helo, who is there?\n"
	if q.Protocol == "http" {
		text = "GET / HTTP/1.1\r\nhost: front.demo" + draw.Domain + "\r\nconnection: close\r\n\r\n"
	}
	if _, err := io.WriteString(stream, text); err != nil {
		return from // refused, or an app that answers a handshake with something else
	}
	_, _ = bufio.NewReader(stream).ReadString('\n')
	return from
}

func TestExplainSaysWhatASidecarLetsIn(t *testing.T) {
	outcomes := map[string]int{}
	for policy := range (&inbound{ports: make([]int, 3)}).policies() {
		in := newInbound(t, policy)
		in.start(t)
		explainer, err := app.NewExplainer([]string{in.files}, in.mesh)
		if err != nil {
			t.Fatal(err)
		}
		g := draw.New(uint64(policy))
		want := map[string]string{}
		what := map[string]string{}
		for n := range calls {
			q := app.Question{Inbound: true, Namespace: "demo", Labels: map[string]string{"app": "front"}, ProxyIPs: []netip.Addr{netip.MustParseAddr(served)}, Metadata: in.metadata,
				Port: draw.Pick(g, in.ports...), Protocol: draw.Pick(g, "http", "tcp"), TLS: draw.Pick(g, "none", "tls", "mtls"), Host: "front.demo" + draw.Domain, Path: "/", Method: "GET"}
			a, err := explainer.Explain(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			from := in.call(t, n, q)
			want[from] = "refused"
			if a.Decision == "forward" {
				want[from] = "to " + a.Cluster
			}
			what[from] = fmt.Sprintf("policy %d, port %d, %s, %s: %s", policy, slices.Index(in.ports, q.Port), q.Protocol, q.TLS, a.Error)
		}
		got := in.log.settled(t)
		for from, expected := range want {
			happens := "refused"
			if l, ok := got[from]; ok && strings.HasPrefix(l.Cluster, "inbound|") && (l.Code == "200" || l.Code == "0") {
				happens = "to " + l.Cluster
			}
			if happens != expected {
				t.Errorf("%s\n  the proxy: %s (%+v)\n  explain:   %s", what[from], happens, got[from], expected)
			}
			outcomes[strings.Fields(happens)[0]]++
		}
	}
	t.Logf("connections: %v", outcomes)
	if outcomes["to"] == 0 || outcomes["refused"] == 0 {
		t.Error("only one outcome: the test proves little")
	}
}

// settled returns all lines by the client's address, once no more have come for
// a while: refused connections have none to wait for.
func (j *journal) settled(t *testing.T) map[string]line {
	t.Helper()
	quiet := time.NewTimer(time.Second)
	defer quiet.Stop()
	for {
		select {
		case <-j.more:
			quiet.Reset(time.Second)
			continue
		case <-quiet.C:
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		out := map[string]line{}
		for _, l := range j.lines {
			out[l.Remote] = l
		}
		return out
	}
}
