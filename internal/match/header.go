package match

import (
	"fmt"
	"strconv"
)

// HeaderKind is what a header is compared by.
type HeaderKind uint8

// The kinds.
const (
	HeaderValue   HeaderKind = iota // Value matches
	HeaderPresent                   // the header is there
	HeaderAbsent                    // the header is not there
	HeaderRange                     // the value is a whole number within Range
)

// Range is the half-open range [Start, End) of whole numbers.
type Range struct{ Start, End int64 }

// NewRange refuses ranges that nothing is in.
func NewRange(start, end int64) (Range, error) {
	if start >= end {
		return Range{}, fmt.Errorf("%w: [%d, %d)", ErrRange, start, end)
	}
	return Range{Start: start, End: end}, nil
}

// Header matches one request header (route.v3.HeaderMatcher). Several headers of one name are one value, joined by commas, which
// the caller does.
type Header struct {
	Name                string // lower-case
	Kind                HeaderKind
	Value               String // of HeaderValue
	Range               Range  // of HeaderRange
	Invert              bool
	TreatMissingAsEmpty bool // a missing header is compared as the empty value
}

// Match reports whether the header matches. A missing header does not match, inverted or not, unless it is asked for by presence or is
// treated as empty (Envoy's documentation of treat_missing_as_empty). It does not allocate.
func (h *Header) Match(value []byte, present bool) bool {
	switch h.Kind {
	case HeaderPresent:
		return present != h.Invert
	case HeaderAbsent:
		return present == h.Invert
	case HeaderValue, HeaderRange:
	}
	if !present {
		if !h.TreatMissingAsEmpty {
			return false
		}
		value = nil
	}
	if h.Kind == HeaderRange {
		return h.Range.match(value) != h.Invert
	}
	return h.Value.Match(value) != h.Invert
}

// match parses a decimal number with an optional sign; what is no number is in no range.
func (r Range) match(value []byte) bool {
	const digitsMax = 20
	if len(value) == 0 || len(value) > digitsMax {
		return false
	}
	n, err := strconv.ParseInt(string(value), 10, 64) // does not escape on success, so it does not allocate
	return err == nil && n >= r.Start && n < r.End
}

// String describes the pattern, for traces: not end-user exact "jason".
func (h *Header) String() string {
	s := h.Name + " "
	switch h.Kind {
	case HeaderPresent:
		s += "present"
	case HeaderAbsent:
		s += "absent"
	case HeaderRange:
		s += fmt.Sprintf("in [%d, %d)", h.Range.Start, h.Range.End)
	case HeaderValue:
		s += h.Value.String()
	}
	if h.TreatMissingAsEmpty {
		s += " (missing is empty)"
	}
	if h.Invert {
		s = "not " + s
	}
	return s
}
