//go:build soak

package soak_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// mixedClient is what all clients of one kind share: a connection of HTTP/2, and what they were told.
type mixedClient struct {
	h2 *http.Transport

	mu   sync.Mutex
	told map[string]string // by path: a status, or status and "cut"; "left", and the status that it had
	grpc map[string]string // grpc-status
}

func newMixedClient() *mixedClient {
	var ps http.Protocols
	ps.SetUnencryptedHTTP2(true)
	return &mixedClient{h2: &http.Transport{Protocols: &ps, DisableCompression: true}, told: map[string]string{}, grpc: map[string]string{}}
}

func (m *mixedClient) note(path, told string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told[path] = told
}

// clientTime bounds one request of a client: a stuck stream comes to light.
const clientTime = 20 * time.Second

// once asks by HTTP/2 and reads all; the result is the status, negative when the body breaks off, 0 when the client left.
func (m *mixedClient) once(ctx context.Context, at, path, method string, body io.Reader, header http.Header, each func(*http.Response) error) int {
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at+"/"+path, body)
	if err != nil {
		panic(err) // the URL is ours
	}
	req.Header = header
	resp, err := m.h2.RoundTrip(req)
	if err != nil {
		m.note(path, "error "+err.Error())
		return -1
	}
	defer resp.Body.Close()
	if each == nil {
		each = func(r *http.Response) error { _, err := io.Copy(io.Discard, r.Body); return err }
	}
	if err := each(resp); err != nil {
		m.note(path, fmt.Sprintf("%d cut", resp.StatusCode))
		return -resp.StatusCode
	}
	m.note(path, fmt.Sprint(resp.StatusCode))
	for _, h := range []http.Header{resp.Header, resp.Trailer} {
		if s := h.Get("grpc-status"); s != "" {
			m.mu.Lock()
			m.grpc[path] = s
			m.mu.Unlock()
		}
	}
	return resp.StatusCode
}

var grpcHeader = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}

// kinds are the ways to ask, which an asker takes in turn.
func (m *mixedClient) kinds() []func(*asker) int {
	return []func(*asker) int{
		func(a *asker) int { return m.first(a, a.get) },
		func(a *asker) int { return m.first(a, a.post) },
		func(a *asker) int {
			return m.once(context.Background(), a.at, a.id, "GET", nil, http.Header{}, nil)
		},
		func(a *asker) int {
			return m.once(context.Background(), a.at, a.id, "POST", io.MultiReader(bytes.NewReader(make([]byte, rand.IntN(40_000)))), http.Header{}, nil)
		},
		m.unary, m.stream, m.bidi, m.leaves,
	}
}

// first asks by HTTP/1.1.
func (m *mixedClient) first(a *asker, ask func() int) int {
	n := ask()
	switch {
	case n > 0:
		m.note(a.id, fmt.Sprint(n))
	case n < -1:
		m.note(a.id, fmt.Sprintf("%d cut", -n))
	default:
		m.note(a.id, fmt.Sprintf("error %v", a.err))
	}
	return n
}

// unary is a call with one message each way, or several back.
func (m *mixedClient) unary(a *asker) int {
	return m.once(context.Background(), a.at, a.id, "POST", bytes.NewReader(message(rand.IntN(1000))), grpcHeader, nil)
}

// stream is a call whose messages come slowly.
func (m *mixedClient) stream(a *asker) int {
	r, w := io.Pipe()
	go func() {
		for range 3 {
			if _, err := w.Write(message(200)); err != nil {
				return
			}
			wait(5 * time.Millisecond)
		}
		_ = w.Close()
	}()
	defer r.Close()
	return m.once(context.Background(), a.at, a.id, "POST", r, grpcHeader, nil)
}

// bidi sends a message when the answer to the one before has come.
func (m *mixedClient) bidi(a *asker) int {
	a.id += bidi
	r, w := io.Pipe()
	defer r.Close()
	defer w.Close()
	// The time that a route gives begins when the request has come as a whole.
	defer time.AfterFunc(2*time.Second, func() { _ = w.Close() }).Stop()
	go func() { _, _ = w.Write(message(100)) }()
	return m.once(context.Background(), a.at, a.id, "POST", r, grpcHeader, func(resp *http.Response) error {
		b := make([]byte, 105)
		for n := 0; ; n++ {
			if _, err := io.ReadFull(resp.Body, b); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if n == 3 {
				_ = w.Close()
				continue
			}
			go func() { _, _ = w.Write(message(100)) }()
		}
	})
}

// leaves goes some time after its request was sent.
func (m *mixedClient) leaves(a *asker) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() {
		time.AfterFunc(20*time.Millisecond+time.Duration(rand.Int64N(int64(60*time.Millisecond))), cancel)
	}})
	n := m.once(ctx, a.at, a.id, "GET", nil, http.Header{}, nil)
	switch {
	case n > 0 || ctx.Err() == nil:
		return n
	case n == -1:
		m.note(a.id, "left")
	default:
		m.note(a.id, fmt.Sprintf("left %d", -n))
	}
	return 0
}

// socket is a WebSocket over HTTP/1.1, whose bytes come back, or ends as told.
func (m *mixedClient) socket(a *asker) int {
	defer a.close()
	if !a.write("GET /" + a.id + " HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n") {
		m.note(a.id, fmt.Sprintf("error %v", a.err))
		return -1
	}
	resp, err := http.ReadResponse(a.reader, nil)
	if err != nil {
		m.note(a.id, "error "+err.Error())
		return -1
	}
	defer resp.Body.Close()
	m.note(a.id, fmt.Sprint(resp.StatusCode))
	if resp.StatusCode == http.StatusSwitchingProtocols {
		echoed(a.conn, a.reader)
	}
	return resp.StatusCode
}

// echoed sends some bytes and waits for them; the other side may end before.
func echoed(w io.Writer, r io.Reader) {
	b := make([]byte, 100)
	for range 1 + rand.IntN(4) {
		if _, err := w.Write(b); err != nil {
			return
		}
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
	}
}

// socket2 is a WebSocket over HTTP/2 (RFC 8441), on a connection of its own.
func (m *mixedClient) socket2(a *asker) int {
	c, err := net.DialTimeout("tcp", a.at, clientTime)
	if err != nil {
		m.note(a.id, "error "+err.Error())
		return -1
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(clientTime))
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var text bytes.Buffer
	enc := hpack.NewEncoder(&text)
	for _, h := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/" + a.id}, {":authority", "a"}, {"sec-websocket-version", "13"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // into memory
	}
	m.note(a.id, "nothing")
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return -1
	}
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: text.Bytes(), EndHeaders: true})
	status, left := -1, 1+rand.IntN(4)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return status
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			_, _ = fmt.Sscan(fr.PseudoValue("status"), &status)
			m.note(a.id, fmt.Sprint(status))
			if fr.StreamEnded() || status != 200 {
				return status
			}
			_ = f.WriteData(1, false, make([]byte, 100))
		case *http2.DataFrame:
			if fr.StreamEnded() {
				return status
			}
			if left--; left == 0 {
				_ = f.WriteData(1, true, nil)
			} else if left > 0 {
				_ = f.WriteData(1, false, make([]byte, 100))
			}
		case *http2.RSTStreamFrame:
			return status
		}
	}
}
