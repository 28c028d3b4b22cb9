//go:build conformance

package grpc_test

import (
	"bytes"
	"context"
	"encoding/base64"
	wire "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// stockEnvoy runs Envoy with a bootstrap and returns where its one listener is.
func stockEnvoy(t *testing.T, bootstrap proxyrun.Object) string {
	t.Helper()
	return proxyrun.Envoy(t, filepath.Join("..", "..", "envoy.sh"), bootstrap).At(t, "edge")
}

// grpcRequest is one message with its prefix.
func grpcRequest(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(wire.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
}

// pages answers in HTTP/1.1 what is not gRPC: "/<status>/<bytes of the body>".
func pages(t *testing.T) string {
	t.Helper()
	return serveOver(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		var status, size int
		_, _ = fmt.Sscanf(r.URL.Path, "/pages/%d/%d", &status, &size)
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("all is 100 % lost\n", size/18+1)[:size])
	})})
}

// mirrorCalls answers in HTTP/2 with what it saw of a request's head and body.
func mirrorCalls(t *testing.T) string {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	return serveOver(t, &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range []string{"X-Request-Id", "X-Envoy-Expected-Rq-Timeout-Ms", "Accept-Encoding"} {
			r.Header.Del(name) // Envoy's own, and random
		}
		seen, _ := json.Marshal(map[string]any{"method": r.Method, "path": r.URL.Path, "header": r.Header, "length": r.ContentLength, "body": body})
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		_, _ = w.Write(append(wire.BigEndian.AppendUint32([]byte{0}, uint32(len(seen))), seen...))
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("Grpc-Message", "fine, 100%25")
	})})
}

func serveOver(t *testing.T, s *http.Server) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().String()
}

// webRequest is a request of gRPC-Web as it is sent.
type webRequest struct {
	name, path, contentType, accept string
	body                            []byte
	header                          map[string]string
}

// untouched are requests that the filter leaves as they are.
const untouched = "not translated"

// webRequests are the requests whose answers are compared.
func webRequests(t *testing.T) []webRequest {
	const service = "/grpc.testing.TestService/"
	payload := &testpb.Payload{Body: bytes.Repeat([]byte("p"), 1000)}
	empty := grpcRequest(t, &testpb.Empty{})
	calls := []webRequest{
		{name: "empty unary", path: service + "EmptyCall", body: empty},
		{name: "unary", path: service + "UnaryCall", body: grpcRequest(t, &testpb.SimpleRequest{ResponseSize: 314, Payload: payload})},
		{name: "large unary", path: service + "UnaryCall", body: grpcRequest(t, &testpb.SimpleRequest{ResponseSize: 314_159, Payload: &testpb.Payload{Body: make([]byte, 271_828)}})},
		{name: "server streaming", path: service + "StreamingOutputCall", body: grpcRequest(t, &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 31_415}, {Size: 9}, {Size: 0}, {Size: 58_979}}})},
		{name: "an error with a message", path: service + "UnaryCall", body: grpcRequest(t, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.ResourceExhausted), Message: "\tno more: 100 % ☺\n"}})},
		{name: "an unimplemented method", path: service + "None", body: empty},
		{name: "an unimplemented service", path: "/none.Service/None", body: empty},
		{name: "a body of nothing", path: service + "EmptyCall"},
		{name: "what the service sees", path: "/mirror/x", body: empty, header: map[string]string{"X-Custom": "a", "X-Grpc-Web": "1", "X-User-Agent": "grpc-web-javascript/0.1"}},
		{name: "what the service sees of encodings", path: "/mirror/x", body: empty, header: map[string]string{"Grpc-Accept-Encoding": "gzip", "Te": "trailers"}},
		{name: "no endpoint", path: "/down/x", body: empty},
		{name: "no route", path: "/none", body: empty},
		{name: "a redirect", path: "/moved", body: empty},
		{name: "a direct response", path: "/direct", body: empty},
		{name: "a direct response of nothing", path: "/direct-empty", body: empty},
		{name: "a page that is fine", path: "/pages/200/40", body: empty},
		{name: "a page that is not found", path: "/pages/404/40", body: empty},
		{name: "a page for a failure", path: "/pages/503/40", body: empty},
		{name: "a page for a failure of nothing", path: "/pages/503/0", body: empty},
		{name: "a long page", path: "/pages/500/15000", body: empty},
		{name: "no content", path: "/pages/204/0", body: empty},
	}
	var out []webRequest
	for _, r := range calls {
		for _, asks := range []string{"application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto"} {
			for _, accept := range []string{"", "*/*", "application/grpc-web-text", "application/grpc-web-text+proto"} {
				r := r
				r.contentType, r.accept = asks, accept
				if strings.Contains(asks, "text") {
					r.body = base64.StdEncoding.AppendEncode(nil, r.body)
				}
				out = append(out, r)
			}
		}
	}
	for name, text := range map[string]string{"text cut within a group": "AAAAAAAA=", "text that is none": "AAAA!!!!", "text that is cut": "AAAAA"} {
		out = append(out, webRequest{name: name, path: service + "EmptyCall", contentType: "application/grpc-web-text", body: []byte(text)})
	}
	for _, other := range []string{"application/grpc-web+json", "application/grpc-web; charset=utf-8", "application/json", "application/grpc"} {
		out = append(out, webRequest{name: untouched, path: "/mirror/x", contentType: other, body: empty})
	}
	return out
}

// webAnswer is what a client of gRPC-Web gets.
type webAnswer struct {
	Status int
	Header http.Header
	Body   string // without base64
}

// ask sends a request, whole or byte by byte, and leaves out what differs by
// nature.
func (r *webRequest) ask(t *testing.T, c *http.Client, at string, whole bool) webAnswer {
	t.Helper()
	header := http.Header{"Content-Type": {r.contentType}, "User-Agent": {"test"}}
	if r.accept != "" {
		header.Set("Accept", r.accept)
	}
	for name, value := range r.header {
		header.Set(name, value)
	}
	var body io.Reader = bytes.NewReader(r.body)
	if !whole {
		body = iotest.OneByteReader(body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), caseTime)
	defer cancel()
	resp, data, err := exactly(ctx, c, "http://"+at+r.path, header, body)
	if err != nil {
		t.Errorf("%s (%s, accepts %q): %v", r.name, r.contentType, r.accept, err)
		return webAnswer{}
	}
	for _, name := range []string{"Date", "X-Envoy-Upstream-Service-Time", "Server"} {
		resp.Header.Del(name)
	}
	if location := resp.Header.Get("Location"); location != "" {
		resp.Header.Set("Location", strings.ReplaceAll(location, at, "HERE"))
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "text+proto") {
		decoded, err := io.ReadAll(&textReader{from: strings.NewReader(data)})
		if err != nil {
			t.Errorf("%s: %v in %.100q", r.name, err, data)
		}
		data = string(decoded)
	}
	return webAnswer{resp.StatusCode, resp.Header, strings.ReplaceAll(data, at, "HERE")}
}

// The same requests get the same answers from stock Envoy and from us, in
// status, fields and, base64 apart, bytes.
func TestGRPCWebIsThatOfStockEnvoy(t *testing.T) {
	status := func(prefix string, status int, body string) proxyrun.Object {
		return proxyrun.Object{"match": proxyrun.Object{"prefix": prefix}, "direct_response": proxyrun.Object{"status": status, "body": proxyrun.Object{"inline_string": body}}}
	}
	bootstrap := proxyrun.Bootstrap([]proxyrun.Listener{{Name: "edge", Filters: []proxyrun.Object{webFilter()}, Routes: []proxyrun.Object{
		proxyrun.Forward("/grpc.testing.", "be", nil), proxyrun.Forward("/none.", "be", nil), proxyrun.Forward("/mirror/", "mirror", nil), proxyrun.Forward("/down", "down", nil), proxyrun.Forward("/pages/", "pages", nil),
		{"match": proxyrun.Object{"prefix": "/moved"}, "redirect": proxyrun.Object{"path_redirect": "/there"}},
		status("/direct-empty", 401, ""), status("/direct", 403, "go away: 100 %"),
	}}}, []proxyrun.Cluster{
		{Name: "be", To: []string{interopServer(t, nil)}, HTTP2: true}, {Name: "mirror", To: []string{mirrorCalls(t)}, HTTP2: true},
		{Name: "pages", To: []string{pages(t)}}, {Name: "down", HTTP2: true},
	})
	theirs, ours := stockEnvoy(t, bootstrap), proxyrun.Start(t, binary, bootstrap).At(t, "edge")
	c := &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	for _, r := range webRequests(t) {
		want := r.ask(t, c, theirs, true)
		for _, whole := range []bool{true, false} {
			if !whole && (len(r.body) > 10_000 || r.name == untouched) {
				continue // that long it takes too long; and what is not translated keeps its length, or has none
			}
			if diff := cmp.Diff(want, r.ask(t, c, ours, whole)); diff != "" {
				t.Errorf("%s (%s, accepts %q, whole %t) (-Envoy +ours):\n%s", r.name, r.contentType, r.accept, whole, diff)
			}
		}
	}
}
