package http1_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// backend is a server that tells which messages it saw.
type backend interface {
	addr() netip.AddrPort
	// seen ends the backend's connections and returns the complete messages in
	// the order in which they came; what was neither complete nor the end of a
	// connection is an entry that begins with "!".
	seen() []string
}

// record keeps messages in their order.
type record struct {
	mu       sync.Mutex
	messages []string
}

func (r *record) add(m string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, m)
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages
}

// strict is our own recorder of raw bytes: it takes nothing but the canonical
// form of a message.
type strict struct {
	record
	*server
}

func newStrict(t testing.TB) backend {
	b := &strict{}
	b.server = serve(t, func(c *net.TCPConn) {
		r := reader{bufio.NewReader(c)}
		for {
			m, err := r.request()
			if errors.Is(err, errLoose) {
				b.add("!" + err.Error())
			}
			if err != nil {
				return // io.EOF, or a message that broke off
			}
			b.add(m.String())
			if _, err := io.WriteString(c, okFor(m.method, m.target)); err != nil {
				return
			}
		}
	})
	return b
}

// okFor is a response whose body is the request's target.
func okFor(method, target string) string {
	body := target
	if method == http.MethodHead {
		body = ""
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(target), body)
}

func (b *strict) addr() netip.AddrPort { return b.at }
func (b *strict) seen() []string       { b.close(); return b.all() }

// gopher is net/http's server.
type gopher struct {
	record
	*httptest.Server
}

func newGopher(testing.TB) backend {
	b := &gopher{}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := seen{method: r.Method, target: r.RequestURI, host: r.Host, fields: flat(r.Header)}
		if len(r.TransferEncoding) > 0 {
			m.fields = append(m.fields, "transfer-encoding: "+strings.Join(r.TransferEncoding, ","))
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // it broke off
		}
		m.body, m.trailers = string(body), flat(r.Trailer)
		b.add(m.String())
		w.Header().Set("Content-Length", fmt.Sprint(len(r.RequestURI)))
		_, _ = io.WriteString(w, r.RequestURI)
	}))
	b.Config.ReadTimeout = patience
	b.Config.DisableGeneralOptionsHandler = true
	b.Start()
	return b
}

// flat gives fields as the strict reader does. net/http takes the fields of
// the connection away, as ours has before.
func flat(h http.Header) (out []string) {
	for name, values := range h {
		for _, v := range values {
			out = append(out, strings.ToLower(name)+": "+v)
		}
	}
	return out
}

func (b *gopher) addr() netip.AddrPort { return netip.MustParseAddrPort(b.Listener.Addr().String()) }
func (b *gopher) seen() []string       { b.Close(); return b.all() }

// node is the http module of Node.js, whose parser is llhttp.
type node struct {
	at     netip.AddrPort
	lines  chan string
	fences int
}

const nodeServer = `
const http = require('http');
const put = o => process.stdout.write(JSON.stringify(o) + '\n');
const server = http.createServer({maxHeaderSize: 1 << 20}, (req, res) => {
  const parts = [];
  req.on('data', d => parts.push(d));
  req.on('error', () => {});
  req.on('end', () => {
    if (!req.complete) return;
    put({m: req.method, u: req.url, h: req.rawHeaders, b: Buffer.concat(parts).toString('latin1'), t: req.rawTrailers});
    res.setHeader('Content-Length', req.url.length);
    res.end(req.method == 'HEAD' ? '' : req.url);
  });
});
server.maxHeadersCount = 0;
server.on('clientError', (e, socket) => { if (e.code && e.code.startsWith('HPE') && e.code != 'HPE_INVALID_EOF_STATE') put({e: e.code}); socket.destroy(); });
server.listen(0, '127.0.0.1', () => put({port: server.address().port}));
process.stdin.on('end', () => process.exit(0)); process.stdin.resume();
`

// startNode runs one server for a whole test; nil: there is no Node.js here.
func startNode(t *testing.T) *node {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI needs Node.js: ", err)
		}
		t.Log("without Node.js as a backend: ", err)
		return nil
	}
	cmd := exec.Command(path, "-e", nodeServer)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &node{lines: make(chan string, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(n.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 4<<20)
		for s.Scan() {
			n.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		for ok := true; ok; { // the reader must end
			_, ok = <-n.lines
		}
		<-done
		_ = cmd.Wait()
	})
	var hello struct{ Port uint16 }
	if err := json.Unmarshal([]byte(<-n.lines), &hello); err != nil {
		t.Fatal(err)
	}
	n.at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), hello.Port)
	return n
}

func (n *node) addr() netip.AddrPort { return n.at }

// seen asks for the record by a request of its own that ends it.
func (n *node) seen() []string {
	n.fences++
	fence := fmt.Sprintf("/fence-%d", n.fences)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	var asked sync.WaitGroup
	asked.Go(func() {
		if res, err := client.Get("http://" + n.at.String() + fence); err == nil {
			res.Body.Close()
		}
	})
	defer asked.Wait()
	var out []string
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case line, ok := <-n.lines:
			if !ok {
				return append(out, "!node has ended")
			}
			m := parseNode(line)
			if strings.HasPrefix(m, "GET "+fence+" ") {
				return out
			}
			out = append(out, m)
		case <-late.C:
			return append(out, "!node is silent")
		}
	}
}

func parseNode(line string) string {
	var raw struct {
		M, U, B, E string
		H, T       []string
	}
	if err := json.Unmarshal([]byte(line), &raw); err != nil {
		return "!" + err.Error()
	}
	if raw.E != "" {
		return "!" + raw.E
	}
	m := seen{method: raw.M, target: raw.U}
	latin := func(s string) string {
		b := make([]byte, 0, len(s))
		for _, r := range s {
			b = append(b, byte(r))
		}
		return string(b)
	}
	m.body = latin(raw.B)
	for i := 0; i+1 < len(raw.H); i += 2 {
		if name := strings.ToLower(raw.H[i]); name == "host" {
			m.host += raw.H[i+1]
		} else {
			m.fields = append(m.fields, name+": "+latin(raw.H[i+1]))
		}
	}
	for i := 0; i+1 < len(raw.T); i += 2 {
		m.trailers = append(m.trailers, strings.ToLower(raw.T[i])+": "+latin(raw.T[i+1]))
	}
	return m.String()
}
