package engine

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// framed is messages with their prefixes.
func framed(messages ...string) string {
	var b []byte
	for i, m := range messages {
		b = binary.BigEndian.AppendUint32(append(b, byte(i%2)), uint32(len(m)))
		b = append(b, m...)
	}
	return string(b)
}

// messageService answers "/test.Echo/<how>" as the name says.
func messageService(t *testing.T) netip.AddrPort {
	return serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc+proto")
		w.Header().Set("Trailer", "Grpc-Status")
		answer := framed("one")
		switch r.URL.Path {
		case "/test.Echo/Stream":
			answer = framed("one", "two", strings.Repeat("three", 30<<10), "four")
		case "/test.Echo/Error":
			answer = ""
		case "/test.Echo/Malformed":
			answer = framed("one") + "\x07" + framed("two")
		case "/test.Echo/Page":
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
		}
		for _, half := range []string{answer[:len(answer)/2], answer[len(answer)/2:]} {
			_, _ = io.WriteString(w, half)
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	})
}

func TestMessagesOfCallsAreCounted(t *testing.T) {
	const metrics = "istio_request_messages_total istio_response_messages_total"
	at := messageService(t)
	three := framed("a", strings.Repeat("b", 100<<10), "c")
	eachVersion(t, func(t *testing.T, down, up bool) {
		for _, c := range []struct {
			name, path, body, kind string
			asks, answers          float64
		}{
			{"unary", "/test.Echo/Say", framed("a"), "application/grpc", 1, 1},
			{"client streaming", "/test.Echo/Say", three, "application/grpc+proto", 3, 1},
			{"server streaming", "/test.Echo/Stream", framed("a"), "application/grpc", 1, 4},
			{"an error without message", "/test.Echo/Error", framed("a"), "application/grpc", 1, 0},
			{"malformed prefixes", "/test.Echo/Malformed", three + "\x07" + three, "application/grpc", 3, 1},
			{"an answer that is a page", "/test.Echo/Page", framed("a"), "application/grpc", 1, 0},
			{"no endpoint", "/test.Down/Say", framed("a", "b"), "application/grpc", 2, 0},
			{"another content type", "/test.Echo/Say", framed("a"), "application/octet-stream", 0, 0},
		} {
			p := start(t, &setup{routes: []*router.Route{to("/test.Down", "down"), to("/", "echo")},
				clusters: []*cluster.Spec{speaking(up, "echo", at), speaking(up, "down", dead(t))}})
			body := io.Reader(strings.NewReader(c.body))
			if len(c.body) > 100 {
				body = iotest.HalfReader(body) // of no known length
			}
			do(t, client(t, down), "POST", "http://"+p.addr()+c.path, body, func(r *http.Request) { r.Header.Set("Content-Type", c.kind) })
			p.stop()
			for i, name := range strings.Fields(metrics) {
				// Without an endpoint the call may be over before its messages come.
				fewer := down && c.name == "no endpoint"
				if n, want := p.registry.Sum(name), []float64{c.asks, c.answers}[i]; n > want || n < want && !fewer {
					t.Errorf("%s: %s is %v, want %v", c.name, name, n, want)
				}
			}
		}
	})
}

// Istio's counters of messages say who talks with whom, and not how it ended.
func TestMessagesHaveTheLabelsOfBothEnds(t *testing.T) {
	web, cart := sidecarsOf(t, false, messageService(t))
	do(t, client(t, false), "POST", "http://"+web.addr()+"/test.Echo/Say", strings.NewReader(framed("a")), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/grpc")
	})
	web.stop()
	cart.stop()
	for who, p := range map[string]*proxy{"source": web, "destination": cart} {
		call, asks, answers := series(t, p, "istio_requests_total"), series(t, p, "istio_request_messages_total"), series(t, p, "istio_response_messages_total")
		both, _, found := strings.Cut(call, "\nrequest_protocol=")
		if !found || asks != both || answers != both {
			t.Errorf("%s: labels of a call %s\nof requests %s\nof responses %s", who, call, asks, answers)
		}
	}
}

// Istio reports every five seconds; a stream may last for days.
func TestMessagesOfOpenStreamsAreReported(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run("h2 to "+version(up), func(t *testing.T) {
			at := echoService(t, nil)
			if !up {
				at = serveHTTP(t, duplexEcho)
			}
			p := start(t, &setup{routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(up, "echo", at)}})
			st, err := grpcClient(t, p.addr()).NewStream(callContext(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Talk")
			if err != nil {
				t.Fatal(err)
			}
			sum := func() [2]float64 {
				return [2]float64{p.registry.Sum("istio_request_messages_total"), p.registry.Sum("istio_response_messages_total")}
			}
			out := &wrapperspb.StringValue{}
			for i := range 3 {
				if err := st.SendMsg(wrapperspb.String("hi")); err != nil {
					t.Fatal(err)
				}
				if err := st.RecvMsg(out); err != nil {
					t.Fatal(err)
				}
				n := float64(i + 1)
				eventually(t, "messages are reported while the stream is open", func() bool { return sum() == [2]float64{n, n} })
			}
			if err := st.CloseSend(); err != nil {
				t.Fatal(err)
			}
			_ = st.RecvMsg(out)
			p.stop()
			if got := sum(); got != [2]float64{3, 3} {
				t.Errorf("%v messages at the end: some are counted twice", got)
			}
		})
	}
}

// duplexEcho answers in HTTP/1.1 while the request still comes.
func duplexEcho(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex()
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(bytes.Clone(buf[:n]))
		_ = c.Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set("Grpc-Status", "0")
}
