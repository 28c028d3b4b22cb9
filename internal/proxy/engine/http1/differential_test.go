package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/testkit/rawhttp"
)

// next is a request behind another.
const next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

// parsed is what a parser makes of bytes: a message with its body and what is
// left behind it, a refusal, or more to wait for.
type parsed struct {
	more    bool
	refusal error
	// start is a message's start: method, target and host, or status.
	start string
	body  string
	rest  int
}

func (p parsed) accepted() bool { return !p.more && p.refusal == nil }

func (p parsed) String() string {
	switch {
	case p.more:
		return "wants more"
	case p.refusal != nil:
		return "refuses: " + p.refusal.Error()
	}
	return fmt.Sprintf("%s %q, %d bytes left", p.start, p.body, p.rest)
}

func failed(err error) parsed {
	if errors.Is(err, http1.ErrMore) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return parsed{more: true}
	}
	return parsed{refusal: err}
}

// ourRequest is the engine's codec.
func ourRequest(raw []byte) parsed {
	raw = bytes.Clone(raw) // names are lowered in place
	var scan http1.Scan
	var h message.Head
	var f http1.Framing
	end, err := scan.End(raw, http1.Limits{})
	if err == nil {
		err = http1.ParseRequest(raw[:end], http1.Limits{}, &h, &f)
	}
	if err != nil {
		return failed(err)
	}
	p := parsed{start: fmt.Sprintf("%s %s %s", h.Method, h.Path, h.Authority)}
	var b http1.Body
	b.StartRequest(&f)
	return p.withBody(&b, raw[end:])
}

func ourResponse(raw []byte, method string) parsed {
	raw = bytes.Clone(raw)
	var scan http1.Scan
	var h message.Head
	var f http1.Framing
	end, err := scan.End(raw, http1.Limits{})
	if err == nil {
		err = http1.ParseResponse(raw[:end], http1.Limits{}, &h, &f)
	}
	if err != nil {
		return failed(err)
	}
	p := parsed{start: fmt.Sprint(h.Status)}
	var b http1.Body
	b.StartResponse(&h, &f, []byte(method))
	return p.withBody(&b, raw[end:])
}

func (p parsed) withBody(b *http1.Body, rest []byte) parsed {
	for len(rest) > 0 && !b.Done() {
		data, n, err := b.Next(rest)
		if err != nil {
			return failed(err)
		}
		p.body += string(data)
		rest = rest[n:]
	}
	if !b.Done() && !b.Close() {
		return parsed{more: true}
	}
	var trailers message.Head
	if err := b.Trailers(http1.Limits{}, &trailers); err != nil {
		return failed(err)
	}
	p.rest = len(rest)
	return p
}

// theirRequest is net/http's parser.
func theirRequest(raw []byte) parsed {
	in := bytes.NewReader(raw)
	r := bufio.NewReader(in)
	req, err := http.ReadRequest(r)
	if err != nil {
		return failed(err)
	}
	target := req.RequestURI
	switch {
	case req.Method == http.MethodConnect && !strings.HasPrefix(target, "/"):
		target = "" // the authority is the host
	case !strings.HasPrefix(target, "/") && target != "*":
		target = req.URL.RequestURI()
		if req.Method == http.MethodOptions && req.URL.Path == "" && req.URL.RawQuery == "" && !req.URL.ForceQuery {
			target = "*" // RFC 9112 §3.2.4
		}
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return failed(err)
	}
	return parsed{start: fmt.Sprintf("%s %s %s", req.Method, target, req.Host), body: string(body), rest: r.Buffered() + in.Len()}
}

func theirResponse(raw []byte, method string) parsed {
	in := bytes.NewReader(raw)
	r := bufio.NewReader(in)
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return failed(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return failed(err)
	}
	return parsed{start: fmt.Sprint(res.StatusCode), body: string(body), rest: r.Buffered() + in.Len()}
}

// strictness says why we refuse what net/http takes, by the refusal.
func strictness() map[error]string {
	return map[error]string{
		http1.ErrBareLF:      "a lone LF ends lines for some and not for others",
		http1.ErrValue:       "a control in a value may end it, or the line, for others",
		http1.ErrFold:        "RFC 9112 §5.2 lets a server refuse; some read a new field",
		http1.ErrName:        "whitespace before a colon must be refused (RFC 9112 §5.1)",
		http1.ErrLine:        "one space separates, and nothing is a line's part but its words",
		http1.ErrMethod:      "a method is a token",
		http1.ErrMethodLong:  "a bound",
		http1.ErrTarget:      "only the characters of URIs, and no fragments (RFC 9112 §3.2)",
		http1.ErrTargetLong:  "a bound",
		http1.ErrVersion:     "the version's grammar",
		http1.ErrVersionNew:  "only 1.0 and 1.1 are spoken here",
		http1.ErrHeadLarge:   "a bound",
		http1.ErrFieldCount:  "a bound",
		http1.ErrHostMissing: "must be refused (RFC 9112 §3.2); net/http's server does so later",
		http1.ErrHostTwice:   "must be refused (RFC 9112 §3.2); net/http's server does so later",
		http1.ErrHost:        "must be refused (RFC 9112 §3.2); net/http's server does so later",
		http1.ErrLength:      "digits only: other numbers are read differently",
		http1.ErrLengthTwice: "equal ones may be refused too (RFC 9112 §6.3)",
		http1.ErrBothLengths: "ought to be handled as an error (RFC 9112 §6.3)",
		http1.ErrCoding:      "must be refused (RFC 9112 §6.3)",
		http1.ErrCodingOther: "not supported",
		http1.ErrCodingOld:   "faulty framing (RFC 9112 §6.1)",
		http1.ErrCodingTwice: "lists over lines are read differently",
		http1.ErrNominated:   "fields that frame, route or authenticate are not of one hop",
		http1.ErrExpect:      "may be answered 417 (RFC 9110 §10.1.1); net/http's server does so later",
		http1.ErrUpgradeBody: "where the body ends and the other protocol begins",
		http1.ErrChunk:       "only the grammar of RFC 9112 §7.1",
		http1.ErrChunkLong:   "a bound",
		http1.ErrTrailer:     "must not be merged (RFC 9110 §6.5.1)",
		http1.ErrStatus:      "three digits, 100 to 599 (RFC 9110 §15)",
	}
}

// looseness says why we take what net/http refuses, by a part of its error.
func looseness() map[string]string {
	return map[string]string{
		`malformed HTTP request ""`: "an empty line before a request is skipped (RFC 9112 §2.2)",
		"invalid URL escape":        "a lone % is left to the application, as in Envoy",
	}
}

func compare(t *testing.T, raw []byte, ours, theirs parsed) {
	t.Helper()
	switch {
	case ours.accepted() && theirs.accepted():
		if ours != theirs {
			t.Errorf("%q\nours:   %v\ntheirs: %v", raw, ours, theirs)
		}
	case ours.accepted() && theirs.more:
		t.Errorf("%q\nours:   %v\ntheirs: %v: the message's end is not where we see it", raw, ours, theirs)
	case ours.accepted():
		for part := range looseness() {
			if strings.Contains(theirs.refusal.Error(), part) {
				return
			}
		}
		t.Errorf("%q\nours:   %v\ntheirs: %v: nobody has said why we take it", raw, ours, theirs)
	case ours.more && theirs.accepted():
		t.Errorf("%q\nours:   %v\ntheirs: %v: the message's end is not where we see it", raw, ours, theirs)
	case ours.refusal != nil && theirs.accepted():
		var codec *http1.Error
		if !errors.As(ours.refusal, &codec) || strictness()[codec] == "" {
			t.Errorf("%q\nours:   %v\ntheirs: %v: nobody has said why we refuse it", raw, ours, theirs)
		}
	}
}

// FuzzRequestBesideNetHTTP holds the codec to net/http's parser: both see the
// same message end at the same byte, or the difference has a reason.
func FuzzRequestBesideNetHTTP(f *testing.F) {
	for _, cases := range rawhttp.Requests() {
		for i := range cases {
			if len(cases[i].Raw) < 4096 {
				f.Add([]byte(cases[i].Raw + next))
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compare(t, raw, ourRequest(raw), theirRequest(raw)) })
}

// FuzzResponseBesideNetHTTP is the same for answers to GET and to HEAD.
func FuzzResponseBesideNetHTTP(f *testing.F) {
	for _, cases := range rawhttp.Responses() {
		for i := range cases {
			if len(cases[i].Raw) < 4096 {
				f.Add([]byte(cases[i].Raw))
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			compare(t, raw, ourResponse(raw, method), theirResponse(raw, method))
		}
	})
}
