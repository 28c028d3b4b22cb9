//go:build soak

package soak_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/blackhole"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// faultTime is how long the fault matrix runs: FAULT_SECONDS, or 20 s.
func faultTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("FAULT_SECONDS")
	if s == "" {
		return 20 * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// cause is one thing that goes wrong upstream, or downstream, under load.
type cause struct {
	name string
	to   []string         // endpoints
	more proxyrun.Object  // of the cluster
	act  proxyrun.Object  // of the route's action
	ask  func(*asker) int // one request; nil: GET
	// may are what the log and the metric may say, "status flags", and must
	// what they have to say at least once.
	may, must []string
	http2     bool          // of the endpoints
	clients   int           // at once; 0: 2
	pause     time.Duration // between a client's requests; 0: 50 ms
}

// asker is one client of one cause with its connection.
type asker struct {
	at, prefix string
	seen       *seen

	conn   net.Conn
	reader *bufio.Reader
	id     string // the path of the request
	turn   int    // which of several ways to ask is next
	err    error
}

func (a *asker) next(n int) { a.id = fmt.Sprintf("%s/%d-%d", a.prefix, n, rand.Uint32()) }

func (a *asker) close() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

// write sends a request, over the connection that there is or a new one.
func (a *asker) write(request string) bool {
	if a.conn == nil {
		if a.conn, a.err = net.DialTimeout("tcp", a.at, 10*time.Second); a.err != nil {
			a.conn = nil
			return false
		}
		a.reader = bufio.NewReader(a.conn)
	}
	_ = a.conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, a.err = io.WriteString(a.conn, request)
	return a.err == nil
}

// read reads a response; -1: there is none, -status: its body breaks off.
func (a *asker) read() int {
	resp, err := http.ReadResponse(a.reader, nil)
	if err != nil {
		a.err = err
		a.close()
		return -1
	}
	select {
	case a.seen.at(a.id) <- struct{}{}:
	default:
	}
	_, err = io.Copy(io.Discard, resp.Body)
	switch {
	case err != nil:
		a.err = err
		a.close()
		return -resp.StatusCode
	case resp.Close:
		a.close()
	}
	return resp.StatusCode
}

func (a *asker) get() int {
	if !a.write("GET /" + a.id + " HTTP/1.1\r\nHost: a\r\n\r\n") {
		a.close()
		return -1
	}
	return a.read()
}

func (a *asker) post() int {
	if !a.write("POST /" + a.id + " HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi") {
		a.close()
		return -1
	}
	return a.read()
}

// early begins an upload that the backend does not want.
func (a *asker) early() int {
	defer a.close()
	if !a.write("POST /" + a.id + " HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 1000)) {
		return -1
	}
	return a.read()
}

// leave goes before the answer comes.
func (a *asker) leave() int {
	defer a.close()
	if !a.write("GET /" + a.id + " HTTP/1.1\r\nHost: a\r\n\r\n") {
		return -1
	}
	wait(20 * time.Millisecond)
	return 0
}

func (a *asker) malformed() int {
	defer a.close()
	if !a.write("GET /" + a.id + " HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n") {
		return -1
	}
	return a.read()
}

// stalls stops within its upload.
func (a *asker) stalls() int {
	defer a.close()
	if !a.write("POST /" + a.id + " HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc") {
		return -1
	}
	return a.read()
}

// faultMatrix are the causes with their backends.
func faultMatrix(t *testing.T, s *seen) []*cause {
	to := func(answer func(net.Conn, *http.Request) bool) []string {
		return []string{newFaultBackend(t, answer).at}
	}
	plain := to(func(c net.Conn, _ *http.Request) bool { return say(c, plainAnswer) })
	silent := to(func(c net.Conn, _ *http.Request) bool { return untilLeft(c) })
	mortal := newFaultBackend(t, func(c net.Conn, _ *http.Request) bool {
		wait(5 * time.Millisecond)
		return say(c, plainAnswer)
	})
	revive(t, mortal)
	breaksOff := func(head string) []string {
		return to(func(c net.Conn, req *http.Request) bool {
			_ = say(c, head)
			if strings.Contains(head, "\r\n\r\n") {
				s.await(strings.TrimPrefix(req.URL.Path, "/"))
			} else {
				wait(50 * time.Millisecond)
			}
			reset(c)
			return false
		})
	}
	return []*cause{
		{name: "good", to: plain, may: []string{"200 -"}, clients: 8, pause: 20 * time.Millisecond},
		{name: "killed", to: []string{mortal.at}, may: []string{"200 -", "503 UF", "503 UC"}, must: []string{"200 -", "503 UF"}},
		{name: "slow", to: to(func(c net.Conn, req *http.Request) bool {
			if strings.HasSuffix(req.URL.Path, "1") {
				wait(600 * time.Millisecond)
			}
			return say(c, plainAnswer)
		}), act: proxyrun.Object{"timeout": "0.3s"}, may: []string{"200 -", "504 UT"}, must: []string{"200 -", "504 UT"}},
		{name: "half-closed", to: to(func(c net.Conn, _ *http.Request) bool {
			_ = c.(*net.TCPConn).CloseWrite()
			return untilLeft(c)
		}), may: []string{"503 UC"}},
		{name: "reset-in-body", to: breaksOff("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), may: []string{"200 UC"}},
		{name: "reset-in-head", to: breaksOff("HTTP/1.1 200 OK\r\nContent-Le"), may: []string{"502 UPE"}},
		{name: "silent", to: silent, act: proxyrun.Object{"timeout": "0.2s"}, may: []string{"504 UT"}},
		{name: "idle", to: silent, act: proxyrun.Object{"timeout": "0s", "idle_timeout": "0.2s"}, may: []string{"504 SI"}},
		{name: "too-long", to: silent, act: proxyrun.Object{"timeout": "0s", "max_stream_duration": proxyrun.Object{"max_stream_duration": "0.2s"}}, may: []string{"504 -"}},
		{name: "garbage", to: to(func(c net.Conn, _ *http.Request) bool { return say(c, "SSH-2.0-OpenSSH_9.6\r\n\r\n") && untilLeft(c) }), may: []string{"502 UPE"}},
		{name: "large-head", to: to(func(c net.Conn, _ *http.Request) bool {
			return say(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 1<<20)+"\r\n\r\n") && untilLeft(c)
		}), may: []string{"502 UPE"}},
		{name: "early", ask: (*asker).early, to: to(func(c net.Conn, _ *http.Request) bool {
			_ = say(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return untilLeft(c)
		}), may: []string{"413 -"}},
		{name: "refused", to: []string{blackhole.Refuse(t).String()}, may: []string{"503 UF"}},
		{name: "blackhole", to: []string{blackhole.Listen(t).String()}, more: proxyrun.Object{"connect_timeout": "0.2s"}, may: []string{"503 UF"}},
		{name: "overflow", clients: 6, pause: time.Millisecond, to: to(func(c net.Conn, _ *http.Request) bool {
			wait(20 * time.Millisecond)
			return say(c, plainAnswer)
		}), more: thresholds(proxyrun.Object{"max_requests": 2}), may: []string{"200 -", "503 UO"}, must: []string{"200 -", "503 UO"}},
		{name: "queue", clients: 6, pause: time.Millisecond, to: to(func(c net.Conn, _ *http.Request) bool {
			wait(20 * time.Millisecond)
			return say(c, plainAnswer)
		}), more: thresholds(proxyrun.Object{"max_connections": 1, "max_pending_requests": 1}), may: []string{"200 -", "503 UO"}, must: []string{"200 -", "503 UO"}},
		{name: "nobody", may: []string{"503 UH"}},
		{name: "retried", to: to(func(c net.Conn, _ *http.Request) bool {
			return say(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}), act: proxyrun.Object{"retry_policy": proxyrun.Object{"retry_on": "5xx", "num_retries": 2}}, may: []string{"503 URX"}},
		{name: "leaves", to: silent, ask: (*asker).leave, may: []string{"0 DC"}, pause: 200 * time.Millisecond},
		{name: "stalls", to: silent, ask: (*asker).stalls, may: []string{"408 -"}, act: proxyrun.Object{"timeout": "0s"}},
		{name: "malformed", to: plain, ask: (*asker).malformed, may: []string{"400 DPE"}},
	}
}

func thresholds(t proxyrun.Object) proxyrun.Object {
	return proxyrun.Object{"circuit_breakers": proxyrun.Object{"thresholds": []proxyrun.Object{t}}}
}

// revive kills a backend and starts it again until the test ends.
func revive(t *testing.T, b interface {
	kill()
	start() error
}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			for _, step := range []struct {
				after time.Duration
				do    func()
			}{{300 * time.Millisecond, b.kill}, {200 * time.Millisecond, func() {
				if err := b.start(); err != nil {
					t.Error(err)
				}
			}}} {
				select {
				case <-ctx.Done():
					return
				case <-time.After(step.after):
					step.do()
				}
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// metadata names the cause's service, as a cluster's metadata does for metrics.
func (c *cause) metadata() proxyrun.Object {
	service := proxyrun.Object{"host": c.name, "name": c.name, "namespace": "faults"}
	return proxyrun.Object{"metadata": proxyrun.Object{"filter_metadata": proxyrun.Object{"istio": proxyrun.Object{"services": []proxyrun.Object{service}}}}}
}

// matrixProxy runs a proxy with a cluster and a route for each cause.
func matrixProxy(t *testing.T, causes []*cause) *proxyrun.Proxy {
	t.Helper()
	var routes []proxyrun.Object
	var clusters []proxyrun.Cluster
	for _, c := range causes {
		more := c.metadata()
		for k, v := range c.more {
			more[k] = v
		}
		clusters = append(clusters, proxyrun.Cluster{Name: c.name, To: c.to, More: more})
		routes = append(routes, proxyrun.Forward("/"+c.name+"/", c.name, c.act))
	}
	return proxyrun.Start(t, filepath.Clean(binary), proxyrun.Bootstrap([]proxyrun.Listener{{Name: "in", Routes: routes, Manager: proxyrun.Object{"request_timeout": "1s"}}}, clusters))
}

// tally counts outcomes by "status flags".
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}

func (c *tally) sum() int {
	total := 0
	for _, n := range c.n {
		total += n
	}
	return total
}

// load asks by several clients until ctx ends, at each of the addresses in turn, and counts the statuses.
func (c *cause) load(ctx context.Context, s *seen, at ...string) *tally {
	out := &tally{}
	ask := c.ask
	if ask == nil {
		ask = (*asker).get
	}
	var all sync.WaitGroup
	for i := range max(c.clients, 2) {
		all.Go(func() {
			a := &asker{at: at[i%len(at)], turn: i / len(at), prefix: c.name, seen: s}
			defer a.close()
			for n := 0; ctx.Err() == nil; n++ {
				a.next(i*1_000_000 + n)
				out.add(strconv.Itoa(ask(a)))
				wait(max(c.pause, time.Millisecond) + time.Duration(rand.Int64N(int64(50*time.Millisecond))))
			}
		})
	}
	all.Wait()
	return out
}

// logged counts the log's lines by cause and by "status flags".
func logged(log string) map[string]map[string]int {
	out := map[string]map[string]int{}
	for line := range strings.Lines(log) {
		f := strings.Fields(line)
		name := "malformed" // a head that can't be read has no path
		if len(f) > 4 && f[1] != "-" {
			name, _, _ = strings.Cut(strings.TrimPrefix(f[1], "/"), "/")
		}
		if len(f) < 5 {
			f = append(f, "short", "line", "", "", "")
		}
		if out[name] == nil {
			out[name] = map[string]int{}
		}
		out[name][f[3]+" "+f[4]]++
	}
	return out
}

// Whatever goes wrong beside a load that goes well: the client, the log and
// the metric tell the same of every single request, and nothing else happens.
func TestFaultsUnderLoadAreTold(t *testing.T) {
	s := &seen{}
	causes := faultMatrix(t, s)
	p := matrixProxy(t, causes)
	at := p.At(t, "in")
	ctx, cancel := context.WithTimeout(t.Context(), faultTime(t))
	defer cancel()
	sent := make([]*tally, len(causes))
	var all sync.WaitGroup
	for i, c := range causes {
		all.Go(func() { sent[i] = c.load(ctx, s, at) })
	}
	all.Wait()
	judgeAll(t, p, causes, sent)
}

// judge compares what clients saw with the metrics and the log, and returns how
// many lines the log lacks.
func (c *cause) judge(t *testing.T, p *proxyrun.Proxy, sent *tally, lines map[string]int) (lacking int) {
	t.Helper()
	t.Logf("%-14s clients %v, log %v", c.name, sent.n, lines)
	for what, n := range lines {
		if !slices.Contains(c.may, what) {
			t.Errorf("%s: the log says %q %d times", c.name, what, n)
		}
	}
	service := fmt.Sprintf("destination_service_name=%q", c.name)
	byStatus, total := map[string]int{}, 0
	for _, what := range c.may {
		status, flags, _ := strings.Cut(what, " ")
		n := lines[what]
		if c.name != "malformed" { // it came to no service
			n = int(p.Metric(t, "istio_requests_total", service, fmt.Sprintf("response_code=%q", status), fmt.Sprintf("response_flags=%q", flags)))
		}
		lacking += n - lines[what]
		if n < lines[what] {
			t.Errorf("%s: the metric counts %d of %q, the log %d", c.name, n, what, lines[what])
		}
		byStatus[status] += n
		total += n
	}
	if counted := int(p.Metric(t, "istio_requests_total", service)); c.name != "malformed" && counted != total {
		t.Errorf("%s: the metric counts %d requests, %d of them as expected", c.name, counted, total)
	}
	if total != sent.sum() {
		t.Errorf("%s: %d requests sent, %d counted", c.name, sent.sum(), total)
	}
	for status, n := range sent.n {
		if got := byStatus[strings.TrimPrefix(status, "-")]; got != n {
			t.Errorf("%s: clients saw %s %d times, the metric counts %d", c.name, status, n, got)
		}
	}
	for _, what := range c.must {
		if lines[what] == 0 {
			t.Errorf("%s: %q never came", c.name, what)
		}
	}
	if over := p.Metric(t, "envoy_cluster_upstream_rq_pending_overflow", fmt.Sprintf("cluster_name=%q", c.name)); int(over) != lines["503 UO"] {
		t.Errorf("%s: %v overflows counted, %d logged", c.name, over, lines["503 UO"])
	}
	return lacking
}

// judgeAll waits for the log, and judges all causes: a line that is lacking was
// dropped, and that is counted.
func judgeAll(t *testing.T, p *proxyrun.Proxy, causes []*cause, sent []*tally) {
	t.Helper()
	total := 0
	for _, c := range sent {
		total += c.sum()
	}
	dropped := func() int { return int(p.Metric(t, "tulle_access_log_lines_dropped_total")) }
	for end := time.Now().Add(20 * time.Second); strings.Count(p.AccessLog(), "\n")+dropped() < total && time.Now().Before(end); {
		wait(200 * time.Millisecond) // what never comes is told below, by cause
	}
	lines := logged(p.AccessLog())
	lacking := 0
	for i, c := range causes {
		lacking += c.judge(t, p, sent[i], lines[c.name])
		delete(lines, c.name)
	}
	if len(lines) > 0 {
		t.Errorf("nobody explains these lines: %v", lines)
	}
	if lacking != dropped() {
		t.Errorf("%d lines are lacking, %d were dropped because the reader was slow", lacking, dropped())
	}
	t.Logf("%d requests, %d lines dropped", total, dropped())
}

// Backends that close idle connections whenever they like: no client of a
// request that may be repeated sees it, and nothing else is carried out twice.
func TestConnectionsClosedAtRandomUnderLoad(t *testing.T) {
	f := newFickle(t)
	gets := &cause{name: "gets", to: []string{f.l.Addr().String()}, clients: 12, pause: time.Millisecond, may: []string{"200 -"}}
	posts := &cause{name: "posts", to: gets.to, clients: 12, pause: time.Millisecond, ask: (*asker).post, may: []string{"200 -", "503 UC"}}
	s := &seen{}
	causes := []*cause{gets, posts}
	p := matrixProxy(t, causes)
	at := p.At(t, "in")
	ctx, cancel := context.WithTimeout(t.Context(), faultTime(t))
	defer cancel()
	var sent [2]*tally
	var all sync.WaitGroup
	for i, c := range causes {
		all.Go(func() { sent[i] = c.load(ctx, s, at) })
	}
	all.Wait()
	judgeAll(t, p, causes, sent[:])
	if n := f.twice("posts/"); n > 0 {
		t.Errorf("%d POSTs were carried out twice", n)
	}
	t.Logf("%v requests were sent again because that was safe, %v connections made", p.Metric(t, "tulle_requests_repeated_total"), p.Metric(t, "envoy_cluster_upstream_cx_total"))
}
