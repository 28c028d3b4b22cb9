package grpc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// head is a head with these fields, "name: value" each.
func head(fields ...string) *message.Head {
	h := &message.Head{Status: 200}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		h.Append([]byte(name), []byte(value))
	}
	return h
}

func lines(h *message.Head) string {
	var out []string
	for _, f := range h.Fields() {
		if len(f.Name) > 0 {
			out = append(out, string(f.Name)+": "+string(f.Value))
		}
	}
	return strings.Join(out, "\n")
}

// begun is a Web of a request with this content type that accepts that one.
func begun(t testing.TB, ct, accept string) *Web {
	t.Helper()
	w := BeginWeb(head("content-type: "+ct, "accept: "+accept))
	if w == nil {
		t.Fatalf("%s is not translated", ct)
	}
	return w
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestHeadsOfRequestsBecomeThoseOfGRPC(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"binary", "content-type: application/grpc-web\ncontent-length: 7\nx-a: b", "content-type: application/grpc\nx-a: b\ngrpc-accept-encoding: identity"},
		{"binary, of protobuf", "content-type: application/grpc-web+proto", "content-type: application/grpc\ngrpc-accept-encoding: identity"},
		{"text", "content-type: application/grpc-web-text\naccept: application/grpc-web-text", "content-type: application/grpc\naccept: application/grpc-web-text\ngrpc-accept-encoding: identity"},
		{"encodings that the client takes stay", "content-type: application/grpc-web-text+proto\ngrpc-accept-encoding: gzip", "content-type: application/grpc\ngrpc-accept-encoding: gzip"},
		{"gRPC", "content-type: application/grpc\ncontent-length: 7", ""},
		{"JSON in gRPC-Web", "content-type: application/grpc-web+json", ""},
		{"a parameter", "content-type: application/grpc-web; charset=utf-8", ""},
		{"two content types", "content-type: application/grpc-web\ncontent-type: application/grpc-web", ""},
		{"no content type", "accept: application/grpc-web-text", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := head(strings.Split(c.in, "\n")...)
			want := c.want
			if want == "" {
				want = c.in
			}
			if w := BeginWeb(h); (w != nil) != (c.want != "") || lines(h) != want {
				t.Errorf("translated %v:\n%s", w != nil, lines(h))
			}
		})
	}
}

func TestTextOfRequestsIsDecodedWhereverReadsSplitIt(t *testing.T) {
	long := framed(strings.Repeat("\x00\xff~", 700))
	for _, c := range []struct {
		name, text, want string
		err              error
	}{
		{"nothing", "", "", nil},
		{"no padding", b64("abc"), "abc", nil},
		{"one padding", b64("ab"), "ab", nil},
		{"two paddings", b64("a"), "a", nil},
		{"a message", b64(long), long, nil},
		{"a message of many encodings", b64("a") + b64("bc") + b64("def") + b64("g"), "abcdefg", nil},
		{"cut within a group", b64("abc") + "QQ", "", ErrTextCut},
		{"cut within padding", "QQ=", "", ErrTextCut},
		{"one character", "Q", "", ErrTextCut},
		{"no base64", "****", "", ErrText},
		{"a line break", "QUJ\nD", "", ErrText},
		{"the alphabet for URLs", "-_-_", "", ErrText},
		{"padding alone", "====", "", ErrText},
		{"padding behind one character", "Q===", "", ErrText},
		{"padding that ends early", "QQ=Q", "", ErrText},
		{"three paddings", "QQ===", "", ErrText},
		{"bits that nobody reads", "QR==", "", ErrText},
		{"bits that nobody reads, of two bytes", "QUJ=", "", ErrText},
	} {
		for size := 1; size <= max(1, len(c.text)); size++ {
			w := begun(t, textProto, "")
			got, err := "", error(nil)
			inPieces(c.text, size, func(p []byte) {
				if err != nil {
					return
				}
				if p, err = w.Request(p); err == nil {
					got += string(p)
				}
			})
			if err == nil {
				err = w.EndRequest()
			}
			if !errors.Is(err, c.err) || err == nil && got != c.want {
				t.Fatalf("%s, %d characters a read: %.40q, %v; want %.40q, %v", c.name, size, got, err, c.want, c.err)
			}
		}
	}
}

func TestBinaryRequestsStayAsTheyAre(t *testing.T) {
	w := begun(t, webProtoType, textType)
	if got, err := w.Request([]byte("=?\x00")); err != nil || string(got) != "=?\x00" || w.EndRequest() != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHeadsOfResponsesBecomeThoseOfGRPCWeb(t *testing.T) {
	const ended = true
	for _, c := range []struct {
		name, accept, ct string
		status           int
		end, holds       bool
		want             string
	}{
		{"a call", "", "application/grpc", 200, !ended, false, webProtoType},
		{"a call, of protobuf", "*/*", "application/grpc+proto", 200, !ended, false, webProtoType},
		{"a call, asked for in text", textType, "application/grpc", 200, !ended, false, textProto},
		{"a call, asked for in text of protobuf", textProto, "application/grpc", 200, !ended, false, textProto},
		{"a server of gRPC-Web", "", "Application/gRPC-Web+proto ; charset=utf-8", 200, !ended, false, webProtoType},
		{"trailers only", "", "application/grpc", 200, ended, false, webProtoType},
		{"a page", "", "text/html", 200, !ended, true, webProtoType},
		{"a call that failed in HTTP", textType, "application/grpc", 503, !ended, true, textProto},
		{"a failure without a body", "", "text/plain", 503, ended, false, webProtoType},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := head("content-type: "+c.ct, "content-length: 5", "trailer: grpc-status", "x-a: b")
			h.Status = c.status
			if holds := begun(t, webType, c.accept).Head(h, c.end); holds != c.holds {
				t.Errorf("holds: %v", holds)
			}
			if want := "content-type: " + c.want + "\nx-a: b"; lines(h) != want || h.Status != c.status {
				t.Errorf("%d\n%s", h.Status, lines(h))
			}
		})
	}
}

func TestBodiesThatAreNotOfGRPCBecomeAMessage(t *testing.T) {
	w := begun(t, webType, "")
	w.Hold([]byte("of an attempt that was repeated"))
	w.Head(head("content-type: text/html"), false)
	h := head("grpc-status: 0", "x-a: b")
	w.Hold([]byte("no healthy "))
	w.Hold([]byte("upstream: 100 %\n"))
	w.EndHeld(h, Code(503))
	if want := "grpc-status: 14\nx-a: b\ngrpc-message: no healthy upstream: 100 %25%0A\ncontent-length: 0"; lines(h) != want {
		t.Errorf("%s", lines(h))
	}
}

func TestWhatIsHeldHasALimit(t *testing.T) {
	const most = limit.GRPCWebHeldBytesMax
	for _, n := range []int{most - 1, most, most + 1} {
		for _, size := range []int{1000, n} {
			w, h := begun(t, webType, ""), head()
			inPieces(strings.Repeat("x", n), size, w.Hold)
			w.EndHeld(h, 2)
			if got, _ := h.Get("grpc-message"); len(got) != min(n, most) {
				t.Errorf("%d of %d bytes in pieces of %d", len(got), n, size)
			}
		}
	}
}

// trailerFrame is the frame of trailers in gRPC-Web.
func trailerFrame(text string) string {
	return "\x80\x00\x00\x00" + string(rune(len(text))) + text
}

func TestTrailersEndTheBody(t *testing.T) {
	messages := framed("first", "", strings.Repeat("x", 100))
	trailers := head("grpc-status: 0", "removed: x", "grpc-message: ", "x-trailer: a, b")
	trailers.Remove("removed")
	frame := trailerFrame("grpc-status:0\r\ngrpc-message:\r\nx-trailer:a, b\r\n")
	texts := b64(messages[:10]) + b64(messages[10:15]) + b64(messages[15:])
	for _, c := range []struct {
		name, accept, body string
		trailers           *message.Head
		want               string
	}{
		{"binary", "", messages, trailers, messages + frame},
		{"binary without a message", "", "", trailers, frame},
		{"binary without trailers", "", messages, nil, messages},
		{"binary without any trailer", "", messages, head(), messages},
		{"text, a padding for each message", textType, messages, trailers, texts + b64(frame)},
		{"text without a message", textType, "", trailers, b64(frame)},
		{"text without trailers", textType, messages, nil, texts},
		{"text of a message that does not end", textType, messages[:18], trailers, b64(messages[:10]) + b64(messages[10:15]) + b64(messages[15:18]) + b64(frame)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for size := 1; size <= max(1, len(c.body)); size++ {
				w := begun(t, webType, c.accept)
				w.Head(head("content-type: application/grpc"), false)
				got := ""
				inPieces(c.body, size, func(p []byte) { got += string(w.Response(p, false, nil)) })
				got += string(w.Response(nil, true, c.trailers))
				if got != c.want {
					t.Fatalf("%d bytes a read: %q, want %q", size, got, c.want)
				}
				w = begun(t, webType, c.accept)
				if got = string(w.Response([]byte(c.body), true, c.trailers)); got != c.want {
					t.Fatalf("all at once: %q, want %q", got, c.want)
				}
			}
		})
	}
}

// A message that is there is with the client, in text too: nothing of it waits
// for the next one.
func TestNothingOfAMessageWaits(t *testing.T) {
	w := begun(t, webType, textType)
	for i := range 10 {
		m := framed(strings.Repeat("m", i))
		if got := string(w.Response([]byte(m), false, nil)); got != b64(m) {
			t.Errorf("message of %d bytes: %q, want %q", i, got, b64(m))
		}
	}
}

// Text that is accepted is what encoding/base64 accepts of its parts, however
// reads split it.
func FuzzTextIsWhatBase64Says(f *testing.F) {
	for _, seed := range []string{"", "QUJD", "QQ==QUI=QUJD", "QQ=", "====", "QR==", "QUJ\n", "QUJD*"} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = max(1, size%(len(text)+1))
		w := begun(t, textType, "")
		var got []byte
		var err error
		inPieces(text, size, func(p []byte) {
			if err == nil {
				p, err = w.Request(p)
				got = append(got, p...)
			}
		})
		if err == nil {
			err = w.EndRequest()
		}
		want, ok := reference(text)
		if ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Errorf("%q in pieces of %d: %q, %v; want %q, %v", text, size, got, err, want, ok)
		}
	})
}

// reference decodes text group by group with encoding/base64, which ignores
// line breaks where we don't.
func reference(text string) (out []byte, ok bool) {
	if len(text)%4 != 0 || strings.ContainsAny(text, "\r\n") {
		return nil, false
	}
	for ; len(text) > 0; text = text[4:] {
		group, err := base64.StdEncoding.Strict().DecodeString(text[:4])
		if err != nil {
			return nil, false
		}
		out = append(out, group...)
	}
	return out, true
}

// A response in text is the one in binary when it is decoded, however reads
// split it.
func FuzzTextOfResponsesIsTheirBytes(f *testing.F) {
	f.Add(framed("a", "", "long enough"), 3, "grpc-status", "0")
	f.Add("\x00\xff\xff\xff\xffcut", 1, "x", "")
	f.Fuzz(func(t *testing.T, body string, size int, name, value string) {
		size = max(1, size%(len(body)+1))
		trailers := &message.Head{}
		trailers.Append([]byte(name), []byte(value))
		answer := func(accept string) (out string) {
			w := begun(t, webType, accept)
			inPieces(body, size, func(p []byte) { out += string(w.Response(p, false, nil)) })
			return out + string(w.Response(nil, true, trailers))
		}
		binary, text := answer(""), answer(textType)
		decoded, ok := reference(text)
		if !ok || string(decoded) != binary {
			t.Errorf("%q is %q, want %q (%s)", text, decoded, binary, strconv.Quote(body))
		}
	})
}
