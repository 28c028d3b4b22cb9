package traffic_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/held"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

const (
	webEgress = "127.0.0.11:0"
	webHost   = "web.demo.svc.cluster.local:80"
)

// upgrade is a way to ask for a version of HTTP to a destination, and the
// versions in which an HTTP/1.1 and an HTTP/2 client's requests then travel, by
// the name of the service's port.
type upgrade struct {
	name, mesh, pool string
	named            [2]string // "http"
	declared         [2]string // "http2": what is declared holds
	sniffed          [2]string // no protocol is declared
}

func upgrades() []upgrade {
	const (
		one, two = "HTTP/1.1", "HTTP/2"
		yes      = "h2UpgradePolicy: UPGRADE\n"
	)
	first, second, kept := [2]string{one, one}, [2]string{two, two}, [2]string{one, two}
	return []upgrade{
		{"nothing", "", "", first, second, kept},
		{"a mesh that does not", "h2UpgradePolicy: DO_NOT_UPGRADE\n", "", first, second, kept},
		{"a mesh that upgrades", yes, "", second, second, kept},
		{"a destination that does not, in a mesh that upgrades", yes, "h2UpgradePolicy: DO_NOT_UPGRADE", first, second, kept},
		{"a destination by the mesh's default", yes, "h2UpgradePolicy: DEFAULT", second, second, kept},
		{"a destination with other settings, in a mesh that upgrades", yes, "maxRetries: 7", second, second, kept},
		{"a destination that upgrades", "", "h2UpgradePolicy: UPGRADE", second, second, second},
		{"the client's version", "", "useClientProtocol: true", kept, kept, kept},
		{"the client's version, in a mesh that upgrades", yes, "useClientProtocol: true", kept, kept, kept},
	}
}

func (u *upgrade) rule() string {
	if u.pool == "" {
		return ""
	}
	return fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: demo}, spec: {host: web, trafficPolicy: {connectionPool: {http: {%s}}}}}`, u.pool)
}

// eachUpgrade runs a test for every way, port and version of the client.
func eachUpgrade(t *testing.T, f func(t *testing.T, u *upgrade, port string, two bool, want string)) {
	for _, u := range upgrades() {
		for port, want := range map[string][2]string{"http": u.named, "http2": u.declared, "any": u.sniffed} {
			for i, version := range []string{"HTTP/1.1", "HTTP/2"} {
				t.Run(u.name+"/port "+port+"/"+version, func(t *testing.T) {
					t.Parallel()
					f(t, &u, port, i == 1, want[i])
				})
			}
		}
	}
}

func TestVersionOfHTTPToAnApplication(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, version(r.ProtoMajor)) })
	eachUpgrade(t, func(t *testing.T, u *upgrade, port string, two bool, want string) {
		p := start(t, u.mesh, workload("127.0.0.1", int(at.Port()), plaintext, port, u.rule()),
			node{kind: "sidecar", at: "127.0.0.9", name: "caller", egress: map[string]string{webHost: webEgress}})
		if status, got := get(t, client(t, two), "http://"+p.at(t, webEgress)); status != http.StatusOK || got != want {
			t.Errorf("%d by %s, want %s", status, got, want)
		}
	})
}

func version(major int) string {
	if major == 2 {
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// Between two sidecars the version is agreed on by ALPN; which one it was says
// the access log of the second.
func TestVersionOfHTTPBetweenSidecars(t *testing.T) {
	const strict = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: demo}, spec: {mtls: {mode: STRICT}}}`
	authority := proxyrun.NewAuthority(t)
	caller, web := authority.Issue(t, "caller"), authority.Issue(t, "web")
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Client-Cert"))
	})
	eachUpgrade(t, func(t *testing.T, u *upgrade, port string, two bool, want string) {
		mesh := u.mesh + "accessLogFile: /dev/stdout\naccessLogFormat: \"%PROTOCOL%\\n\"\n"
		number := held.Port(t, "127.0.0.2")
		objects := workload("127.0.0.2", number, mutual, port, u.rule(), strict)
		second := start(t, mesh, objects, node{kind: "sidecar", at: "127.0.0.2", name: "web", secrets: web, appPorts: map[string]string{strconv.Itoa(number): at.String()}})
		first := start(t, mesh, objects, node{kind: "sidecar", at: "127.0.0.9", name: "caller", secrets: caller, egress: map[string]string{webHost: webEgress}})
		status, cert := get(t, client(t, two), "http://"+first.at(t, webEgress))
		if status != http.StatusOK || cert == "" {
			t.Fatalf("%d %q", status, cert)
		}
		got := second.logged(t)
		for got == "-" { // no HTTP: opened for a client that was silent for a while, and not used
			got = second.logged(t)
		}
		if got != want {
			t.Errorf("by %s, want %s", got, want)
		}
	})
}
