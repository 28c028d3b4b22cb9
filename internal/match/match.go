// Package match is the one implementation of the comparisons that configuration can ask for: strings, headers, addresses, host names, path templates.
//
// In come patterns, once, through constructors that refuse what can't be run; out come values that are immutable, safe for any number of
// goroutines, and match bytes without allocating. The control plane validates with the constructors that the proxy uses, so nothing is accepted that
// can't be enforced. Semantics are Envoy's (type.matcher.v3, route.v3.HeaderMatcher, virtual host domains) and Istio's for host names.
//
// Cost of a match: a comparison of bytes; a regular expression costs Go's linear-time engine, with pooled state. Read this file first; header.go,
// cidr.go, host.go, hosttable.go and template.go stand on their own.
package match

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// Errors of the constructors, for callers that branch.
var (
	ErrEmpty      = errors.New("the pattern is empty")
	ErrRegex      = errors.New("not a regular expression of RE2")
	ErrRegexLimit = errors.New("the regular expression is too large")
	ErrCIDR       = errors.New("not an address or a range of addresses")
	ErrRange      = errors.New("the range is empty")
	ErrDomain     = errors.New("not a host pattern")
	ErrTaken      = errors.New("the host pattern is taken")
	ErrTemplate   = errors.New("not a path template")
)

// Case says whether letters of ASCII match in either case.
type Case uint8

// The cases.
const (
	CaseSensitive Case = iota
	CaseIgnored        // ASCII only, as in Envoy
)

type operator uint8

const (
	opAny operator = iota // also the zero String
	opExact
	opPrefix
	opSuffix
	opContains
	opRegex
)

// String matches a value. The zero String matches everything.
type String struct {
	op    operator
	fold  bool
	text  string // lower-case when fold
	bytes []byte // text again, for opContains
	regex *regexp.Regexp
}

// Any matches every value, also the empty one.
func Any() String { return String{} }

// Exact matches the text itself. Empty text matches the empty value.
func Exact(text string, c Case) String { return newString(opExact, text, c) }

// Prefix matches values that begin with the text, which must not be empty (type.matcher.v3.StringMatcher).
func Prefix(text string, c Case) (String, error) { return nonEmpty(opPrefix, text, c) }

// Suffix matches values that end with the text, which must not be empty.
func Suffix(text string, c Case) (String, error) { return nonEmpty(opSuffix, text, c) }

// Contains matches values that have the text in them, which must not be empty.
func Contains(text string, c Case) (String, error) { return nonEmpty(opContains, text, c) }

// Regex matches values that the expression describes from end to end, as Envoy does (RE2::FullMatch). The syntax is RE2's, which is Go's.
func Regex(expression string) (String, error) {
	re, err := Compile(expression)
	if err != nil {
		return String{}, err
	}
	return String{op: opRegex, text: expression, regex: re}, nil
}

// Compile compiles an expression for a match of the whole value, within limit.RegexBytesMax and limit.RegexProgramMax. For
// rewrites see CompileSearch.
func Compile(expression string) (*regexp.Regexp, error) {
	if _, err := CompileSearch(expression); err != nil { // first alone: ")|(" must not become valid by what we put around it
		return nil, err
	}
	return compile(`\A(?:` + expression + `)\z`)
}

// CompileSearch compiles an expression that may match a part of the value, within the same limits: for rewrites.
func CompileSearch(expression string) (*regexp.Regexp, error) {
	if len(expression) > limit.RegexBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrRegexLimit, len(expression), limit.RegexBytesMax)
	}
	return compile(expression)
}

func compile(expression string) (*regexp.Regexp, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegex, err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegex, err)
	}
	if n := len(program.Inst); n > limit.RegexProgramMax {
		return nil, fmt.Errorf("%w: %d instructions, the limit is %d", ErrRegexLimit, n, limit.RegexProgramMax)
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegex, err)
	}
	return re, nil
}

func nonEmpty(op operator, text string, c Case) (String, error) {
	if text == "" {
		return String{}, ErrEmpty
	}
	return newString(op, text, c), nil
}

func newString(op operator, text string, c Case) String {
	s := String{op: op, text: text, fold: c == CaseIgnored}
	if s.fold {
		s.text = string(appendLower(nil, text))
	}
	if op == opContains {
		s.bytes = []byte(s.text)
	}
	return s
}

// Match reports whether the value matches. It does not allocate.
func (s *String) Match(value []byte) bool {
	switch s.op {
	case opExact:
		return len(value) == len(s.text) && s.same(value)
	case opPrefix:
		return len(value) >= len(s.text) && s.same(value[:len(s.text)])
	case opSuffix:
		return len(value) >= len(s.text) && s.same(value[len(value)-len(s.text):])
	case opContains:
		return s.within(value)
	case opRegex:
		return s.regex.Match(value)
	case opAny:
	}
	return true
}

// MatchString is Match for a value that is a string already. It does not allocate.
func (s *String) MatchString(value string) bool {
	switch s.op {
	case opExact:
		return len(value) == len(s.text) && sameString(s.text, value, s.fold)
	case opPrefix:
		return len(value) >= len(s.text) && sameString(s.text, value[:len(s.text)], s.fold)
	case opSuffix:
		return len(value) >= len(s.text) && sameString(s.text, value[len(value)-len(s.text):], s.fold)
	case opContains:
		if !s.fold {
			return strings.Contains(value, s.text)
		}
		for i := 0; i+len(s.text) <= len(value); i++ {
			if sameString(s.text, value[i:i+len(s.text)], true) {
				return true
			}
		}
		return false
	case opRegex:
		return s.regex.MatchString(value)
	case opAny:
	}
	return true
}

// same compares bytes of the text's length.
func (s *String) same(value []byte) bool {
	if !s.fold {
		return string(value) == s.text
	}
	for i, c := range value {
		if lower(c) != s.text[i] {
			return false
		}
	}
	return true
}

func sameString(text, value string, fold bool) bool {
	if !fold {
		return value == text
	}
	for i := range len(value) {
		if lower(value[i]) != text[i] {
			return false
		}
	}
	return true
}

func (s *String) within(value []byte) bool {
	if !s.fold {
		return bytes.Contains(value, s.bytes)
	}
	for i := 0; i+len(s.text) <= len(value); i++ {
		if s.same(value[i : i+len(s.text)]) {
			return true
		}
	}
	return false
}

// String describes the pattern, for traces: prefix "/api" (any case).
func (s *String) String() string {
	name := [...]string{"any", "exact", "prefix", "suffix", "contains", "regex"}[s.op]
	if s.op == opAny {
		return name
	}
	name = fmt.Sprintf("%s %q", name, s.text)
	if s.fold {
		name += " (any case)"
	}
	return name
}

// Literal is the text of an exact, case-sensitive pattern: such patterns can be looked up in a map.
func (s *String) Literal() (text string, ok bool) {
	return s.text, s.op == opExact && !s.fold
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		b = append(b, lower(s[i]))
	}
	return b
}
