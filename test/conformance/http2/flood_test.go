//go:build conformance

package http2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// attack is one way to make a server work for nothing.
type attack struct {
	name string
	// run attacks on a new connection until the proxy ends it or ctx ends. A
	// writer that has to wait is as good as one that is busy.
	run func(ctx context.Context, w *wire)
	// ends is how the proxy must end the connection; empty: it may live, because
	// it costs the proxy no more than any client does.
	ends string
}

// frames is how many frames an attacker writes at once.
const frames = 500

// floods are the known ones.
func floods() []attack {
	const calm = "GOAWAY ENHANCE_YOUR_CALM"
	same := func(f []byte) func(context.Context, *wire) {
		return func(ctx context.Context, w *wire) {
			burst := bytes.Repeat(f, frames)
			for ctx.Err() == nil && w.failed() == nil {
				w.raw(burst)
			}
		}
	}
	// each writes bursts of what one stream gets.
	each := func(make func(w *wire, stream uint32) []byte) func(context.Context, *wire) {
		return func(ctx context.Context, w *wire) {
			stream := uint32(1)
			for ctx.Err() == nil && w.failed() == nil {
				var burst []byte
				for range frames {
					burst = append(burst, make(w, stream)...)
					stream += 2
				}
				w.raw(burst)
			}
		}
	}
	// open begins a POST and then floods.
	open := func(f []byte) func(context.Context, *wire) {
		return func(ctx context.Context, w *wire) {
			w.post(1, "/hold")
			same(f)(ctx, w)
		}
	}
	get := func(w *wire, more ...string) []byte {
		return w.block(append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "shop"}, more...)...)
	}
	cancel := []byte{0, 0, 0, byte(http2.ErrCodeCancel)}
	return []attack{
		{"rapid reset", each(func(w *wire, s uint32) []byte {
			return append(frame(kindHeaders, endHeaders|endStream, s, get(w)), frame(kindReset, 0, s, cancel)...)
		}), calm},
		{"requests that are malformed", each(func(w *wire, s uint32) []byte {
			return frame(kindHeaders, endHeaders|endStream, s, get(w, "connection", "close"))
		}), calm},
		{"windows by nothing", each(func(w *wire, s uint32) []byte {
			return append(frame(kindHeaders, endHeaders, s, get(w)), frame(kindWindow, 0, s, make([]byte, 4))...)
		}), calm},
		{"names of no length", each(func(w *wire, s uint32) []byte {
			return frame(kindHeaders, endHeaders|endStream, s, append(get(w), bytes.Repeat([]byte{0x00, 0x00, 0x00}, 2000)...))
		}), calm},
		{"streams beyond the limit", each(func(w *wire, s uint32) []byte {
			return frame(kindHeaders, endHeaders, s, get(w))
		}), calm},
		{"CONTINUATION", func(ctx context.Context, w *wire) {
			w.frame(kindHeaders, 0, 1, get(w))
			same(frame(kindContinuation, 0, 1, w.block("x-more", strings.Repeat("v", 100))))(ctx, w)
		}, calm},
		{"CONTINUATION without content", func(ctx context.Context, w *wire) {
			w.frame(kindHeaders, 0, 1, get(w))
			same(frame(kindContinuation, 0, 1, nil))(ctx, w)
		}, calm},
		{"SETTINGS", same(frame(kindSettings, 0, 0, nil)), calm},
		{"SETTINGS with 1000 values", same(frame(kindSettings, 0, 0, bytes.Repeat([]byte{0, settingWindow, 0, 0, 0xff, 0xff}, 1000))), calm},
		{"PING", same(frame(kindPing, 0, 0, make([]byte, 8))), calm},
		{"PING whose answers are not read", same(frame(kindPing, 0, 0, make([]byte, 8))), calm},
		{"PRIORITY", same(frame(kindPriority, 0, 1, []byte{0, 0, 0, 3, 1})), calm},
		{"unknown frames", same(frame(0x99, 0, 0, []byte("what"))), calm},
		{"DATA without content", open(frame(kindData, 0, 1, nil)), calm},
		{"DATA of padding", open(frame(kindData, padded, 1, append([]byte{255}, make([]byte, 255)...))), calm},
		{"WINDOW_UPDATE", open(frame(kindWindow, 0, 1, []byte{0, 0, 0, 1})), calm},
		{"RST_STREAM of streams that are no more", func(ctx context.Context, w *wire) {
			w.get(1, "/")
			same(frame(kindReset, 0, 1, cancel))(ctx, w)
		}, calm},
		{"bombs of indexed fields", func(ctx context.Context, w *wire) {
			// The first block puts 4 KB into the table; each byte of the later ones stands for it.
			w.frame(kindHeaders, endHeaders|endStream, 1, get(w, "x", strings.Repeat("b", 3900)))
			bomb := append(get(w), bytes.Repeat([]byte{0x80 | 62}, 15000)...)
			for s := uint32(3); ctx.Err() == nil && w.failed() == nil; s += 2 {
				w.frame(kindHeaders, endHeaders|endStream, s, bomb)
			}
		}, ""},
		{"a window in drops", func(ctx context.Context, w *wire) {
			w.settings(settingWindow, 1)
			w.get(1, "/big")
			same(frame(kindWindow, 0, 1, []byte{0, 0, 0, 1}))(ctx, w)
		}, calm},
		{"slow reader of many streams", func(ctx context.Context, w *wire) {
			w.settings(settingWindow, 1<<30)
			w.window(0, 1<<30)
			for s := uint32(1); s < 200; s += 2 {
				w.get(s, "/big")
			}
			<-ctx.Done()
		}, ""},
		{"many uploads that nobody takes", func(ctx context.Context, w *wire) {
			for s := uint32(1); s < 200; s += 2 {
				w.post(s, "/hold")
				w.data(s, 0, strings.Repeat("x", 16000))
			}
			<-ctx.Done()
		}, ""},
		{"half a header block", func(ctx context.Context, w *wire) {
			w.frame(kindHeaders, 0, 1, get(w))
			<-ctx.Done()
		}, ""},
	}
}

// floodOrigin answers at once, with a lot, or never.
func floodOrigin(t *testing.T) string {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	return origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			_, _ = w.Write(big)
		case "/hold":
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, "hello")
		}
	}))
}

// floodTime is how long each attack runs, 3 s or FLOOD_SECONDS, and what the
// machine may add to a percentile: attackers run on it, too, and in seconds the
// p99 of others is a handful of requests, which tell of starvation only.
func floodTime(t *testing.T) (length, slack time.Duration) {
	t.Helper()
	s := os.Getenv("FLOOD_SECONDS")
	if s == "" {
		return 3 * time.Second, 2 * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second, 100 * time.Millisecond
}

// The good clients: so many connections, each a request at a time, so often.
const (
	goodClients = 8
	goodEvery   = 10 * time.Millisecond
	// calmMax is how long they are measured alone: 8,000 requests.
	calmMax = 10 * time.Second
	// growth is how much memory an attack may take for good.
	growth = 64 << 20
)

// goodTraffic asks until ctx ends, and returns how long answers took and what
// failed.
func goodTraffic(ctx context.Context, t *testing.T, url string) (times []time.Duration, failed []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range goodClients {
		c := newClient(t, true)
		all.Go(func() {
			tick := time.NewTicker(goodEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				began := time.Now()
				got := ask(t, c, http.MethodGet, url, "")
				took := time.Since(began)
				mu.Lock()
				times = append(times, took)
				if got != "200 hello" {
					failed = append(failed, got)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(times)
	return times, failed
}

func p99(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[len(times)*99/100]
}

// assault runs an attack over and over until ctx ends, a connection at a time,
// and returns how they ended.
func assault(ctx context.Context, at string, a attack) map[string]int {
	ends := map[string]int{}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		c, err := (&net.Dialer{Timeout: wireTime}).DialContext(ctx, "tcp", at)
		if err != nil {
			break
		}
		w := newWire(c)
		_ = c.SetDeadline(time.Time{})
		w.raw([]byte(http2.ClientPreface))
		w.settings()
		one, done := context.WithCancel(ctx)
		heard := make(chan string, 1)
		go func() {
			defer done() // the writer has nothing to do any more
			heard <- hear(w, a.name != "slow reader of many streams" && a.name != "PING whose answers are not read")
		}()
		a.run(one, w)
		if one.Err() == nil || ctx.Err() == nil {
			// What the proxy said may still be on its way.
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		} else {
			_ = c.SetReadDeadline(time.Now())
		}
		end := <-heard
		done()
		_ = c.Close()
		if ctx.Err() == nil {
			ends[end]++
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	return ends
}

// hear reads raw frames until the connection ends, and says how it did. An
// attacker that does not read looks only at the end.
func hear(w *wire, reads bool) string {
	end := "closed"
	if !reads {
		one := make([]byte, 1)
		if _, err := io.ReadFull(w, one); err != nil {
			return end
		}
	}
	var head [9]byte
	for {
		if _, err := io.ReadFull(w, head[:]); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() && end == "closed" {
				return "open"
			}
			return end
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(w, payload); err != nil {
			return end
		}
		if head[3] == kindGoAway && len(payload) >= 8 {
			end = "GOAWAY " + http2.ErrCode(binary.BigEndian.Uint32(payload[4:])).String()
		}
	}
}

// roomy lifts the cluster's thresholds: an attacker may reach Envoy's default of
// 1,024 requests, and others would be refused by configuration.
func roomy() proxyrun.Object {
	const most = 1 << 20
	return proxyrun.Object{"circuit_breakers": proxyrun.Object{"thresholds": []proxyrun.Object{
		{"max_connections": most, "max_pending_requests": most, "max_requests": most}}}}
}

// TestFloodsBesideGoodTraffic: the attacker is told to calm down, the others notice little, and memory does not grow.
func TestFloodsBesideGoodTraffic(t *testing.T) {
	be := floodOrigin(t)
	length, slack := floodTime(t)
	for _, a := range floods() {
		t.Run(a.name, func(t *testing.T) {
			p := proxyrun.Start(t, tulle, proxyrun.Bootstrap(
				[]proxyrun.Listener{{Name: "front"}}, []proxyrun.Cluster{{Name: "be", To: []string{be}, HTTP2: true, More: roomy()}}))
			at := p.At(t, "front")
			measure := func(length time.Duration, f func(ctx context.Context)) ([]time.Duration, []string) {
				ctx, cancel := context.WithTimeout(t.Context(), length)
				defer cancel()
				var attacker sync.WaitGroup
				attacker.Go(func() { f(ctx) })
				defer attacker.Wait()
				return goodTraffic(ctx, t, "http://"+at+"/")
			}
			calm, failed := measure(min(length, calmMax), func(context.Context) {})
			before := p.RSS(t)
			if len(failed) > 0 {
				t.Fatalf("without an attack: %d failed: %v", len(failed), failed[0])
			}
			var ends map[string]int
			busy, failed := measure(length, func(ctx context.Context) { ends = assault(ctx, at, a) })
			after := p.RSS(t)
			t.Logf("p99 %v alone, %v beside; %d MiB before, %d after; connections ended: %v", p99(calm).Round(10*time.Microsecond), p99(busy).Round(10*time.Microsecond), before>>20, after>>20, ends)
			if len(failed) > 0 {
				t.Errorf("%d of %d good requests failed: %v", len(failed), len(busy), failed[0])
			}
			if p99(busy) > 2*p99(calm)+slack {
				t.Errorf("good traffic's p99 went from %v to %v", p99(calm), p99(busy))
			}
			if after > before+growth {
				t.Errorf("memory went from %d to %d MiB", before>>20, after>>20)
			}
			if a.ends == "" {
				return
			}
			if ends[a.ends] == 0 || len(ends) > 1 {
				t.Errorf("connections ended by %v, want %s", ends, a.ends)
			}
			code := fmt.Sprintf("code=%q", strings.TrimPrefix(a.ends, "GOAWAY "))
			// A connection is counted when its peer has had time to read why it ends.
			p.Await(t, lookTime, fmt.Sprintf("%d connections are counted", ends[a.ends]), func() bool {
				return int(p.Metric(t, "tulle_http2_connections_failed_total", code)) >= ends[a.ends]
			})
		})
	}
}
