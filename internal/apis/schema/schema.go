// Package schema fills the API's own Go types from a document's tree and says, with place and path, what does not fit: unknown
// fields with the nearest known name, wrong types with an example, unknown words with those that exist.
//
// In comes a document.Node and an empty value: a protobuf message for Istio's kinds (proto.go, protojson's rules by reflection, with Istio's
// durations) or a Go struct for kinds of Kubernetes and the Gateway API (structs.go, by JSON tags). Out come problems, all of them, and the value
// filled as far as it fits. A message also yields the list of fields that are set, for the ledger (fields.go). Nothing is kept. Read this file first.
package schema

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// reporter collects problems.
type reporter struct {
	problems []problem.Problem
}

func (r *reporter) add(at document.Place, path, code, message, hint string) {
	r.problems = append(r.problems, problem.Problem{
		Code: code, Level: problem.Error, Path: path,
		Position: problem.Position{Line: at.Line, Column: at.Column}, Length: at.Length,
		Message: message, Hint: hint,
	})
}

// unknown reports a field that the type does not have. owner names the type, known its fields.
func (r *reporter) unknown(f *document.Field, path, owner string, known []string) {
	message := fmt.Sprintf("%s has no field %q", owner, f.Name)
	hint := ""
	if name := Nearest(f.Name, known); name != "" {
		hint = fmt.Sprintf("did you mean %q?", name)
	} else if len(known) > 0 {
		hint = "it has " + list(known)
	}
	r.add(f.KeyPlace(), document.Join(path, f.Name), problem.CodeUnknownField, message, hint)
}

// wrong reports a value of the wrong type. want says what is wanted, example shows it.
func (r *reporter) wrong(n *document.Node, path, want, example string) {
	found := n.Kind.String()
	if n.Kind < document.List && n.Kind != document.Null {
		found = fmt.Sprintf("%s %s", found, quote(n.Text))
	}
	hint := "write " + example
	if want == "text" && n.Plain && n.Kind != document.Null {
		hint = fmt.Sprintf("quote it: %q", short(n.Text))
	}
	r.add(n.Place(), path, problem.CodeType, fmt.Sprintf("wants %s, found %s", want, found), hint)
}

func quote(s string) string { return fmt.Sprintf("%q", short(s)) }

func short(s string) string {
	const runesMax = 60
	if r := []rune(s); len(r) > runesMax {
		return string(r[:runesMax]) + "…"
	}
	return s
}

// list joins names, the first dozen.
func list(names []string) string {
	const namesMax = 12
	names = slices.Clone(names)
	slices.Sort(names)
	if len(names) > namesMax {
		return strings.Join(names[:namesMax], ", ") + fmt.Sprintf(" and %d more", len(names)-namesMax)
	}
	return strings.Join(names, ", ")
}

// Nearest is the known name closest to the given one by edit distance, ignoring case, or empty when none is close.
func Nearest(name string, known []string) string {
	const nameBytesMax = 100 // a longer word is no misspelling of anything
	best, bestDistance := "", 0
	if len(name) > nameBytesMax {
		return ""
	}
	word := strings.ToLower(name)
	for _, k := range known { // a plural for a singular
		if l := strings.ToLower(k); word == l+"s" || word == l+"es" || l == word+"s" || l == word+"es" {
			return k
		}
	}
	for _, k := range known {
		d := distance(word, strings.ToLower(k))
		if best == "" || d < bestDistance || d == bestDistance && k < best {
			best, bestDistance = k, d
		}
	}
	if best == "" || bestDistance > max(1, min(len(name), len(best))/3) {
		return ""
	}
	return best
}

// distance is Levenshtein's, with a swap of neighbours counted once (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Near reports whether the name is within two edits of a known one: for names that are long and alike, such as API groups.
func Near(name string, known []string) bool {
	const editsMax = 2
	for _, k := range known {
		if len(name) < 2*len(k) && distance(strings.ToLower(name), strings.ToLower(k)) <= editsMax {
			return true
		}
	}
	return false
}
