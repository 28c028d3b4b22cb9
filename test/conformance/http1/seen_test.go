package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// seen is a message as a backend understood it.
type seen struct {
	method, target, host string
	fields               []string // "name: value", names in lower case
	body                 string
	trailers             []string
}

// String is the form in which tables say what a backend saw:
//
//	METHOD target host (field: value; field: value) chunked "body" {trailer: value}
//
// Fields are in the order of their names. What every request gets of the proxy
// is left out, and so are an empty part and the length that the body has.
func (s seen) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", s.method, s.target, s.host)
	writePart(&b, " (", slices.DeleteFunc(slices.Clone(s.fields), s.framed), ")")
	if slices.Contains(s.fields, "transfer-encoding: chunked") {
		b.WriteString(" chunked")
	}
	if len(s.body) > 80 {
		fmt.Fprintf(&b, " %q... %d bytes", s.body[:10], len(s.body))
	} else if s.body != "" {
		fmt.Fprintf(&b, " %q", s.body)
	}
	writePart(&b, " {", s.trailers, "}")
	return b.String()
}

// framed reports whether a field says what chunked and the body say.
func (s seen) framed(field string) bool {
	return field == "transfer-encoding: chunked" || s.body != "" && field == "content-length: "+strconv.Itoa(len(s.body))
}

func writePart(b *strings.Builder, open string, fields []string, end string) {
	fields = slices.DeleteFunc(slices.Clone(fields), added)
	if len(fields) == 0 {
		return
	}
	slices.SortStableFunc(fields, func(x, y string) int {
		nx, _, _ := strings.Cut(x, ":")
		ny, _, _ := strings.Cut(y, ":")
		return strings.Compare(nx, ny)
	})
	b.WriteString(open + strings.Join(fields, "; ") + end)
}

// added reports whether a field is what every request gets of the proxy.
func added(field string) bool {
	return field == "x-forwarded-proto: http" || requestID.MatchString(field)
}

var requestID = regexp.MustCompile(`^x-request-id: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

var errLoose = errors.New("not what a strict reader accepts")

// reader reads messages in the one form that a careful proxy writes; anything
// else is an error. It shares no code with the engine.
type reader struct{ *bufio.Reader }

// line reads up to CR LF; neither may stand alone.
func (r reader) line() (string, error) {
	s, err := r.ReadString('\n')
	if err != nil {
		return s, err
	}
	s, ok := strings.CutSuffix(s, "\r\n")
	if !ok || strings.ContainsAny(s, "\r\n\x00") {
		return "", fmt.Errorf("%w: line %q", errLoose, s)
	}
	return s, nil
}

var fieldLine = regexp.MustCompile("^([a-z0-9!#$%&'*+.^_`|~-]+): (|[^\\x00-\\x20\\x7f]|[^\\x00-\\x20\\x7f][^\\x00-\\x08\\x0a-\\x1f\\x7f]*[^\\x00-\\x20\\x7f])$")

// fields reads field lines and the empty one behind them.
func (r reader) fields() ([]string, error) {
	var out []string
	for {
		line, err := r.line()
		switch {
		case err != nil:
			return nil, noEOF(err)
		case line == "":
			return out, nil
		case !fieldLine.MatchString(line):
			return nil, fmt.Errorf("%w: field line %q", errLoose, line)
		}
		out = append(out, line)
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// framing tells how long the body is; closes: up to the end of the connection.
func framing(fields []string) (length int64, chunked, known bool, err error) {
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		switch name {
		case "content-length":
			if known {
				return 0, false, false, fmt.Errorf("%w: two framings in %q", errLoose, fields)
			}
			if length, err = strconv.ParseInt(value, 10, 63); err != nil || strconv.FormatInt(length, 10) != strings.TrimLeft(value, "0") && strings.Trim(value, "0") != "" {
				return 0, false, false, fmt.Errorf("%w: %q", errLoose, f)
			}
			known = true
		case "transfer-encoding":
			if known || value != "chunked" {
				return 0, false, false, fmt.Errorf("%w: %q in %q", errLoose, f, fields)
			}
			chunked, known = true, true
		}
	}
	return length, chunked, known, nil
}

// body reads a body by its framing, and the trailers behind it.
func (r reader) body(length int64, chunked bool) (string, []string, error) {
	if !chunked {
		b := make([]byte, length)
		_, err := io.ReadFull(r, b)
		return string(b), nil, noEOFIf(err, length > 0)
	}
	var body bytes.Buffer
	for {
		line, err := r.line()
		if err != nil {
			return body.String(), nil, noEOF(err)
		}
		size, err := strconv.ParseUint(line, 16, 62)
		if err != nil || strconv.FormatUint(size, 16) != line {
			return body.String(), nil, fmt.Errorf("%w: chunk size %q", errLoose, line)
		}
		if size == 0 {
			trailers, err := r.fields()
			return body.String(), trailers, err
		}
		if _, err := io.CopyN(&body, r, int64(size)); err != nil {
			return body.String(), nil, noEOF(err)
		}
		if end, err := r.line(); err != nil || end != "" {
			return body.String(), nil, fmt.Errorf("%w: %q after a chunk, %w", errLoose, end, noEOFIf(err, true))
		}
	}
}

func noEOFIf(err error, started bool) error {
	if started && err != nil {
		return noEOF(err)
	}
	return err
}

var requestLine = regexp.MustCompile(`^([!-~]+) ([!-~]+) HTTP/1\.1$`)

// request reads one message; io.EOF: there is none.
func (r reader) request() (seen, error) {
	line, err := r.line()
	if err != nil {
		if line != "" {
			err = noEOF(err)
		}
		return seen{}, err
	}
	parts := requestLine.FindStringSubmatch(line)
	if parts == nil {
		return seen{}, fmt.Errorf("%w: request line %q", errLoose, line)
	}
	m := seen{method: parts[1], target: parts[2]}
	fields, err := r.fields()
	if err != nil {
		return seen{}, err
	}
	for _, f := range fields {
		if host, ok := strings.CutPrefix(f, "host: "); ok {
			m.host += host
			continue
		}
		m.fields = append(m.fields, f)
	}
	length, chunked, _, err := framing(m.fields)
	if err != nil {
		return m, err
	}
	m.body, m.trailers, err = r.body(length, chunked)
	return m, err
}

// answer is a response as a client understood it.
type answer struct {
	status   int
	fields   []string
	body     string
	trailers []string
	whole    bool // false: it broke off
}

func (a answer) field(name string) string {
	var values []string
	for _, f := range a.fields {
		if v, ok := strings.CutPrefix(f, name+": "); ok {
			values = append(values, v)
		}
	}
	return strings.Join(values, "|")
}

var statusLine = regexp.MustCompile(`^HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*$`)

// response reads the answer to a request with this method.
func (r reader) response(method string) (answer, error) {
	line, err := r.line()
	if err != nil {
		if line != "" {
			err = noEOF(err)
		}
		return answer{}, err
	}
	parts := statusLine.FindStringSubmatch(line)
	if parts == nil {
		return answer{}, fmt.Errorf("%w: status line %q", errLoose, line)
	}
	a := answer{}
	a.status, _ = strconv.Atoi(parts[1])
	if a.fields, err = r.fields(); err != nil {
		return a, err
	}
	length, chunked, known, err := framing(a.fields)
	if err != nil {
		return a, err
	}
	bodiless := a.status < 200 || a.status == 204 || a.status == 304
	if (a.status < 200 || a.status == 204) && known {
		return a, fmt.Errorf("%w: %d with a length (RFC 9110 §8.6, RFC 9112 §6.1)", errLoose, a.status)
	}
	switch {
	case bodiless || method == "HEAD":
	case known:
		a.body, a.trailers, err = r.body(length, chunked)
	default:
		var all []byte
		all, err = io.ReadAll(r)
		a.body = string(all)
	}
	a.whole = err == nil
	return a, err
}
