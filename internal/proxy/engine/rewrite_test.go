package engine

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// What the upstream sees of a request that the route rewrites.
func TestRewrittenRequestReachesTheUpstream(t *testing.T) {
	t.Parallel()
	back := echo(t)
	r := to("/v1/", "shop")
	r.Forward.PrefixRewrite, r.Forward.HostRewrite, r.Forward.AppendForwardedHost = "/api/", "internal", true
	r.RequestHeaders.Set = []router.HeaderOp{{Name: "x-was", Parts: []router.ValuePart{{Operator: "REQ", Arg: ":path"}, {Literal: " of "}, {Operator: "REQ", Arg: ":authority"}}}}
	plain := to("/", "shop")
	plain.Forward.HostRewrite = "internal"
	p := start(t, &setup{routes: []*router.Route{r, plain}, clusters: []*cluster.Spec{static("shop", back.at)}, extra: func(parts *generation.Parts) {
		for _, h := range parts.Tables["routes"].Hosts() {
			h.AttemptCount = true
		}
	}})
	for _, c := range []struct {
		path         string
		want, absent []string
	}{
		{
			"/v1/x?q=1",
			[]string{"GET /api/x?q=1 HTTP/1.1\r\n", "\r\nhost: internal\r\n", "\r\nx-forwarded-host: outside\r\n", "\r\nx-envoy-original-path: /v1/x?q=1\r\n", "\r\nx-was: /v1/x?q=1 of outside\r\n", "\r\nx-envoy-attempt-count: 1\r\n"},
			nil,
		},
		{"/other", []string{"GET /other HTTP/1.1\r\n", "\r\nhost: internal\r\n"}, []string{"x-forwarded-host", "x-envoy-original-path", "x-was"}},
	} {
		got := strings.ToLower(p.talk(t, "GET "+c.path+" HTTP/1.1\r\nHost: outside\r\nConnection: close\r\n\r\n"))
		for _, w := range c.want {
			if !strings.Contains(got, strings.ToLower(w)) {
				t.Errorf("%s: %q is missing in\n%s", c.path, w, got)
			}
		}
		for _, w := range c.absent {
			if strings.Contains(got, w) {
				t.Errorf("%s: %q was not asked for:\n%s", c.path, w, got)
			}
		}
	}
}
