// Package access writes access logs: Envoy's text format and JSON, from
// records of finished requests and connections.
//
// In come formats with Envoy's command operators, parsed once, and Records;
// out go lines to files. Logs owns the sinks; a sink holds lines in a bounded
// buffer and never makes traffic wait: what does not fit is dropped and
// counted. Operators that we can't fill in are refused when the format is
// parsed. Read format.go first, then operator.go and sink.go.
package access

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// ErrFormat is in the chain of every error about a format.
var ErrFormat = errors.New("access log format")

// DefaultFormat is Envoy's ("Access logging", default format string).
const DefaultFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

// Format is a parsed format.
type Format struct {
	parts  []part  // text
	fields []field // JSON
}

// part is a literal or an operator.
type part struct {
	literal string
	append  appendFunc
	arg     string
	alt     string // of REQ and RESP: the header to take when arg is absent
	max     int    // bytes; 0: all
}

type field struct {
	key   string // quoted, with its colon
	parts []part
	plain bool // one numeric operator: written without quotes
}

// Parse reads a text format; empty is DefaultFormat.
func Parse(format string) (*Format, error) {
	if format == "" {
		format = DefaultFormat
	}
	parts, err := parse(format)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts}, nil
}

// ParseJSON reads a JSON format.
func ParseJSON(fields []listener.JSONField) (*Format, error) {
	f := &Format{}
	var errs []error
	for _, in := range fields {
		parts, err := parse(in.Format)
		if err != nil {
			errs = append(errs, fmt.Errorf("field %q: %w", in.Key, err))
			continue
		}
		plain := len(parts) == 1 && numeric(in.Format)
		f.fields = append(f.fields, field{string(jsonString(in.Key)) + ":", parts, plain})
	}
	return f, errors.Join(errs...)
}

// numeric reports whether an operator alone gives a JSON number.
func numeric(format string) bool {
	switch format {
	case "%RESPONSE_CODE%", "%BYTES_RECEIVED%", "%BYTES_SENT%", "%DURATION%", "%REQUEST_DURATION%",
		"%RESPONSE_DURATION%", "%RESPONSE_TX_DURATION%", "%CONNECTION_ID%", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%":
		return true
	}
	return false
}

func parse(format string) ([]part, error) {
	var parts []part
	var errs []error
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			parts = append(parts, part{literal: format})
			break
		}
		if i > 0 {
			parts = append(parts, part{literal: format[:i]})
		}
		format = format[i+1:]
		if strings.HasPrefix(format, "%") {
			parts = append(parts, part{literal: "%"})
			format = format[1:]
			continue
		}
		end := operatorEnd(format)
		if end < 0 {
			errs = append(errs, fmt.Errorf("%w: %q does not end in %%", ErrFormat, "%"+format))
			break
		}
		p, err := parseOperator(format[:end])
		if err != nil {
			errs = append(errs, err)
		}
		parts = append(parts, p)
		format = format[end+1:]
	}
	return parts, errors.Join(errs...)
}

// operatorEnd finds the closing percent sign; one in parentheses belongs to
// the argument (a time format).
func operatorEnd(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case '%':
			if depth <= 0 {
				return i
			}
		}
	}
	return -1
}

// parseOperator reads NAME, NAME(arg), NAME(arg?alt) and NAME(arg):max.
func parseOperator(s string) (part, error) {
	name, arg, max := s, "", ""
	if i := strings.IndexByte(s, '('); i >= 0 {
		end := strings.LastIndexByte(s, ')')
		if end < i {
			return part{}, fmt.Errorf("%w: %%%s%% lacks a parenthesis", ErrFormat, s)
		}
		name, arg = s[:i], s[i+1:end]
		if rest := s[end+1:]; rest != "" {
			var ok bool
			if max, ok = strings.CutPrefix(rest, ":"); !ok {
				return part{}, fmt.Errorf("%w: %%%s%%: %q after the parenthesis", ErrFormat, s, rest)
			}
		}
	}
	p := part{arg: arg}
	if name == "REQ" || name == "RESP" || name == "TRAILER" {
		arg, alt, _ := strings.Cut(strings.ToLower(arg), "?")
		p.arg, p.alt = arg, alt
	}
	if p.append = operator(name); p.append == nil {
		return part{}, fmt.Errorf("%w: operator %%%s%% is not supported", ErrFormat, name)
	}
	if max != "" {
		n, err := strconv.Atoi(max)
		if err != nil || n <= 0 {
			return part{}, fmt.Errorf("%w: %%%s%%: length %q", ErrFormat, s, max)
		}
		p.max = n
	}
	return p, nil
}

// Append appends a line for a record; JSON lines end in a newline of ours.
func (f *Format) Append(dst []byte, r *Record) []byte {
	if f.fields == nil {
		for i := range f.parts {
			dst = f.parts[i].appendTo(dst, r, true)
		}
		return dst
	}
	dst = append(dst, '{')
	for i := range f.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = f.fields[i].appendTo(dst, r)
	}
	return append(dst, '}', '\n')
}

func (p *part) appendTo(dst []byte, r *Record, dash bool) []byte {
	if p.append == nil {
		return append(dst, p.literal...)
	}
	from := len(dst)
	dst = p.append(dst, r, p)
	if len(dst) == from && dash {
		return append(dst, '-')
	}
	if p.max > 0 && len(dst)-from > p.max {
		dst = dst[:from+p.max]
	}
	return dst
}

func (f *field) appendTo(dst []byte, r *Record) []byte {
	dst = append(dst, f.key...)
	start := len(dst)
	if !f.plain {
		dst = append(dst, '"')
	}
	from := len(dst)
	single := len(f.parts) == 1
	for i := range f.parts {
		dst = f.parts[i].appendTo(dst, r, !single)
	}
	switch {
	case single && len(dst) == from:
		return append(dst[:start], "null"...)
	case f.plain:
		return dst
	}
	return closeJSONString(dst, from)
}

// closeJSONString ends the string that begins at from, behind its quote. It is
// valid JSON whatever the bytes: control characters are escaped, and so are
// bytes that are not UTF-8.
func closeJSONString(dst []byte, from int) []byte {
	for _, c := range dst[from:] {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			escaped := jsonString(string(dst[from:]))
			return append(dst[:from-1], escaped...)
		}
	}
	return append(dst, '"')
}

// AppendOperator appends the value of one operator, for header templates;
// false: it is not supported.
func AppendOperator(dst []byte, name, arg string, r *Record) ([]byte, bool) {
	name = strings.Trim(name, "%")
	p, err := parseOperator(name)
	if arg != "" {
		p, err = parseOperator(name + "(" + arg + ")")
	}
	if err != nil {
		return dst, false
	}
	return p.appendTo(dst, r, false), true
}
