package engine

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

const (
	webType = "application/grpc-web+proto"
	webText = "application/grpc-web-text+proto"
)

// webManager has the gRPC-Web filter.
func webManager(before ...filter.Spec) *listener.HTTPManager {
	return &listener.HTTPManager{Filters: append(before, filter.Spec{Name: "web", GRPCWeb: true}),
		AccessLog: []listener.AccessLog{{Path: "log", Format: "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}}
}

// callWeb sends messages in a form and returns the answer, without base64.
func callWeb(t *testing.T, c *http.Client, url, form, body string, edit func(*http.Request)) (*http.Response, string) {
	t.Helper()
	if form == webText {
		body = base64.StdEncoding.EncodeToString([]byte(body))
	}
	res, got := do(t, c, "POST", url, iotest.HalfReader(strings.NewReader(body)), func(r *http.Request) {
		r.Header.Set("Content-Type", form)
		r.Header.Set("Accept", form)
		if edit != nil {
			edit(r)
		}
	})
	if form == webText {
		got = fromText(t, got)
	}
	return res, got
}

// fromText decodes base64 that is padded anywhere.
func fromText(t *testing.T, text string) (out string) {
	t.Helper()
	for i := 0; i < len(text); i += 4 {
		group, err := base64.StdEncoding.DecodeString(text[i:min(i+4, len(text))])
		if err != nil {
			t.Fatalf("%v in %.100q", err, text)
		}
		out += string(group)
	}
	return out
}

// webFrame is the frame of trailers.
func webFrame(lines ...string) string {
	text := strings.Join(lines, "\r\n") + "\r\n"
	return "\x80\x00\x00\x00" + string(rune(len(text))) + text
}

// eachForm runs a test for both forms and all pairs of versions.
func eachForm(t *testing.T, f func(t *testing.T, form string, down, up bool)) {
	for _, form := range []string{webType, webText} {
		t.Run(form, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, down, up bool) { f(t, form, down, up) })
		})
	}
}

// mirrorCalls answers with what it got, as the service of a call.
func mirrorCalls(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the proxy left
	}
	for _, name := range []string{"Content-Type", "Grpc-Accept-Encoding", "Te"} {
		w.Header().Set("X-Got-"+name, r.Header.Get(name))
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	for _, half := range []string{string(body[:len(body)/2]), string(body[len(body)/2:])} {
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
	}
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set("Grpc-Message", "fine")
}

func TestCallsOfGRPCWebAreCallsOfGRPC(t *testing.T) {
	messages := framed("a", "", strings.Repeat("b", 100<<10), strings.Repeat("c", 300))
	eachForm(t, func(t *testing.T, form string, down, up bool) {
		p := start(t, &setup{manager: webManager(), routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(up, "echo", serveHTTP(t, mirrorCalls))}})
		res, got := callWeb(t, client(t, down), "http://"+p.addr()+"/test.Echo/Say", form, messages, nil)
		frame := webFrame("grpc-message:fine", "grpc-status:0")
		if other := webFrame("grpc-status:0", "grpc-message:fine"); strings.HasSuffix(got, other) {
			frame = other
		}
		if got != messages+frame || res.StatusCode != 200 || res.Header.Get("Content-Type") != form || len(res.Trailer) > 0 {
			t.Errorf("%d %q %v: %d bytes that end in %q", res.StatusCode, res.Header.Get("Content-Type"), res.Trailer, len(got), got[max(0, len(got)-50):])
		}
		want := "application/grpc identity "
		if up {
			want += "trailers"
		}
		if seen := res.Header.Get("X-Got-Content-Type") + " " + res.Header.Get("X-Got-Grpc-Accept-Encoding") + " " + res.Header.Get("X-Got-Te"); seen != want {
			t.Errorf("the service saw %q, want %q", seen, want)
		}
		asked, answered := len(messages), len(got)
		if form == webText {
			asked = base64.StdEncoding.EncodedLen(asked)
			answered = 0
			for _, part := range []string{framed("a"), framed(""), messages[11 : 11+5+100<<10], messages[16+100<<10:], frame} {
				answered += base64.StdEncoding.EncodedLen(len(part))
			}
		}
		if line, want := p.logged(), fmt.Sprintf("200 - via_upstream %d %d\n", asked, answered); line != want {
			t.Errorf("logged %q, want %q", line, want)
		}
		if n, m := p.registry.Sum("istio_request_messages_total"), p.registry.Sum("istio_response_messages_total"); n != 4 || m != 4 {
			t.Errorf("%v messages asked, %v answered, want 4", n, m)
		}
		if s := series(t, p, "istio_requests_total"); !strings.Contains(s, "request_protocol=\"grpc\"\nresponse_code=\"200\"\ngrpc_response_status=\"0\"") {
			t.Errorf("counted as %s", s)
		}
	})
}

func TestFailuresReachClientsOfGRPCWebInTheHead(t *testing.T) {
	pages := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, "<p>100 %\n")
		case "/long":
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
		case "/empty":
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusBadGateway)
		case "/only":
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Content-Length", "0")
			w.Header().Set("Grpc-Status", "8")
			w.Header().Set("Grpc-Message", "no more")
		}
	}
	deny := filter.Spec{Name: "rbac", Authz: &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{Name: "p",
		Permission: authz.Condition{Kind: authz.Path, String: match.Exact("/denied", match.CaseSensitive)}, Principal: authz.Condition{Kind: authz.Any}}}}}}
	eachForm(t, func(t *testing.T, form string, down, up bool) {
		own := to("/own", "")
		own.Forward, own.Direct = nil, &router.Direct{Status: 401, Body: []byte("who are you?")}
		p := start(t, &setup{manager: webManager(deny), routes: []*router.Route{own, to("/down", "down"), to("/page", "pages"), to("/long", "pages"), to("/empty", "pages"), to("/only", "pages"), to("/denied", "pages")},
			clusters: []*cluster.Spec{speaking(up, "pages", serveHTTP(t, pages)), speaking(up, "down")}})
		c := client(t, down)
		for path, want := range map[string]string{
			"/down":   "503 " + form + ` "14" "no healthy upstream" ""`,
			"/none":   "404 " + form + ` "" "" ""`,
			"/own":    "401 " + form + ` "16" "who are you?" ""`,
			"/page":   "429 " + form + ` "14" "<p>100 %25%0A" ""`,
			"/long":   "404 " + form + ` "12" "` + strings.Repeat("x", 16<<10) + `" ""`,
			"/empty":  "502 " + form + ` "" "" ""`,
			"/only":   "200 " + form + ` "8" "no more" ""`,
			"/denied": `403 text/plain "" "" "RBAC: access denied"`, // it stands before the filter, as with Envoy
		} {
			for _, body := range []string{framed("a"), ""} {
				res, got := do(t, c, "POST", "http://"+p.addr()+path, strings.NewReader(body), func(r *http.Request) {
					r.Header.Set("Content-Type", webType)
					r.Header.Set("Accept", form)
				})
				h := res.Header
				if s := fmt.Sprintf("%d %s %q %q %q", res.StatusCode, h.Get("Content-Type"), h.Get("Grpc-Status"), h.Get("Grpc-Message"), got); s != want {
					t.Errorf("%s: %.200s, want %.200s", path, s, want)
				}
			}
		}
	})
}

func TestTextThatIsNoBase64IsRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for text, detail := range map[string]string{
			"AAAAAAA": "grpc_base_64_decode_failed_bad_size", "AAAA!AAA": "grpc_base_64_decode_failed", "AAAA\nAAAA": "grpc_base_64_decode_failed", strings.Repeat("AAAA", 50<<10) + "*": "grpc_base_64_decode_failed",
		} {
			p := start(t, &setup{manager: webManager(), routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(up, "echo", serveHTTP(t, mirrorCalls))}})
			c := client(t, down)
			for _, known := range []bool{true, false} {
				var body io.Reader = strings.NewReader(text)
				if !known {
					body = iotest.HalfReader(body)
				}
				res, got := do(t, c, "POST", "http://"+p.addr()+"/x", body, func(r *http.Request) { r.Header.Set("Content-Type", webText) })
				if s := fmt.Sprint(res.StatusCode, res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message"), got); s != "40013Bad gRPC-web request, invalid base64 data." {
					t.Errorf("%.20q, known %t: %s", text, known, s)
				}
			}
			if log := p.logged(); strings.Count(log, "400 - "+detail+" ") != 2 {
				t.Errorf("%.20q: logged %q", text, log)
			}
		}
	})
}

func TestDeadlinesOfGRPCWebAreThoseOfTheCall(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for name, c := range map[string]struct {
			header string
			route  time.Duration
			want   string
		}{
			"the caller's":          {"50m", 0, "504 4 UT"},
			"the route's":           {"", 50 * time.Millisecond, "504 14 UT"},
			"the route's, earlier":  {"10S", 50 * time.Millisecond, "504 14 UT"},
			"the caller's, earlier": {"50m", 10 * time.Second, "504 4 UT"},
		} {
			hangs := make(chan struct{})
			route := to("/", "cart")
			route.Forward.Timeout = c.route
			p := start(t, &setup{manager: webManager(), routes: []*router.Route{route}, clusters: []*cluster.Spec{speaking(up, "cart", serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-hangs
			}))}})
			res, _ := callWeb(t, client(t, down), "http://"+p.addr()+"/x", webText, framed("a"), func(r *http.Request) {
				if c.header != "" {
					r.Header.Set("Grpc-Timeout", c.header)
				}
			})
			close(hangs)
			flag := strings.Fields(p.logged() + " ? ?")[1]
			if got := fmt.Sprint(res.StatusCode, " ", res.Header.Get("Grpc-Status"), " ", flag); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
	})
}

// What is sent again is what the service gets, not what the client sent.
func TestCallsOfGRPCWebAreRetried(t *testing.T) {
	eachForm(t, func(t *testing.T, form string, down, up bool) {
		messages := framed("again", "and again")
		a := &attempts{answer: func(n int, w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Content-Length", "0")
			w.Header().Set("Grpc-Status", map[bool]string{true: "14", false: "0"}[n < 3])
		}}
		route := to("/", "cart")
		route.Forward.Retry = &router.Retry{On: router.OnUnavailable, Retries: 3}
		p := start(t, &setup{manager: webManager(), routes: []*router.Route{route}, clusters: []*cluster.Spec{speaking(up, "cart", serveHTTP(t, a.ServeHTTP))}})
		res, got := callWeb(t, client(t, down), "http://"+p.addr()+"/x", form, messages, nil)
		if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "0" || got != "" {
			t.Errorf("%d %v %q", res.StatusCode, res.Header, got)
		}
		for i, seen := range a.all() {
			if seen != " "+messages {
				t.Errorf("attempt %d: %q", i+1, seen)
			}
		}
		if n := len(a.all()); n != 3 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestOnlyWhatTheFilterIsForIsTranslated(t *testing.T) {
	off := to("/off", "echo")
	off.PerFilter = map[string]filter.RouteConfig{"web": {Disabled: true}}
	p := start(t, &setup{manager: webManager(), routes: []*router.Route{off, to("/", "echo")}, clusters: []*cluster.Spec{speaking(true, "echo", serveHTTP(t, mirrorCalls))}})
	without := start(t, &setup{routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(true, "echo", serveHTTP(t, mirrorCalls))}})
	disabled := webManager()
	disabled.Filters[0].Disabled = true
	sleeping := start(t, &setup{manager: disabled, routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(true, "echo", serveHTTP(t, mirrorCalls))}})
	for _, c := range []struct {
		name, url, kind string
	}{
		{"a route that turns it off", p.addr() + "/off", webText},
		{"a manager without it", without.addr(), webText},
		{"a manager where it is off", sleeping.addr(), webText},
		{"JSON", p.addr(), "application/json"},
		{"gRPC", p.addr(), "application/grpc"},
		{"gRPC-Web of JSON", p.addr(), "application/grpc-web+json"},
		{"gRPC-Web with a parameter", p.addr(), "application/grpc-web; charset=utf-8"},
	} {
		for _, down := range []bool{true, false} {
			res, got := do(t, client(t, down), "POST", "http://"+c.url, strings.NewReader("AAAA"), func(r *http.Request) { r.Header.Set("Content-Type", c.kind) })
			if got != "AAAA" || res.Header.Get("X-Got-Content-Type") != c.kind || res.Header.Get("Content-Type") != "application/grpc" {
				t.Errorf("%s: %q %v", c.name, got, res.Header)
			}
		}
	}
}
