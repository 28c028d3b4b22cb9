// Package explained_test asks a running proxy and `explain` the same questions
// over random configurations: what the proxy's access log, its backends and
// its clients say must be what explain said.
package explained_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/app/dataplane"
	"github.com/tullemesh/tulle/internal/testkit/draw"
	"github.com/tullemesh/tulle/internal/testkit/held"
)

// logFormat is one line for each request or connection: who asked (the client's
// port, and the request's number), then what the proxy did.
const logFormat = "%DOWNSTREAM_REMOTE_ADDRESS%|%REQ(X-ASK)%|%RESPONSE_CODE%|%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%|%ROUTE_NAME%|%UPSTREAM_CLUSTER_RAW%"

// waitMax bounds every wait of the test.
const waitMax = 20 * time.Second

// line is one line of the access log.
type line struct {
	Remote, Ask, Code, Flags, Details, Route, Cluster string
}

// journal takes the access log, and hands each line to who waits for it.
type journal struct {
	mu    sync.Mutex
	part  string
	lines map[string]line // by Ask, else by Remote
	more  chan struct{}   // size 1: a line came
}

func newJournal() *journal { return &journal{lines: map[string]line{}, more: make(chan struct{}, 1)} }

// Write implements io.Writer; the proxy writes whole lines or parts of them.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.part += string(p)
	for {
		text, rest, whole := strings.Cut(j.part, "\n")
		if !whole {
			break
		}
		j.part = rest
		f := strings.Split(text, "|")
		// Clusters have bars in their names.
		if len(f) < 7 {
			continue
		}
		l := line{f[0], f[1], f[2], f[3], f[4], f[5], strings.Join(f[6:], "|")}
		key := l.Ask
		if key == "-" {
			key = l.Remote
		}
		j.lines[key] = l
	}
	select {
	case j.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// take waits for the line of a request or connection.
func (j *journal) take(t *testing.T, key string) line {
	t.Helper()
	deadline := time.NewTimer(waitMax)
	defer deadline.Stop()
	for {
		j.mu.Lock()
		l, ok := j.lines[key]
		delete(j.lines, key)
		j.mu.Unlock()
		if ok {
			return l
		}
		select {
		case <-j.more:
		case <-deadline.C:
			t.Fatalf("the access log has no line of %s", key)
		}
	}
}

// world is a control plane over one file, and two proxies: a sidecar that
// captures nothing, and a gateway.
type world struct {
	file, mesh  string
	plane       *app.ControlPlane
	log         *journal
	proxy       int
	gateway     int
	egress      map[string]int
	explainer   *app.Explainer
	settled     time.Time
	connections int
	sent        int // requests with a number
	asked       int // questions to the proxy
}

// called are the service ports that the app calls by address.
func called() []string {
	return []string{"alpha.demo" + draw.Domain + ":80", "delta.other" + draw.Domain + ":80", "omega.demo" + draw.Domain + ":82", "alpha.demo" + draw.Domain + ":81", "gamma.demo" + draw.Domain + ":81"}
}

// newWorld starts a control plane and the proxies over the objects that make
// returns for the gateway's port.
func newWorld(t *testing.T, make func(w *world) string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{file: filepath.Join(dir, "mesh.yaml"), mesh: filepath.Join(dir, "meshconfig.yaml"), log: newJournal(), proxy: held.Port(t, "127.0.0.1"), gateway: held.Port(t, "127.0.0.1"), egress: map[string]int{}}
	for _, name := range called() {
		w.egress[name] = held.Port(t, "127.0.0.1")
	}
	config, err := json.Marshal(map[string]any{"enableAutoMtls": false, "outboundTrafficPolicy": map[string]string{"mode": "REGISTRY_ONLY"}, "accessLogFile": "/dev/stdout", "accessLogFormat": logFormat + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.mesh, config, 0o600); err != nil {
		t.Fatal(err)
	}
	w.write(t, make(w))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w.plane, err = app.NewControlPlane(ctx, app.ServeOptions{Files: []string{w.file}, MeshConfig: w.mesh, XDS: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	runs := []func(context.Context) error{w.plane.Run}
	xds, _, _ := w.plane.Addresses()
	for _, q := range []app.Question{w.question(), w.atGateway()} {
		id, metadata := "sidecar~127.0.0.1~client.demo~demo.svc.cluster.local", map[string]any{"NAMESPACE": "demo", "LABELS": q.Labels}
		if q.Gateway {
			id = "router~127.0.0.1~gw.demo~demo.svc.cluster.local"
		}
		for k, v := range q.Metadata {
			metadata[k] = v
			if strings.HasPrefix(v, "{") {
				metadata[k] = json.RawMessage(v)
			}
		}
		data, err := json.Marshal(metadata)
		if err != nil {
			t.Fatal(err)
		}
		p, err := dataplane.New(ctx, dataplane.Options{XDS: xds, ID: id, Metadata: data, Stdout: w.log, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, p.Run)
	}
	var running sync.WaitGroup
	for _, run := range runs {
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
	w.settle(t, 1)
	return w
}

func (w *world) write(t *testing.T, objects string) {
	t.Helper()
	if err := os.WriteFile(w.file+".tmp", []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.file+".tmp", w.file); err != nil {
		t.Fatal(err)
	}
}

// next puts other objects in force.
func (w *world) next(t *testing.T, objects string) {
	t.Helper()
	before, err := strconv.Atoi(w.plane.Status().Generation)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, objects)
	w.settle(t, before+1)
}

// settle waits until both proxies have taken a generation that has stayed the
// newest for a while (deletions count a moment later), and reads the files for
// the questions to come.
func (w *world) settle(t *testing.T, generation int) {
	t.Helper()
	deadline, tick := time.NewTimer(waitMax), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	last, since := "", time.Now()
	for {
		s := w.plane.Status()
		if s.Generation != last {
			last, since = s.Generation, time.Now()
		}
		n, err := strconv.Atoi(s.Generation)
		ready := err == nil && n >= generation && time.Since(since) > 200*time.Millisecond && len(s.Proxies) == 2
		for _, p := range s.Proxies {
			ready = ready && p.Synced && len(p.Types) >= 4
			for _, ts := range p.Types {
				if ts.State == "NACKED" {
					t.Fatalf("%s refused %s: %s", p.Name, ts.Type, ts.Message)
				}
			}
		}
		if ready {
			break
		}
		select {
		case <-deadline.C:
			t.Fatalf("generation %d: not served within %v: %+v", generation, waitMax, s.Proxies)
		case <-tick.C:
		}
	}
	w.settled = time.Now()
	var err error
	if w.explainer, err = app.NewExplainer([]string{w.file}, w.mesh); err != nil {
		t.Fatal(err)
	}
}

// question is a question about the sidecar.
func (w *world) question() app.Question {
	egress := map[string]string{}
	for name, port := range w.egress {
		egress[name] = "127.0.0.1:" + strconv.Itoa(port)
	}
	data, err := json.Marshal(egress)
	if err != nil {
		panic(err)
	}
	return app.Question{Namespace: "demo", Labels: draw.ClientLabels(), Address: netip.AddrFrom4([4]byte{127, 0, 0, 1}), TLS: "none",
		Metadata: map[string]string{"INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": strconv.Itoa(w.proxy), "TULLE_EGRESS": string(data)}}
}

func (w *world) atGateway() app.Question {
	return app.Question{Gateway: true, Namespace: "demo", Labels: map[string]string{"app": "gw"}, Port: w.gateway, TLS: "none"}
}

// send sends a request, by HTTP proxy when there is one, and returns the
// number by which the log knows it, and the answer's status.
func (w *world) send(t *testing.T, port int, r draw.Request, byProxy bool) (ask string, status int, said string) {
	t.Helper()
	target := "http://127.0.0.1:" + strconv.Itoa(port) + r.Path
	transport := &http.Transport{DisableKeepAlives: true}
	if byProxy {
		target = "http://" + r.Host + r.Path
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(port)})
	}
	req, err := http.NewRequestWithContext(t.Context(), r.Method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = r.Host
	for _, h := range r.Headers {
		req.Header.Set(h[0], h[1])
	}
	w.sent++
	ask = strconv.Itoa(w.sent)
	req.Header.Set("x-ask", ask)
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "", 0, "no_listener"
	}
	if err != nil {
		return "", 0, err.Error()
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", 0, err.Error()
	}
	return ask, resp.StatusCode, ""
}

// sendBytes opens a connection that speaks no HTTP; from is its own address,
// empty when nobody took it. Each has an IP address of its own: ports are used
// again, and the log is read only after many connections.
func (w *world) sendBytes(t *testing.T, port int) (from string, _ int, said string) {
	t.Helper()
	w.connections++
	client := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(w.connections>>8), byte(w.connections))}}
	c, err := client.DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "", 0, "no_listener"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "helo, who is there?\n"); err != nil {
		return c.LocalAddr().String(), 0, ""
	}
	said, _ = bufio.NewReader(c).ReadString('\n') // a closed connection has no answer
	return c.LocalAddr().String(), 0, strings.TrimSpace(said)
}

// asked is one question, put to explain and to the proxy.
type asked struct {
	what    string
	send    func() (key string, status int, said string) // key is "" when nobody took it
	answer  *app.Answer
	key     string
	status  int
	said    string
	happens string
}

// draw makes a random question.
func (w *world) draw(t *testing.T, g draw.Source, hosts []string) *asked {
	t.Helper()
	q, out := w.question(), &asked{}
	var r draw.Request
	byProxy := false
	q.Protocol = "http"
	switch g.IntN(8) {
	case 0:
		to := draw.Pick(g, called()[2:]...)
		q.Protocol, q.Port, out.what = "tcp", w.egress[to], "bytes to "+to
	case 1, 2:
		to := draw.Pick(g, called()[:3]...)
		r, out.what, q.Port = g.Request(hosts...), to+" by address: ", w.egress[to]
	case 3, 4:
		q = w.atGateway()
		q.Protocol = "http"
		r, out.what = g.Request(draw.GatewayHosts()...), "at the gateway: "
	default:
		r, out.what, q.Port, byProxy = g.Request(hosts...), "by proxy: ", w.proxy, true
	}
	out.send = func() (string, int, string) { return w.sendBytes(t, q.Port) }
	if q.Protocol == "http" {
		out.what += r.String()
		q.Host, q.Path, q.Method, q.Headers = r.Host, r.Path, r.Method, r.Headers
		out.send = func() (string, int, string) { return w.send(t, q.Port, r, byProxy) }
	}
	var err error
	if out.answer, err = w.explainer.Explain(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	return out
}

// ask puts questions to the proxy, and reads its log afterwards: it writes many
// lines at once.
func (w *world) ask(t *testing.T, questions []*asked) {
	t.Helper()
	for _, x := range questions {
		x.key, x.status, x.said = x.send()
		w.asked++
	}
	for _, x := range questions {
		if x.happens = x.said; x.key == "" {
			continue
		}
		l := w.log.take(t, x.key)
		if x.happens = happened(l, x.status); x.status > 0 {
			if l.Code != strconv.Itoa(x.status) {
				t.Errorf("%s: the client saw %d, the access log %s", x.what, x.status, l.Code)
			}
			continue
		}
		if who, ok := strings.CutPrefix(x.said, "bytes at "); ok {
			// The backend says who it is: the service must be the cluster's.
			if service, _, _ := strings.Cut(who, "/"); !strings.HasSuffix(l.Cluster, "|"+service+draw.Domain) {
				t.Errorf("%s: the cluster is %s, and %q answered", x.what, l.Cluster, x.said)
			}
			x.happens = "bytes to " + l.Cluster
		}
	}
}

// right reports whether what happened is what explain said.
func (x *asked) right() bool { return explained(x.answer)[x.happens] }

// referenceWait is how long a proxy keeps the old version of what refers to
// something that does not come, and a little more.
const referenceWait = 16 * time.Second

// round asks n random questions and returns the wrong ones, after a second
// chance for what had to wait for references.
func (w *world) round(t *testing.T, g draw.Source, hosts []string, n int, kinds map[string]int) (wrong []*asked) {
	t.Helper()
	questions := make([]*asked, n)
	for i := range questions {
		questions[i] = w.draw(t, g, hosts)
	}
	w.ask(t, questions)
	for _, x := range questions {
		if !x.right() {
			wrong = append(wrong, x)
			continue
		}
		kind, _, _ := strings.Cut(x.happens, " ")
		kinds[kind]++
	}
	if len(wrong) > 0 && time.Since(w.settled) < referenceWait {
		<-time.NewTimer(time.Until(w.settled.Add(referenceWait))).C
		w.ask(t, wrong)
		wrong = slices.DeleteFunc(wrong, (*asked).right)
	}
	return wrong
}

// happened says in one line what of an answer the running proxy can show.
func happened(l line, status int) string {
	switch {
	case l.Details == "direct_response" && status >= 300 && status < 400:
		return fmt.Sprintf("redirect %d by %s", status, l.Route)
	case l.Details == "direct_response":
		return fmt.Sprintf("direct %d by %s", status, l.Route)
	case l.Flags == "NR":
		return fmt.Sprintf("reject %d", status)
	case l.Flags == "NC":
		return fmt.Sprintf("reject %d by %s to no cluster", status, l.Route)
	case l.Cluster == "PassthroughCluster":
		return "passthrough by " + l.Route
	case l.Cluster == "BlackHoleCluster":
		return "blackhole"
	}
	return fmt.Sprintf("forward by %s to %s", l.Route, l.Cluster)
}

// explained says the same of explain's answer; a weighted one may be any.
func explained(a *app.Answer) map[string]bool {
	out := map[string]bool{}
	if a.Error == "no_listener" {
		return map[string]bool{"no_listener": true}
	}
	if a.Decision == "forward" && a.RouteConfig == "" { // no HTTP
		for cluster := range a.Weights {
			out["bytes to "+cluster] = true
		}
		return out
	}
	if (a.Decision == "forward" || a.Missing != "") && len(a.Weights) > 0 {
		for cluster, weight := range a.Weights {
			switch {
			case draw.Missing(cluster):
				out[fmt.Sprintf("reject 503 by %s to no cluster", a.Route)] = true
			case weight > 0:
				out[fmt.Sprintf("forward by %s to %s", a.Route, cluster)] = true
			}
		}
		return out
	}
	switch {
	case a.Decision == "redirect", a.Decision == "direct":
		out[fmt.Sprintf("%s %d by %s", a.Decision, a.Status, a.Route)] = true
	case a.Decision == "passthrough":
		out["passthrough by "+a.Route] = true
	case a.Decision == "reject":
		out[fmt.Sprintf("reject %d", a.Status)] = true
	case a.Decision == "blackhole":
		out["blackhole"] = true
	default:
		out[a.Decision] = true
	}
	return out
}

// worldsAtOnce bounds how many worlds wait for their references beside one another.
const worldsAtOnce = 5

func TestExplainSaysWhatTheProxyDoes(t *testing.T) {
	places := draw.StandIns(t, draw.Names()...)
	var mu sync.Mutex // guards the two that follow
	kinds, requests := map[string]int{}, 0
	atOnce := make(chan struct{}, worldsAtOnce)
	var all sync.WaitGroup
	for i := range worlds {
		atOnce <- struct{}{}
		all.Go(func() {
			defer func() { <-atOnce }()
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				found, asked := askWorld(t, i, places)
				mu.Lock()
				defer mu.Unlock()
				for kind, n := range found {
					kinds[kind] += n
				}
				requests += asked
			})
		})
	}
	all.Wait()
	t.Logf("%d requests over %d configurations; equal at once: %v", requests, worlds*rounds, kinds)
	for _, kind := range []string{"forward", "redirect", "direct", "reject", "passthrough", "bytes"} {
		if kinds[kind] == 0 {
			t.Errorf("no request had the outcome %s: the test proves less than it says", kind)
		}
	}
}

// askWorld compares explain and the proxies in one world, and returns how often each outcome was right at once, and the number of questions.
func askWorld(t *testing.T, number int, places map[string]int) (kinds map[string]int, asked int) {
	t.Helper()
	g := draw.New(20261123 + uint64(number))
	open := number%3 == 1 // whether what no service claims is passed on
	hosts := draw.MeshHosts()
	if open { // only hosts that need no resolver: services, and addresses here
		hosts = append(draw.KnownHosts(), "127.0.0.1:"+strconv.Itoa(places["beta.demo/v1"]))
	}
	objects := func(w *world) string {
		return g.Objects(draw.Mesh{Places: places, Gateways: map[string]int{"gw": w.gateway}, Sidecars: true, Split: true, AllowAny: open})
	}
	w := newWorld(t, objects)
	kinds = map[string]int{}
	for round := range rounds {
		if round > 0 {
			w.next(t, objects(w))
		}
		for n, x := range w.round(t, g, hosts, questions, kinds) {
			if n < 5 {
				t.Errorf("round %d: %s\n  the proxy: %s\n  explain:   %v (virtual host %s, error %s)", round, x.what, x.happens, explained(x.answer), x.answer.VirtualHost, x.answer.Error)
			}
		}
	}
	return kinds, w.asked
}
