package traffic_test

import (
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/testkit/held"
)

// keepalive is what a socket has: whether it probes, after how many seconds,
// how many apart, how often.
type keepalive struct{ on, idle, interval, probes int }

// keepaliveTo reads it off this process's only socket whose peer is at.
func keepaliveTo(t *testing.T, at netip.AddrPort) keepalive {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := unix.Getpeername(fd)
		if to, ok := peer.(*unix.SockaddrInet4); err != nil || !ok || netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port)) != at {
			continue
		}
		option := func(level, name int) int {
			n, err := unix.GetsockoptInt(fd, level, name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		return keepalive{
			option(unix.SOL_SOCKET, unix.SO_KEEPALIVE), option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
			option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
		}
	}
	t.Fatalf("no socket leads to %s", at)
	return keepalive{}
}

func TestKeepaliveOfConnections(t *testing.T) {
	const (
		mesh    = "tcpKeepalive: {probes: 3, time: 7203s, interval: 73s}\n"
		rule    = `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: demo}, spec: {host: web, trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {time: 7100s}}}}}}`
		bare    = `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: demo}, spec: {host: web, trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {}}}}}}`
		sidecar = `{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: demo}, spec: {inboundConnectionPool: {tcp: {tcpKeepalive: {probes: 5}}}}}`
	)
	// What the kernel says of a socket that nobody has told anything.
	system := keepalive{0, 7200, 75, 9}
	for _, c := range []struct {
		name, mesh, more string
		inbound          bool
		want             keepalive
	}{
		{"none", "", "", false, system},
		{"the mesh's", mesh, "", false, keepalive{1, 7203, 73, 3}},
		{"a destination's", "", rule, false, keepalive{1, 7100, 75, 9}},
		{"a destination's over the mesh's", mesh, rule, false, keepalive{1, 7100, 73, 3}},
		{"a destination's that says nothing more", "", bare, false, keepalive{1, 7200, 75, 9}},
		{"the mesh's, to the app", mesh, "", true, keepalive{1, 7203, 73, 3}},
		{"a sidecar's over a destination's and the mesh's, to the app", mesh, rule + "\n---\n" + sidecar, true, keepalive{1, 7203, 73, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := app(t, func(http.ResponseWriter, *http.Request) {})
			var url string
			if c.inbound {
				number := held.Port(t, "127.0.0.2")
				objects := workload("127.0.0.2", number, plaintext, "http", c.more)
				start(t, c.mesh, objects, node{kind: "sidecar", at: "127.0.0.2", name: "web", appPorts: map[string]string{strconv.Itoa(number): at.String()}})
				url = "http://127.0.0.2:" + strconv.Itoa(number)
			} else {
				objects := workload("127.0.0.1", int(at.Port()), plaintext, "http", c.more)
				url = "http://" + start(t, c.mesh, objects, node{kind: "sidecar", at: "127.0.0.9", name: "caller", egress: map[string]string{webHost: webEgress}}).at(t, webEgress)
			}
			if status, _ := get(t, client(t, false), url); status != http.StatusOK {
				t.Fatal(status)
			}
			if got := keepaliveTo(t, at); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
