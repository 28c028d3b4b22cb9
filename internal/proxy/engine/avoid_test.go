package engine

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// Of two endpoints one breaks off every connection: whoever meets it is served
// by the other one, by the repetition that is safe and by a policy's, unless
// the policy takes any endpoint.
func TestRepetitionsAvoidTheEndpointThatFailed(t *testing.T) {
	bad := serveWith(t, func(_ int, c net.Conn) { _, _ = rawRequest(bufio.NewReader(c)) })
	good := echo(t)
	ask := func(t *testing.T, retry *router.Retry, request string) (served int) {
		route := to("/", "cart")
		route.Forward.Retry = retry
		s := static("cart", bad.at, good.at)
		s.Balancer = cluster.Random
		p := start(t, &setup{routes: []*router.Route{route}, clusters: []*cluster.Spec{s}})
		const requests = 64
		c := p.dial(t)
		r := bufio.NewReader(c)
		for range requests {
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			head, err := rawRequest(r)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(head, " 200 OK") {
				served++
			}
		}
		return served * 100 / requests
	}
	const get, post = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
	if got := ask(t, nil, get); got != 100 {
		t.Errorf("repeated because that is safe: %d %% are served", got)
	}
	if got := ask(t, &router.Retry{On: router.OnReset, Retries: 1, AvoidTried: true}, post); got != 100 {
		t.Errorf("by a policy: %d %% are served", got)
	}
	if got := ask(t, &router.Retry{On: router.OnReset, Retries: 1}, post); got < 50 || got == 100 {
		t.Errorf("by a policy that takes any endpoint: %d %% are served, want about 75", got)
	}
}
