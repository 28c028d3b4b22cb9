package match

import (
	"fmt"
	"slices"
	"strings"
)

// HostTable finds the entry for a request's host by the precedence of Envoy's virtual hosts: exact, longest *.suffix, longest prefix.*, *.
// It is built by Add and then only read. The zero table is empty.
type HostTable[T any] struct {
	exact    map[string]T
	suffixes wildcards[T] // of *.suffix
	prefixes wildcards[T] // of prefix.*
	all      *T
}

// wildcards is one map for each length, longest first.
type wildcards[T any] struct {
	lengths []int
	byText  map[string]T
}

// Add enters a domain in the form of Envoy's VirtualHost.domains. It refuses duplicates and misplaced wildcards.
func (t *HostTable[T]) Add(domain string, value T) error {
	text := string(appendLower(nil, domain))
	switch stars := strings.Count(text, "*"); {
	case text == "":
		return fmt.Errorf("%w: empty", ErrDomain)
	case text == "*":
		if t.all != nil {
			return fmt.Errorf("%w: *", ErrTaken)
		}
		t.all = &value
		return nil
	case stars == 1 && text[0] == '*':
		return t.suffixes.add(text[1:], domain, value)
	case stars == 1 && text[len(text)-1] == '*':
		return t.prefixes.add(text[:len(text)-1], domain, value)
	case stars > 0:
		return fmt.Errorf("%w: %q has a wildcard that is neither first nor last", ErrDomain, domain)
	}
	if t.exact == nil {
		t.exact = map[string]T{}
	}
	if _, taken := t.exact[text]; taken {
		return fmt.Errorf("%w: %q", ErrTaken, domain)
	}
	t.exact[text] = value
	return nil
}

func (w *wildcards[T]) add(text, domain string, value T) error {
	if w.byText == nil {
		w.byText = map[string]T{}
	}
	if _, taken := w.byText[text]; taken {
		return fmt.Errorf("%w: %q", ErrTaken, domain)
	}
	w.byText[text] = value
	if i, found := slices.BinarySearchFunc(w.lengths, len(text), func(a, b int) int { return b - a }); !found {
		w.lengths = slices.Insert(w.lengths, i, len(text))
	}
	return nil
}

// Find looks the host up, in any case of letters. A wildcard stands for at least one character. It does not allocate.
func (t *HostTable[T]) Find(host []byte) (value T, found bool) {
	const hostBytesMax = 256 // longer ones are no DNS names; they allocate
	var buffer [hostBytesMax]byte
	name := buffer[:0]
	for _, c := range host {
		name = append(name, lower(c))
	}
	if v, ok := t.exact[string(name)]; ok {
		return v, true
	}
	for _, n := range t.suffixes.lengths {
		if n < len(name) {
			if v, ok := t.suffixes.byText[string(name[len(name)-n:])]; ok {
				return v, true
			}
		}
	}
	for _, n := range t.prefixes.lengths {
		if n < len(name) {
			if v, ok := t.prefixes.byText[string(name[:n])]; ok {
				return v, true
			}
		}
	}
	if t.all != nil {
		return *t.all, true
	}
	return value, false
}
