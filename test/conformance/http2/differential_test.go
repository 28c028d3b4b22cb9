//go:build conformance

package http2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// drawn are how many requests TestRequestsMeanTheSameInBothVersions draws.
const drawn = 250

// drawRequest draws a request that both versions can carry. TE is not drawn: in
// HTTP/1.1 it must be named by Connection (RFC 9110 §10.1.4), which net/http
// does not do and HTTP/2 has not.
func drawRequest(r *rand.Rand, url string) func() *http.Request {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	method := pick("GET", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND")
	path := pick("/", "/a", "/a/b", "/moved/x", "/moved?x=1", "/own", "/own/deep", "/rewrite/q?z=%20&y", "/edit/h", "/denied", "/a%2Fb", "/a//b", "/x;y=1", "/"+strings.Repeat("p", r.IntN(2000)))
	host := pick("shop", "shop:8080", "SHOP", "other.example", "nowhere.example", "127.0.0.1")
	header := http.Header{"User-Agent": {"test"}} // or net/http says its version
	for range r.IntN(6) {
		name := pick("X-Tenant", "X-Version", "Accept", "X-Empty", "X-Long", "Authorization", "User-Agent", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Envoy-Internal", "Cookie", "X-B", "Via")
		value := pick("a", "b", "blue", "trailers", "v1, v2", strings.Repeat("l", r.IntN(3000)), "ä\xff", "a=1; b=2")
		if name == "Cookie" {
			header.Set(name, value) // one field at most (RFC 6265 §5.4): HTTP/2 joins what it gets
			continue
		}
		header.Add(name, value)
	}
	var body []byte
	if method == "POST" || method == "PUT" || method == "PATCH" || r.IntN(20) == 0 {
		body = bytes.Repeat([]byte("0123456789abcdef"), r.IntN(1000))
	}
	known := r.IntN(2) == 0
	return func() *http.Request {
		var from io.Reader
		if body != nil {
			if from = bytes.NewReader(body); !known {
				from = io.MultiReader(from) // of unknown length: chunks, or no content-length
			}
		}
		req, err := http.NewRequestWithContext(context.Background(), method, url, from)
		if err != nil {
			panic(err) // the URL is ours
		}
		req.URL.Opaque = path // as it is, without net/url's opinion
		req.Host, req.Header = host, header.Clone()
		return req
	}
}

// observed is what an origin saw of a request.
type observed struct {
	Method, Host, URI string
	Header            http.Header
	Body              int
	Sum               uint32
}

// mirror is an origin that answers with what it saw.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	o := observed{Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header, Body: len(body)}
	for _, b := range body {
		o.Sum = o.Sum*31 + uint32(b)
	}
	w.Header().Set("X-Origin", "seen")
	w.Header().Add("Set-Cookie", "a=1")
	w.Header().Add("Set-Cookie", "b=2")
	_ = json.NewEncoder(w).Encode(o)
}

// told is what a client got.
type told struct {
	Status int
	Header http.Header
	Seen   *observed // nil: the origin was not asked
	Own    string    // the body of an answer of the proxy's own
}

// send sends a request, and leaves out what differs by nature: the proxy's own
// request ids, times, and what says the version.
func send(t *testing.T, c *http.Client, req *http.Request) told {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		return told{Own: "no answer"}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: %v", req.Method, req.URL, err)
	}
	out := told{Status: resp.StatusCode, Header: resp.Header}
	for _, name := range []string{"Date", "X-Envoy-Upstream-Service-Time", "Content-Length"} {
		out.Header.Del(name)
	}
	if resp.Header.Get("X-Origin") == "" || req.Method == http.MethodHead {
		out.Own = string(body)
		return out
	}
	out.Seen = &observed{}
	if err := json.Unmarshal(body, out.Seen); err != nil {
		t.Errorf("%s %s: %v in %q", req.Method, req.URL, err, body)
	}
	if req.Header.Get("X-Request-Id") == "" {
		out.Seen.Header.Del("X-Request-Id")
	}
	for _, name := range []string{"Accept-Encoding", "Content-Length"} { // net/http's own, which differ
		out.Seen.Header.Del(name)
	}
	return out
}

// differentialRoutes decide by path, header and host.
func differentialRoutes(cluster string) []proxyrun.Object {
	match := func(prefix string, more proxyrun.Object) proxyrun.Object {
		more["match"] = proxyrun.Object{"prefix": prefix}
		return more
	}
	byTenant := proxyrun.Forward("/a", cluster, proxyrun.Object{"prefix_rewrite": "/blue"})
	byTenant["match"].(proxyrun.Object)["headers"] = []proxyrun.Object{{"name": "x-tenant", "string_match": proxyrun.Object{"exact": "blue"}}}
	edited := proxyrun.Forward("/edit", cluster, nil)
	edited["request_headers_to_add"] = []proxyrun.Object{{"header": proxyrun.Object{"key": "x-added", "value": "%REQ(:METHOD)% %REQ(x-version)%"}}}
	edited["request_headers_to_remove"] = []string{"x-b"}
	edited["response_headers_to_add"] = []proxyrun.Object{{"header": proxyrun.Object{"key": "x-back", "value": "yes"}}}
	return []proxyrun.Object{
		match("/moved", proxyrun.Object{"redirect": proxyrun.Object{"host_redirect": "new.example", "prefix_rewrite": "/here"}}),
		match("/own", proxyrun.Object{"direct_response": proxyrun.Object{"status": 418, "body": proxyrun.Object{"inline_string": "short and stout"}}}),
		byTenant, edited,
		proxyrun.Forward("/rewrite", cluster, proxyrun.Object{"prefix_rewrite": "/re"}),
		proxyrun.Forward("/", cluster, nil),
	}
}

func TestRequestsMeanTheSameInBothVersions(t *testing.T) {
	at := origin(t, http.HandlerFunc(mirror))
	denied := proxyrun.Object{"name": "envoy.filters.http.rbac", "typed_config": proxyrun.Object{
		"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
		"rules": proxyrun.Object{"action": "DENY", "policies": proxyrun.Object{"no": proxyrun.Object{"principals": []proxyrun.Object{{"any": true}},
			"permissions": []proxyrun.Object{{"or_rules": proxyrun.Object{"rules": []proxyrun.Object{
				{"url_path": proxyrun.Object{"path": proxyrun.Object{"prefix": "/denied"}}},
				{"header": proxyrun.Object{"name": "x-version", "string_match": proxyrun.Object{"exact": "b"}}}}}}}}}}}}
	p := proxyrun.Start(t, tulle, proxyrun.Bootstrap([]proxyrun.Listener{
		{Name: "one", Filters: []proxyrun.Object{denied}, Routes: differentialRoutes("one")},
		{Name: "two", Filters: []proxyrun.Object{denied}, Routes: differentialRoutes("two")},
	}, []proxyrun.Cluster{{Name: "one", To: []string{at}}, {Name: "two", To: []string{at}, HTTP2: true}}))
	clients := map[bool]*http.Client{}
	for _, two := range []bool{false, true} {
		clients[two] = newClient(t, two)
		clients[two].CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	r := rand.New(rand.NewPCG(20261121, 5))
	statuses := map[int]int{}
	urls := []string{"http://" + p.At(t, "one"), "http://" + p.At(t, "two")}
	for i := range drawn {
		seed := r.Uint64()
		var all []told
		var names []string
		for _, url := range urls {
			draw := drawRequest(rand.New(rand.NewPCG(seed, 0)), url)
			for _, two := range []bool{false, true} {
				all = append(all, send(t, clients[two], draw()))
				names = append(names, fmt.Sprintf("%s to %s", version(two), url[len(url)-5:]))
			}
		}
		statuses[all[0].Status]++
		for j := range all[1:] {
			if diff := cmp.Diff(all[0], all[j+1]); diff != "" {
				req := drawRequest(rand.New(rand.NewPCG(seed, 0)), urls[0])()
				t.Errorf("request %d, %s %s of %s %v (-%s +%s):\n%s", i, req.Method, req.URL.Opaque, req.Host, req.Header, names[0], names[j+1], diff)
			}
		}
		if t.Failed() {
			break // one difference is many
		}
	}
	t.Logf("statuses: %v", statuses)
	if !t.Failed() && (statuses[200] < drawn/4 || statuses[403] == 0 || statuses[301] == 0 || statuses[418] == 0) {
		t.Errorf("the requests are not diverse: %v", statuses)
	}
}
