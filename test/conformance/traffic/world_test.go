// Package traffic_test holds settings of the mesh to what they do to connections: objects in, bytes through sockets.
//
// In come a mesh configuration and objects; translate, compile and the engine make proxies of them in this process, as `tulle serve` and
// `tulle-proxy` do in two. Out go what applications, clients and the kernel see. A proxy lives as long as its test.
// Read this file first.
package traffic_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
	"github.com/tullemesh/tulle/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// node says who a proxy is. What it listens at by itself needs no redirection.
type node struct {
	kind     string // sidecar or router
	at, name string // address and workload
	egress   map[string]string
	appPorts map[string]string
	secrets  *proxyrun.Credentials
}

// proxy is a running engine.
type proxy struct {
	*engine.Engine
	lines chan string // of its access log
}

// start makes a proxy of objects in the namespace demo.
func start(t *testing.T, mesh, objects string, n node) *proxy {
	t.Helper()
	config, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(mesh))
	settings := model.MeshFrom(config)
	store := registry.NewStore(registry.Options{Cluster: "Kubernetes", DomainSuffix: settings.DomainSuffix})
	decoded := apis.Decode("input.yaml", []byte(objects), apis.Options{})
	for _, p := range append(problems, decoded.Problems...) {
		if p.Refuses() {
			t.Fatal(p)
		}
	}
	store.Put(registry.Input{Source: "input.yaml", Objects: decoded.Objects})
	snapshot, _ := model.Build(store.Set(), settings, nil)
	who, err := view.New(snapshot, n.parse(t), "")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{lines: make(chan string, 1024)}
	p.Engine = engine.New(engine.Options{Log: slog.New(slog.DiscardHandler), OpenLog: func(string) (io.WriteCloser, error) { return p, nil }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	build(t, p.Engine, translate.New(snapshot, nil), who, n.secrets)
	return p
}

func (n *node) parse(t *testing.T) *wire.Node {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"id": n.kind + "~" + n.at + "~" + n.name + ".demo~demo.svc.cluster.local",
		"metadata": map[string]any{
			"NAMESPACE": "demo", "LABELS": map[string]string{"app": n.name}, "INTERCEPTION_MODE": "NONE",
			"TULLE_EGRESS": n.egress, "TULLE_APP_PORTS": n.appPorts,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	message := &corev3.Node{}
	if err := protojson.Unmarshal(text, message); err != nil {
		t.Fatal(err)
	}
	parsed, err := wire.ParseNode(message)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// build compiles all that a proxy has and makes it the engine's configuration.
func build(t *testing.T, e *engine.Engine, tr *translate.Translator, who *view.View, secrets *proxyrun.Credentials) {
	t.Helper()
	b, now := compile.NewBuilder(compile.New()), time.Now()
	take := func(typeURL string, names []string) {
		var found []*wire.Resource
		for _, name := range names {
			r, err := tr.Build(who, typeURL, name)
			if err != nil {
				t.Fatal(err)
			}
			if typeURL == wire.SecretType && secrets != nil {
				r = secret(t, secrets, name)
			}
			if r != nil {
				found = append(found, r)
			}
		}
		for _, r := range b.Apply(typeURL, found, nil, now) {
			t.Fatalf("%s %s: %s", typeURL, r.Name, r.Reason)
		}
	}
	take(wire.ClusterType, tr.Names(who, wire.ClusterType))
	take(wire.ListenerType, tr.Names(who, wire.ListenerType))
	for typeURL, names := range b.Wants() {
		take(typeURL, names)
	}
	cfg, wait := b.Build(now)
	if wait > 0 {
		cfg, _ = b.Build(now.Add(wait))
	}
	if err := e.Apply(cfg); err != nil {
		t.Fatal(err)
	}
}

// secret is what the agent beside a proxy serves: the workload's, or of files.
func secret(t *testing.T, c *proxyrun.Credentials, name string) *wire.Resource {
	t.Helper()
	file := func(path string) *corev3.DataSource {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
	}
	s := &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: file(c.Chain), PrivateKey: file(c.Key)}}}
	if name == "ROOTCA" || strings.HasPrefix(name, "file-root:") {
		s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: file(c.Roots)}}
	}
	r, err := wire.NewResource(name, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at is where the proxy listens for an address that asked for any port.
func (p *proxy) at(t *testing.T, address string) string {
	t.Helper()
	bound, ok := p.Listening()[netip.MustParseAddrPort(address)]
	if !ok {
		t.Fatalf("nothing listens for %s: %v", address, p.Listening())
	}
	return bound.String()
}

// Write takes lines of the access log.
func (p *proxy) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		select {
		case p.lines <- strings.TrimSpace(line):
		default: // nobody waits for so many
		}
	}
	return len(b), nil
}

// Close implements io.Closer.
func (p *proxy) Close() error { return nil }

// logged is the next line of the access log.
func (p *proxy) logged(t *testing.T) string {
	t.Helper()
	select {
	case line := <-p.lines:
		return line
	case <-time.After(patience):
		t.Fatal("no line in the access log")
		return ""
	}
}

// app is an application that speaks plaintext HTTP of both versions.
func app(t *testing.T, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l := listen(t)
	s := &http.Server{Handler: handler, Protocols: &http.Protocols{}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-ended })
	return netip.MustParseAddrPort(l.Addr().String())
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client speaks one version of HTTP, on connections of its own.
func client(t *testing.T, two bool) *http.Client {
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(!two)
	transport.Protocols.SetUnencryptedHTTP2(two)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// get makes one call and gives status and body.
func get(t *testing.T, c *http.Client, url string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Whether a workload takes mutual TLS (label security.istio.io/tlsMode).
const (
	mutual    = "istio"
	plaintext = "disabled"
)

// workload is a service web with one workload of the same name: port is where
// the workload is reached.
func workload(at string, port int, tlsMode, portName string, more ...string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: demo}, spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: %q, port: 80, targetPort: %d}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: web, namespace: demo}, spec: {address: %s, serviceAccount: web, labels: {app: web, security.istio.io/tlsMode: %s}}}
---
`, portName, port, at, tlsMode) + strings.Join(more, "\n---\n")
}
