//go:build conformance

package http2_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// The settings that misdeeds use (RFC 9113 §6.5.2, RFC 8441 §3).
const (
	settingTable   = 1
	settingPush    = 2
	settingStreams = 3
	settingWindow  = 4
	settingFrame   = 5
	settingHead    = 6
	settingConnect = 8
)

// settingsMisdeeds are of the connection's beginning. Nothing of a request was
// written then, so another connection is tried; the server never sees any.
func settingsMisdeeds() []misdeed {
	broken := func(code string) want { return want{client: "503 UF", conn: "GOAWAY " + code} }
	odd := want{client: "200 - fine", conn: "kept", tries: 1}
	hello := func(pairs ...uint32) func(*wire) { return func(w *wire) { w.settings(pairs...) } }
	raw := func(b []byte) func(*wire) { return func(w *wire) { w.raw(b) } }
	quick := proxyrun.Object{"connect_timeout": "0.3s"}
	return []misdeed{
		{name: "HTTP/1.1 in place of SETTINGS", hello: raw([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")), want: broken("FRAME_SIZE_ERROR")},
		{name: "PING in place of SETTINGS", hello: raw(frame(kindPing, 0, 0, make([]byte, 8))), want: broken("PROTOCOL_ERROR")},
		{name: "acknowledgement in place of SETTINGS", hello: raw(frame(kindSettings, ack, 0, nil)), want: broken("PROTOCOL_ERROR")},
		{name: "GOAWAY in place of SETTINGS", hello: func(w *wire) { w.goAway(0, http2.ErrCodeNo) }, want: broken("PROTOCOL_ERROR")},
		{name: "no SETTINGS ever", hello: func(w *wire) { _, _ = io.Copy(io.Discard, w) }, cluster: quick, want: want{client: "503 UF", conn: "closed"}},
		{name: "close in place of SETTINGS", hello: func(w *wire) { w.Close() }, want: want{client: "503 UF", conn: "closed"}},
		{name: "SETTINGS on a stream", hello: raw(frame(kindSettings, 0, 1, nil)), want: broken("PROTOCOL_ERROR")},
		{name: "SETTINGS of 5 bytes", hello: raw(frame(kindSettings, 0, 0, make([]byte, 5))), want: broken("FRAME_SIZE_ERROR")},
		{name: "acknowledgement with content", hello: func(w *wire) { w.settings(); w.frame(kindSettings, ack, 0, make([]byte, 6)) }, want: broken("FRAME_SIZE_ERROR")},
		{name: "initial window of 2^31", hello: hello(settingWindow, 1<<31), want: broken("FLOW_CONTROL_ERROR")},
		{name: "largest frame below 2^14", hello: hello(settingFrame, 1<<14-1), want: broken("PROTOCOL_ERROR")},
		{name: "largest frame of 2^24", hello: hello(settingFrame, 1<<24), want: broken("PROTOCOL_ERROR")},
		{name: "push allowed by the server", hello: hello(settingPush, 1), want: broken("PROTOCOL_ERROR")},
		{name: "push of 2", hello: hello(settingPush, 2), want: broken("PROTOCOL_ERROR")},
		{name: "extended CONNECT of 2", hello: hello(settingConnect, 2), want: broken("PROTOCOL_ERROR")},
		{name: "unknown setting", hello: hello(0x77, 12345), want: odd},
		{name: "no dynamic table", hello: func(w *wire) {
			w.read.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(0)
			w.settings(settingTable, 0)
		}, want: odd},
		{name: "a head of 10 bytes at most", hello: hello(settingHead, 10), want: odd}, // advice only (RFC 9113 §6.5.2)
		{name: "no streams", hello: hello(settingStreams, 0), route: proxyrun.Object{"timeout": "0.3s"}, want: want{client: "504 UT", conn: any}},
		{name: "GOAWAY behind SETTINGS", hello: raw(slices.Concat(frame(kindSettings, 0, 0, nil), frame(kindGoAway, 0, 0, make([]byte, 8)))), want: want{client: "503 UF", conn: "closed"}},
	}
}

// frameMisdeeds break the rules of frames when a request is there: the
// connection must end, and what was in progress fails without repetition,
// because the server may have acted on it.
func frameMisdeeds() []misdeed {
	var out []misdeed
	bad := func(name, code string, f func(w *wire, stream uint32)) {
		out = append(out, misdeed{name: name, answer: f, want: want{client: "502 UPE", conn: "GOAWAY " + code, tries: 1}})
	}
	bytes := func(kind, flags byte, stream uint32, payload []byte) func(*wire, uint32) {
		return func(w *wire, _ uint32) { w.frame(kind, flags, stream, payload) }
	}
	const idle = 101
	bad("HEADERS on an idle stream", "PROTOCOL_ERROR", func(w *wire, _ uint32) { fine(w, idle) })
	bad("HEADERS on an even stream", "PROTOCOL_ERROR", func(w *wire, _ uint32) { fine(w, 2) })
	bad("DATA on an idle stream", "PROTOCOL_ERROR", bytes(kindData, 0, idle, []byte("x")))
	bad("RST_STREAM on an idle stream", "PROTOCOL_ERROR", bytes(kindReset, 0, idle, make([]byte, 4)))
	bad("WINDOW_UPDATE on an idle stream", "PROTOCOL_ERROR", bytes(kindWindow, 0, idle, []byte{0, 0, 0, 1}))
	bad("DATA on stream 0", "PROTOCOL_ERROR", bytes(kindData, 0, 0, []byte("x")))
	bad("HEADERS on stream 0", "PROTOCOL_ERROR", func(w *wire, _ uint32) { fine(w, 0) })
	bad("RST_STREAM on stream 0", "PROTOCOL_ERROR", bytes(kindReset, 0, 0, make([]byte, 4)))
	bad("PRIORITY on stream 0", "PROTOCOL_ERROR", bytes(kindPriority, 0, 0, make([]byte, 5)))
	bad("PING on a stream", "PROTOCOL_ERROR", bytes(kindPing, 0, 1, make([]byte, 8)))
	bad("PING of 7 bytes", "FRAME_SIZE_ERROR", bytes(kindPing, 0, 0, make([]byte, 7)))
	bad("GOAWAY on a stream", "PROTOCOL_ERROR", bytes(kindGoAway, 0, 1, make([]byte, 8)))
	bad("GOAWAY of 7 bytes", "FRAME_SIZE_ERROR", bytes(kindGoAway, 0, 0, make([]byte, 7)))
	bad("WINDOW_UPDATE of 3 bytes", "FRAME_SIZE_ERROR", bytes(kindWindow, 0, 0, make([]byte, 3)))
	bad("RST_STREAM of 3 bytes", "FRAME_SIZE_ERROR", bytes(kindReset, 0, 1, make([]byte, 3)))
	bad("SETTINGS on a stream of a request", "PROTOCOL_ERROR", bytes(kindSettings, 0, 1, nil))
	bad("WINDOW_UPDATE of the connection by nothing", "PROTOCOL_ERROR", bytes(kindWindow, 0, 0, make([]byte, 4)))
	bad("connection's window beyond 2^31-1", "FLOW_CONTROL_ERROR", func(w *wire, _ uint32) { w.window(0, 1<<31-1) })
	bad("frame beyond our largest", "FRAME_SIZE_ERROR", func(w *wire, s uint32) { head(w, s); w.frame(kindData, 0, s, make([]byte, 16385)) })
	out[len(out)-1].want.client = "200 UPE cut"
	bad("padding as long as DATA", "PROTOCOL_ERROR", func(w *wire, s uint32) { w.frame(kindData, padded, s, []byte{1}) })
	bad("padding longer than HEADERS", "PROTOCOL_ERROR", func(w *wire, s uint32) { w.frame(kindHeaders, padded|endHeaders, s, []byte{9, 0x88}) })
	bad("PUSH_PROMISE", "PROTOCOL_ERROR", func(w *wire, s uint32) {
		w.frame(kindPush, endHeaders, s, append([]byte{0, 0, 0, 2}, w.block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")...))
	})
	bad("CONTINUATION without HEADERS", "PROTOCOL_ERROR", bytes(kindContinuation, endHeaders, 1, []byte{0x88}))
	bad("DATA within a header block", "PROTOCOL_ERROR", func(w *wire, s uint32) { w.frame(kindHeaders, 0, s, []byte{0x88}); w.data(s, endStream, "x") })
	bad("CONTINUATION on another stream", "PROTOCOL_ERROR", func(w *wire, s uint32) {
		w.frame(kindHeaders, 0, s, []byte{0x88})
		w.frame(kindContinuation, endHeaders, s+2, nil)
	})
	bad("endless CONTINUATION", "ENHANCE_YOUR_CALM", func(w *wire, s uint32) {
		w.frame(kindHeaders, 0, s, []byte{0x88})
		for range 2000 {
			w.frame(kindContinuation, 0, s, w.block("x-more", strings.Repeat("v", 100)))
		}
	})
	bad("endless CONTINUATION without content", "ENHANCE_YOUR_CALM", func(w *wire, s uint32) {
		w.frame(kindHeaders, 0, s, []byte{0x88})
		for range 2000 {
			w.frame(kindContinuation, 0, s, nil)
		}
	})
	bad("index beyond the table", "COMPRESSION_ERROR", bytes(kindHeaders, endHeaders|endStream, 1, []byte{0x88, 0xff, 0x80, 0x7f}))
	bad("header block that stops short", "COMPRESSION_ERROR", bytes(kindHeaders, endHeaders|endStream, 1, []byte{0x88, 0x40, 10, 'x'}))
	bad("dynamic table beyond our setting", "COMPRESSION_ERROR", bytes(kindHeaders, endHeaders|endStream, 1, []byte{0x3f, 0xe1, 0xff, 0x03, 0x88}))
	bad("Huffman code with a wrong end", "COMPRESSION_ERROR", bytes(kindHeaders, endHeaders|endStream, 1, []byte{0x88, 0x40, 0x81, 0x00, 0x01, 'v'}))
	return out
}

// streamMisdeeds are frames that concern one stream, or nobody: the connection stays.
func streamMisdeeds() []misdeed {
	odd := want{client: "200 - fine", conn: "kept", tries: 1}
	bad := func(code string) want { return want{client: "502 UPE", reset: code, conn: "kept", tries: 1} }
	before := func(kind, flags byte, stream uint32, payload []byte) func(*wire, uint32) {
		return func(w *wire, s uint32) { w.frame(kind, flags, stream, payload); fine(w, s) }
	}
	return []misdeed{
		{name: "WINDOW_UPDATE of the stream by nothing", answer: func(w *wire, s uint32) { w.window(s, 0) }, want: bad("PROTOCOL_ERROR")},
		{name: "stream's window beyond 2^31-1", answer: func(w *wire, s uint32) { w.window(s, 1<<31-1) }, want: bad("FLOW_CONTROL_ERROR")},
		{name: "PRIORITY of 4 bytes", answer: func(w *wire, s uint32) { w.frame(kindPriority, 0, s, make([]byte, 4)) }, want: bad("FRAME_SIZE_ERROR")},
		{name: "frame of an unknown kind", answer: before(0x42, 0xff, 0, []byte("what")), want: odd},
		{name: "frame of an unknown kind on the stream", answer: func(w *wire, s uint32) { w.frame(0x42, 0xff, s, []byte("what")); fine(w, s) }, want: odd},
		{name: "ALTSVC", answer: before(0xa, 0, 0, append([]byte{0, 5}, "a.com:h2"...)), want: odd},
		{name: "ORIGIN", answer: before(0xc, 0, 0, append([]byte{0, 5}, "a.com"...)), want: odd},
		{name: "unknown flags", answer: func(w *wire, s uint32) {
			w.frame(kindHeaders, 0xd2|endHeaders, s, []byte{0x88})
			w.frame(kindData, 0xf6|endStream, s, []byte("fine"))
		}, want: odd},
		{name: "reserved bit of the stream's id", answer: func(w *wire, s uint32) {
			w.frame(kindHeaders, endHeaders, s|1<<31, []byte{0x88})
			w.data(s|1<<31, endStream, "fine")
		}, want: odd},
		{name: "PRIORITY", answer: before(kindPriority, 0, 1, []byte{0, 0, 0, 99, 7}), want: odd},
		{name: "HEADERS with a priority", answer: func(w *wire, s uint32) {
			w.frame(kindHeaders, 0x20|endHeaders, s, []byte{0, 0, 0, 0, 9, 0x88})
			w.data(s, endStream, "fine")
		}, want: odd},
		{name: "PING", answer: before(kindPing, 0, 0, []byte("whatever")), want: odd},
		{name: "acknowledgement of a PING that we did not send", answer: before(kindPing, ack, 0, []byte("whatever")), want: odd},
		{name: "SETTINGS without content", answer: before(kindSettings, 0, 0, nil), want: odd},
		{name: "second acknowledgement", answer: before(kindSettings, ack, 0, nil), want: odd},
		{name: "padding everywhere", answer: func(w *wire, s uint32) {
			w.frame(kindHeaders, padded|endHeaders, s, []byte{3, 0x88, 0, 0, 0})
			w.frame(kindData, padded|endStream, s, append([]byte{200}, append([]byte("fine"), make([]byte, 200)...)...))
		}, want: odd},
		{name: "header block in single bytes", answer: func(w *wire, s uint32) {
			b := w.block(":status", "200", "x-a", "b")
			w.frame(kindHeaders, 0, s, b[:1])
			for i := 1; i < len(b)-1; i++ {
				w.frame(kindContinuation, 0, s, b[i:i+1])
			}
			w.frame(kindContinuation, endHeaders, s, b[len(b)-1:])
			w.data(s, endStream, "fine")
		}, want: odd},
		{name: "answer in single bytes", answer: func(w *wire, s uint32) {
			for _, b := range append(frame(kindHeaders, endHeaders, s, []byte{0x88}), frame(kindData, endStream, s, []byte("fine"))...) {
				w.raw([]byte{b})
			}
		}, want: odd},
		{name: "end in an empty DATA", answer: func(w *wire, s uint32) { head(w, s); w.data(s, 0, "fine"); w.data(s, endStream, "") }, want: odd},
		{name: "smaller dynamic table", answer: func(w *wire, s uint32) {
			w.enc.SetMaxDynamicTableSizeLimit(100)
			w.enc.SetMaxDynamicTableSize(64)
			fine(w, s)
		}, want: odd},
		{name: "no dynamic table from now on", answer: func(w *wire, s uint32) {
			w.settings(settingTable, 0)
			w.settings(settingTable, 4096)
			fine(w, s)
		}, want: odd},
	}
}

// headMisdeeds are malformed responses (RFC 9113 §8.1.1): the stream is reset, the connection stays.
func headMisdeeds() []misdeed {
	var out []misdeed
	add := func(name string, w want, fields ...string) {
		out = append(out, misdeed{name: name, want: w, answer: func(w *wire, s uint32) {
			w.headers(s, 0, fields...)
			w.data(s, endStream, "fine")
		}})
	}
	malformed := want{client: "502 UPE", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}
	large := want{client: "502 UPE", reset: "ENHANCE_YOUR_CALM", conn: "kept", tries: 1}
	odd := want{client: "200 - fine", conn: "kept", tries: 1}
	for _, status := range []string{"", "2x0", "99", "1000", "-20", "099", "20", " 200", "200 OK"} {
		add(fmt.Sprintf("status %q", status), malformed, ":status", status)
	}
	add("no status", malformed, "server", "x")
	add("two statuses", malformed, ":status", "200", ":status", "200")
	add("status behind a field", malformed, "server", "x", ":status", "200")
	add("pseudo field of a request", malformed, ":status", "200", ":path", "/")
	add("unknown pseudo field", malformed, ":status", "200", ":reason", "ok")
	add("name in upper case", malformed, ":status", "200", "Server", "x")
	add("name with a space", malformed, ":status", "200", "ser ver", "x")
	add("name with a colon", malformed, ":status", "200", "server:", "x")
	add("empty name", malformed, ":status", "200", "", "x")
	add("name with a control", malformed, ":status", "200", "x\x7f", "x")
	add("name beyond ASCII", malformed, ":status", "200", "x-\xc3\xa9", "x")
	add("value with NUL", malformed, ":status", "200", "x-v", "a\x00b")
	add("value with CR LF", malformed, ":status", "200", "x-v", "a\r\nx-evil: b")
	add("value with LF", malformed, ":status", "200", "x-v", "a\nb")
	add("value that begins with a space", malformed, ":status", "200", "x-v", " a")
	add("value that ends with a tab", malformed, ":status", "200", "x-v", "a\t")
	for _, name := range []string{"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"} {
		add("field "+name, malformed, ":status", "200", name, "close")
	}
	add("field te", malformed, ":status", "200", "te", "gzip")
	add("length that is no number", malformed, ":status", "200", "content-length", "4a")
	add("negative length", malformed, ":status", "200", "content-length", "-4")
	add("length of 20 digits", malformed, ":status", "200", "content-length", "40000000000000000000")
	add("two lengths", malformed, ":status", "200", "content-length", "4", "content-length", "5")
	add("status 101", malformed, ":status", "101")
	add("value beyond ASCII", odd, ":status", "200", "x-v", "\xc3\xa9\xff")
	add("100 fields of 60 KiB", large, append([]string{":status", "200"}, many(100, 700)...)...)
	add("200 fields", large, append([]string{":status", "200"}, many(200, 1)...)...)
	out = append(out,
		misdeed{name: "bomb of indexed fields", want: large, answer: func(w *wire, s uint32) {
			fields := []string{":status", "200"}
			for range 60 {
				fields = append(fields, "x-bomb", strings.Repeat("b", 3900))
			}
			w.headers(s, endStream, fields...)
		}},
		misdeed{name: "informational head that ends the stream", want: malformed, answer: func(w *wire, s uint32) { w.headers(s, endStream, ":status", "103") }},
		misdeed{name: "informational heads without end", want: large, answer: func(w *wire, s uint32) {
			var all []byte
			for range 64 {
				all = append(all, frame(kindHeaders, endHeaders, s, w.block(":status", "103"))...)
			}
			w.raw(all)
		}},
		misdeed{name: "unasked 100 Continue", want: odd, answer: func(w *wire, s uint32) { w.headers(s, 0, ":status", "100"); fine(w, s) }},
		misdeed{name: "early hints", want: odd, answer: func(w *wire, s uint32) { w.headers(s, 0, ":status", "103", "link", "</a>"); fine(w, s) }},
	)
	return out
}

// many are n fields with values of some bytes.
func many(n, size int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("x-%d", i), strings.Repeat("v", size))
	}
	return out
}

// bodyMisdeeds are wrong about the body or the trailers.
func bodyMisdeeds() []misdeed {
	malformed := want{client: "502 UPE", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}
	cut := want{client: "200 UPE cut", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}
	odd := want{client: "200 - fine", conn: "kept", tries: 1}
	late := want{client: "200 - fine", reset: any, conn: "kept", tries: 1}
	empty := func(status string) want { return want{client: status + " -", conn: "kept", tries: 1} }
	trailers := func(name string, w want, flags byte, fields ...string) misdeed {
		return misdeed{name: name, want: w, answer: func(w *wire, s uint32) {
			head(w, s)
			w.data(s, 0, "fine")
			w.headers(s, flags, fields...)
		}}
	}
	return []misdeed{
		{name: "DATA before HEADERS", want: malformed, answer: func(w *wire, s uint32) { w.data(s, 0, "x"); fine(w, s) }},
		{name: "more DATA than the length", want: cut, answer: func(w *wire, s uint32) {
			w.headers(s, 0, ":status", "200", "content-length", "4")
			w.data(s, 0, "fi")
			w.data(s, endStream, "nest")
		}},
		{name: "less DATA than the length", want: cut, answer: func(w *wire, s uint32) {
			w.headers(s, 0, ":status", "200", "content-length", "40")
			w.data(s, 0, "fi")
			w.data(s, endStream, "ne")
		}},
		{name: "no DATA for a length", want: malformed, answer: func(w *wire, s uint32) { w.headers(s, endStream, ":status", "200", "content-length", "4") }},
		{name: "trailers before the length is reached", want: cut, answer: func(w *wire, s uint32) {
			w.headers(s, 0, ":status", "200", "content-length", "40")
			w.data(s, 0, "fine")
			w.headers(s, endStream, "x-sum", "1")
		}},
		trailers("trailers that don't end the stream", cut, 0, "x-sum", "1"),
		trailers("pseudo field in trailers", cut, endStream, ":status", "200"),
		trailers("name in upper case in trailers", cut, endStream, "X-Sum", "1"),
		trailers("connection in trailers", cut, endStream, "connection", "close"),
		trailers("length in trailers", cut, endStream, "content-length", "4"),
		trailers("trailers of 60 KiB", want{client: "200 UPE cut", reset: "ENHANCE_YOUR_CALM", conn: "kept", tries: 1}, endStream, many(100, 700)...),
		trailers("good trailers", odd, endStream, "x-sum", "1"),
		{name: "trailers in place of a head", want: empty("200"), answer: func(w *wire, s uint32) { w.headers(s, endStream, ":status", "200", "x-sum", "1") }},
		{name: "DATA behind the end", want: late, answer: func(w *wire, s uint32) { fine(w, s); w.data(s, 0, "more") }},
		{name: "HEADERS behind the end", want: late, answer: func(w *wire, s uint32) { fine(w, s); head(w, s) }},
		{name: "RST_STREAM behind the end", want: odd, answer: func(w *wire, s uint32) { fine(w, s); w.reset(s, http2.ErrCodeNo) }},
		{name: "RST_STREAM twice behind the end", want: odd, answer: func(w *wire, s uint32) { fine(w, s); w.reset(s, http2.ErrCodeCancel); w.reset(s, http2.ErrCodeCancel) }},
		{name: "WINDOW_UPDATE behind the end", want: odd, answer: func(w *wire, s uint32) { fine(w, s); w.window(s, 100) }},
		{name: "body for HEAD", method: "HEAD", want: want{client: "200 UPE", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}, answer: fine},
		{name: "length for HEAD", method: "HEAD", want: empty("200"), answer: func(w *wire, s uint32) { w.headers(s, endStream, ":status", "200", "content-length", "4") }},
		{name: "body for 204", want: want{client: "204 UPE", two: "204 UPE cut", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}, answer: func(w *wire, s uint32) {
			w.headers(s, 0, ":status", "204")
			w.data(s, endStream, "fine")
		}},
		{name: "body for 304", want: want{client: "304 UPE", two: "304 UPE cut", reset: "PROTOCOL_ERROR", conn: "kept", tries: 1}, answer: func(w *wire, s uint32) {
			w.headers(s, 0, ":status", "304")
			w.data(s, endStream, "fine")
		}},
		// net/http's client takes a length without DATA for a body that was cut, for 304 as well.
		{name: "length for 304", want: want{client: "304 -", two: "304 - cut", conn: "kept", tries: 1}, answer: func(w *wire, s uint32) { w.headers(s, endStream, ":status", "304", "content-length", "4") }},
	}
}

// codes are all of RFC 9113 §7, and one that is not.
func codes() []http2.ErrCode {
	var out []http2.ErrCode
	for c := http2.ErrCodeNo; c <= http2.ErrCodeHTTP11Required; c++ {
		out = append(out, c)
	}
	return append(out, 0xdeadbeef)
}

// endMisdeeds end streams and connections at each moment. What the server did
// not act on is repeated, and what may be: up to three tries.
func endMisdeeds() []misdeed {
	var out []misdeed
	add := func(m misdeed) { out = append(out, m) }
	for _, code := range codes() {
		at := func(name, method string, w want, before func(w *wire, s uint32)) {
			add(misdeed{name: fmt.Sprintf("RST_STREAM %v %s", code, name), method: method, want: w, answer: func(w *wire, s uint32) {
				before(w, s)
				w.reset(s, code)
			}})
		}
		nothing := func(*wire, uint32) {}
		tries := 1
		if code == http2.ErrCodeRefusedStream {
			tries = 3 // RFC 9113 §8.7: nothing was done
		}
		at("of a POST", "POST", want{client: "503 UR", conn: "kept", tries: tries}, nothing)
		at("of a GET", "GET", want{client: "503 UR", conn: "kept", tries: 3}, nothing)
		at("behind the head", "GET", want{client: "200 UR cut", conn: "kept", tries: 1}, head)
		at("behind some DATA", "POST", want{client: "200 UR cut", conn: "kept", tries: 1}, func(w *wire, s uint32) { head(w, s); w.data(s, 0, "fi") })
		at("behind early hints", "GET", want{client: "503 UR", conn: "kept", tries: 1}, func(w *wire, s uint32) { w.headers(s, 0, ":status", "103") })
	}
	closed := func(client string, tries int) want { return want{client: client, conn: "closed", tries: tries} }
	for _, method := range []string{"GET", "POST"} {
		again := map[string]int{"GET": 3, "POST": 1}[method]
		add(misdeed{name: "close at a " + method, method: method, want: closed("503 UC", again), answer: func(w *wire, _ uint32) { w.Close() }})
		add(misdeed{name: "GOAWAY that leaves a " + method + " out", method: method, want: closed("503 UC", 3), answer: func(w *wire, s uint32) { w.goAway(s-1, http2.ErrCodeNo) }})
		add(misdeed{name: "GOAWAY with an error that leaves a " + method + " out", method: method, want: closed("503 UC", 3), answer: func(w *wire, s uint32) { w.goAway(s-1, http2.ErrCodeInternal) }})
		add(misdeed{name: "GOAWAY and close at a " + method, method: method, want: closed("503 UC", again), answer: func(w *wire, s uint32) { w.goAway(s, http2.ErrCodeInternal); w.Close() }})
	}
	for _, code := range []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeInternal, http2.ErrCodeEnhanceYourCalm} {
		add(misdeed{name: fmt.Sprintf("GOAWAY %v before the head", code), want: closed("200 - fine", 1), answer: func(w *wire, s uint32) { w.goAway(s, code); fine(w, s) }})
		add(misdeed{name: fmt.Sprintf("GOAWAY %v before the body", code), want: closed("200 - fine", 1), answer: func(w *wire, s uint32) {
			head(w, s)
			w.goAway(s, code)
			w.data(s, endStream, "fine")
		}})
		add(misdeed{name: fmt.Sprintf("GOAWAY %v behind the end", code), want: closed("200 - fine", 1), answer: func(w *wire, s uint32) { fine(w, s); w.goAway(s, code) }})
	}
	add(misdeed{name: "notice of GOAWAY, then the real one", want: closed("200 - fine", 1), answer: func(w *wire, s uint32) {
		w.goAway(1<<31-1, http2.ErrCodeNo)
		w.goAway(s, http2.ErrCodeNo)
		fine(w, s)
	}})
	add(misdeed{name: "GOAWAY twice, the second says less", method: "POST", want: closed("503 UC", 3), answer: func(w *wire, s uint32) {
		w.goAway(s, http2.ErrCodeNo)
		w.goAway(s-1, http2.ErrCodeNo)
	}})
	add(misdeed{name: "close behind the end", want: closed("200 - fine", 1), answer: func(w *wire, s uint32) { fine(w, s); w.Close() }})
	add(misdeed{name: "broken frame behind the end", want: want{client: "200 - fine", conn: "GOAWAY PROTOCOL_ERROR", tries: 1}, answer: func(w *wire, s uint32) {
		w.raw(slices.Concat(frame(kindHeaders, endHeaders, s, []byte{0x88}), frame(kindData, endStream, s, []byte("fine")), frame(kindPing, 0, s, make([]byte, 8))))
	}})
	add(misdeed{name: "close behind the head", want: closed("200 UC cut", 1), answer: func(w *wire, s uint32) { head(w, s); w.Close() }})
	add(misdeed{name: "close within a frame", want: closed("200 UC cut", 1), answer: func(w *wire, s uint32) {
		head(w, s)
		w.raw(frame(kindData, endStream, s, []byte("fine"))[:11])
		w.Close()
	}})
	add(misdeed{name: "close within a header block", want: closed("503 UC", 3), answer: func(w *wire, s uint32) { w.frame(kindHeaders, 0, s, []byte{0x88}); w.Close() }})
	add(misdeed{name: "close within a frame's head", want: closed("503 UC", 3), answer: func(w *wire, _ uint32) { w.raw([]byte{0, 0, 9}); w.Close() }})
	brief := proxyrun.Object{"timeout": "0.3s"}
	add(misdeed{name: "no answer ever", route: brief, want: want{client: "504 UT", reset: "CANCEL", conn: "kept", tries: 1}, answer: func(*wire, uint32) {}})
	add(misdeed{name: "a head and nothing more", route: brief, want: want{client: "200 UT cut", reset: "CANCEL", conn: "kept", tries: 1}, answer: head})
	add(misdeed{name: "early hints and nothing more", route: brief, want: want{client: "504 UT", reset: "CANCEL", conn: "kept", tries: 1},
		answer: func(w *wire, s uint32) { w.headers(s, 0, ":status", "103") }})
	return out
}

// flowMisdeeds change the windows under a request's body. The servers check
// that no byte comes that they did not allow.
func flowMisdeeds() []misdeed {
	odd := want{client: "200 - fine", conn: "kept", tries: 1}
	body := strings.Repeat("0123456789", 10)
	// takes reads DATA until n bytes have come in all, and then answers, or says what was wrong.
	takes := func(w *wire, s uint32, got *int, n, frameMax int) bool {
		for *got < n {
			f, err := w.next()
			if err != nil {
				return false
			}
			d, ok := f.(*http2.DataFrame)
			if !ok || d.StreamID != s {
				continue
			}
			if *got += len(d.Data()); *got > n || len(d.Data()) > frameMax {
				w.headers(s, 0, ":status", "500")
				w.data(s, endStream, fmt.Sprintf("%d bytes of %d, %d in a frame", *got, n, len(d.Data())))
				return false
			}
		}
		return true
	}
	stalled := want{client: "504 UT", reset: "CANCEL", conn: "kept", tries: 1}
	return []misdeed{
		{name: "window of nothing, then in drops", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 0) }, want: odd, answer: func(w *wire, s uint32) {
			got := 0
			for got < len(body) {
				w.window(s, 7)
				if !takes(w, s, &got, min(got+7, len(body)), 7) {
					return
				}
			}
			fine(w, s)
		}},
		{name: "window made negative", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 30) }, want: odd, answer: func(w *wire, s uint32) {
			got := 0
			if !takes(w, s, &got, 30, 30) {
				return
			}
			w.settings(settingWindow, 10) // -20
			w.window(s, 25)               // 5
			if !takes(w, s, &got, 35, 5) {
				return
			}
			w.settings(settingWindow, 0)  // -10
			w.settings(settingWindow, 10) // 0
			w.window(s, 65)
			if takes(w, s, &got, 100, 65) {
				fine(w, s)
			}
		}},
		{name: "window by a setting", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 0) }, want: odd, answer: func(w *wire, s uint32) {
			got := 0
			w.settings(settingWindow, 50)
			if !takes(w, s, &got, 50, 50) {
				return
			}
			w.settings(settingWindow, 60)
			if !takes(w, s, &got, 60, 10) {
				return
			}
			w.settings(settingWindow, 100)
			if takes(w, s, &got, 100, 40) {
				fine(w, s)
			}
		}},
		{name: "window that never opens", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 0) }, route: proxyrun.Object{"timeout": "0.3s"}, want: stalled, answer: func(*wire, uint32) {}},
		{name: "answer without any window", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 0) },
			want: want{client: "200 - fine", reset: "CANCEL", conn: "kept", tries: 1}, answer: fine},
		{name: "answer and RST_STREAM NO_ERROR without any window", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 0) },
			// Our CANCEL and its RST_STREAM may cross.
			want:   want{client: "200 - fine", reset: any, conn: "kept", tries: 1},
			answer: func(w *wire, s uint32) { fine(w, s); w.reset(s, http2.ErrCodeNo) }},
		{name: "largest frame changes within a body", method: "POST", body: strings.Repeat("x", 60000), hello: func(w *wire) { w.settings(settingFrame, 1<<20, settingWindow, 20000) }, want: odd, answer: func(w *wire, s uint32) {
			got := 0
			if !takes(w, s, &got, 20000, 20000) {
				return
			}
			w.settings(settingFrame, 16384)
			w.window(s, 40000)
			if takes(w, s, &got, 60000, 16384) {
				fine(w, s)
			}
		}},
		{name: "windows grown by a setting beyond 2^31-1", method: "POST", body: body, hello: func(w *wire) { w.settings(settingWindow, 10) }, want: want{client: "502 UPE", conn: "GOAWAY FLOW_CONTROL_ERROR", tries: 1}, answer: func(w *wire, s uint32) {
			got := 0
			if !takes(w, s, &got, 10, 10) {
				return
			}
			w.window(s, 1<<30)
			w.settings(settingWindow, 1<<31-1)
		}},
	}
}

// floodMisdeeds keep the proxy busy: the connection ends.
func floodMisdeeds() []misdeed {
	calm := func(client string) want { return want{client: client, conn: "GOAWAY ENHANCE_YOUR_CALM", tries: 1} }
	flood := func(name string, w want, f []byte, n int) misdeed {
		return misdeed{name: name, want: w, answer: func(w *wire, s uint32) {
			if name == "flood of DATA without content" {
				head(w, s)
			}
			part := make([]byte, 0, 100*len(f))
			for range 100 {
				part = append(part, f...)
			}
			binaryStream(part, len(f), s)
			for i := 0; i < n && w.failed() == nil; i += 100 {
				w.raw(part)
			}
		}}
	}
	return []misdeed{
		flood("flood of PING", calm("502 UPE"), frame(kindPing, 0, 0, make([]byte, 8)), 10000),
		flood("flood of SETTINGS", calm("502 UPE"), frame(kindSettings, 0, 0, nil), 10000),
		flood("flood of acknowledgements", calm("502 UPE"), frame(kindSettings, ack, 0, nil), 10000),
		flood("flood of DATA without content", calm("200 UPE cut"), frame(kindData, 0, 0xffff, nil), 10000),
		flood("flood of PRIORITY", calm("502 UPE"), frame(kindPriority, 0, 0xffff, []byte{0, 0, 0, 9, 1}), 10000),
		flood("flood of unknown frames", calm("502 UPE"), frame(0x99, 0, 0xffff, nil), 10000),
		flood("flood of WINDOW_UPDATE", calm("502 UPE"), frame(kindWindow, 0, 0xffff, []byte{0, 0, 0, 1}), 100000),
		flood("flood of GOAWAY", calm("502 UPE"), frame(kindGoAway, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}), 10000),
	}
}

// binaryStream puts a stream's id where frames of one length have 0xffff.
func binaryStream(frames []byte, length int, stream uint32) {
	for at := 0; at < len(frames); at += length {
		if binary.BigEndian.Uint32(frames[at+5:]) == 0xffff {
			binary.BigEndian.PutUint32(frames[at+5:], stream)
		}
	}
}
