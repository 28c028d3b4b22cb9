// Package problem says what is wrong with a configuration, to the person who wrote it.
//
// In come findings of the decoder, the validator and the ledger; out goes Problem, with the object, the field path,
// the place in the file, the reason, the remedy and what happens to traffic meanwhile. The package owns the table of
// codes (codes.go) and the two presentations: JSON (the struct tags here) and text with an excerpt (render.go).
// It holds no state. Read this file first.
package problem

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Position is a place in a configuration file. Line and Column count from 1; zero means unknown. Column counts
// characters, not bytes.
type Position struct {
	File   string
	Line   int
	Column int
}

// Known reports whether the position names a line.
func (p Position) Known() bool { return p.Line > 0 }

// String is "file:line:column", shorter when parts are unknown.
func (p Position) String() string {
	if !p.Known() {
		return p.File
	}
	s := p.File + ":" + strconv.Itoa(p.Line)
	if p.Column > 0 {
		s += ":" + strconv.Itoa(p.Column)
	}
	return s
}

// Key names an object. Namespace is empty for cluster-scoped kinds. Kind is the plain kind, except for the Gateway
// of the Gateway API, which is "Gateway.gateway.networking.k8s.io" (as kubectl writes it), so that it does not collide with Istio's.
type Key struct {
	Kind      string
	Namespace string
	Name      string
}

// String is "Kind/namespace/name", or "Kind/name" without a namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + "/" + k.Name
	}
	return k.Kind + "/" + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace, name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Kind, o.Kind), strings.Compare(k.Namespace, o.Namespace), strings.Compare(k.Name, o.Name))
}

// Level says how bad a problem is.
type Level string

// The levels. Error: Istio would refuse the object too. Unsupported: Istio accepts it, and we do not enforce it yet.
// Both refuse the object, except in the mesh configuration, whose other fields hold.
const (
	Error       Level = "error"
	Unsupported Level = "unsupported"
	Warning     Level = "warning"
	Info        Level = "info"
)

// Problem is one thing to tell the author of a configuration.
type Problem struct {
	Code     string
	Level    Level
	Key      Key
	Path     string   // field path from the object's root, such as spec.http[0].timeout; empty: the object or the file
	Position Position // where Path, or its nearest written ancestor, stands
	Length   int      // how many columns are underlined; 0: one
	Message  string   // what is wrong, without the object's name
	Hint     string   // the remedy; may be empty
	Effect   string   // what happens to traffic meanwhile
}

// Refuses reports whether the problem refuses its object.
func (p Problem) Refuses() bool { return p.Level == Error || p.Level == Unsupported }

// String is one line, for logs and tests.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(string(p.Level) + "[" + p.Code + "]")
	if p.Position.File != "" || p.Position.Known() {
		b.WriteString(" " + p.Position.String())
	}
	if p.Key != (Key{}) {
		b.WriteString(" " + p.Key.String())
	}
	if p.Path != "" {
		b.WriteString(" " + p.Path)
	}
	b.WriteString(": " + p.Message)
	return b.String()
}

// Sort orders problems by file, place, path, code and message, so that equal input prints equally.
func Sort(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			strings.Compare(a.Position.File, b.Position.File),
			cmp.Compare(a.Position.Line, b.Position.Line),
			cmp.Compare(a.Position.Column, b.Position.Column),
			a.Key.Compare(b.Key),
			strings.Compare(a.Path, b.Path),
			strings.Compare(a.Code, b.Code),
			strings.Compare(a.Message, b.Message),
		)
	})
}
