package project

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
	"github.com/tullemesh/tulle/internal/limit"
)

// decoder collects the problems of one file.
type decoder struct {
	file     string
	problems []problem.Problem
}

// report adds a problem at a place.
func (d *decoder) report(path string, at document.Place, code, message, hint string) {
	d.problems = append(d.problems, problem.Problem{
		Code: code, Level: problem.Error, Path: path, Message: message, Hint: hint, Effect: effect, Length: at.Length,
		Position: problem.Position{File: d.file, Line: at.Line, Column: at.Column},
	})
}

// at reports a value that cannot be run.
func (d *decoder) at(n *document.Node, path, message, hint string) {
	d.report(path, n.Place(), problem.CodeProject, message, hint)
}

// wants reports a value of the wrong type.
func (d *decoder) wants(n *document.Node, path, what, example string) {
	d.report(path, n.Place(), problem.CodeType, fmt.Sprintf("%s is %s, it must be %s", path, n.Kind, what), "for example  "+example)
}

// mapping returns the fields of n by name and reports those that are not known. A nil node has none.
func (d *decoder) mapping(n *document.Node, path string, known ...string) map[string]*document.Node {
	fields := map[string]*document.Node{}
	if n == nil || n.Kind == document.Null {
		return fields
	}
	if n.Kind != document.Map {
		what := path
		if what == "" {
			what = "the project"
		}
		d.report(path, n.Place(), problem.CodeType, fmt.Sprintf("%s is %s, it must be a mapping", what, n.Kind), "its fields are "+strings.Join(known, ", "))
		return fields
	}
	for _, f := range n.Fields {
		if slices.Contains(known, f.Name) {
			if f.Value.Kind != document.Null { // "key:" with nothing after it says nothing
				fields[f.Name] = f.Value
			}
			continue
		}
		hint := "known here are " + strings.Join(known, ", ")
		if near := schema.Nearest(f.Name, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.report(document.Join(path, f.Name), f.KeyPlace(), problem.CodeUnknownField, fmt.Sprintf("unknown field %q", f.Name), hint)
	}
	return fields
}

// list returns the items of n, or none.
func (d *decoder) list(n *document.Node, path string) []*document.Node {
	if n == nil {
		return nil
	}
	if n.Kind != document.List {
		d.wants(n, path, "a list", path[strings.LastIndex(path, ".")+1:]+": [8080]")
		return nil
	}
	return n.Items
}

// text returns a scalar's text; numbers and booleans are text too, as in a shell.
func (d *decoder) text(n *document.Node, path, example string) string {
	if n.Kind == document.List || n.Kind == document.Map || n.Kind == document.Null || n.Text == "" {
		d.wants(n, path, "text", example)
		return ""
	}
	return n.Text
}

// label returns a name that is a DNS label, or the default when n is nil.
func (d *decoder) label(n *document.Node, path, otherwise string) string {
	if n == nil {
		return otherwise
	}
	s := d.text(n, path, "shop")
	if s != "" && !isLabel(s) {
		d.at(n, path, fmt.Sprintf("%q is not a DNS label", s), "at most 63 lower-case letters, digits and dashes, beginning with a letter")
	}
	return s
}

// isLabel tells a DNS label that begins with a letter (RFC 1035 §2.3.1), as Kubernetes wants of service names.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

func (d *decoder) boolean(n *document.Node, path string) bool {
	if n != nil && n.Kind != document.Bool {
		d.wants(n, path, "true or false", "true")
	}
	return n != nil && n.Kind == document.Bool && n.Text == "true"
}

// number returns a whole number between low and high; low when it is not one.
func (d *decoder) number(n *document.Node, path string, low, high int) int {
	if n.Kind != document.Int {
		d.wants(n, path, "a whole number", strconv.Itoa(max(low, min(high, 8080))))
		return low
	}
	v, err := strconv.Atoi(n.Text)
	if err != nil || v < low || v > high {
		d.at(n, path, fmt.Sprintf("%s is outside of %d to %d", n.Text, low, high), "")
		return low
	}
	return v
}

func (d *decoder) port(n *document.Node, path string) uint16 {
	return uint16(d.number(n, path, 1, math.MaxUint16))
}

func (d *decoder) capture(n *document.Node, path string, otherwise Capture) Capture {
	if n == nil {
		return otherwise
	}
	return Capture(d.word(n, path, []string{string(CaptureProxy), string(CaptureNetns), string(CaptureNone)}))
}

// word returns one of the known words.
func (d *decoder) word(n *document.Node, path string, known []string) string {
	s := d.text(n, path, known[0])
	if s == "" || slices.Contains(known, s) {
		return s
	}
	hint := "known are " + strings.Join(known, ", ")
	if near := schema.Nearest(s, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.report(path, n.Place(), problem.CodeEnum, fmt.Sprintf("%q is no value of %s", s, path[strings.LastIndex(path, ".")+1:]), hint)
	return ""
}

// loopback returns an address of 127.0.0.0/8 or ::1: without a namespace, a process of the project is for this machine only.
func (d *decoder) loopback(n *document.Node, path string, otherwise netip.Addr) netip.Addr {
	s := d.text(n, path, "127.0.0.2")
	a, err := netip.ParseAddr(s)
	if s != "" && (err != nil || !a.IsLoopback()) {
		d.at(n, path, fmt.Sprintf("%q is not a loopback address", s), "an address of 127.0.0.0/8, such as 127.0.0.2")
		return otherwise
	}
	return a
}

// stringMap reads a mapping of names to text over into; judge says why an entry cannot be, or nothing.
func (d *decoder) stringMap(n *document.Node, path string, into map[string]string, judge func(name, value string) (why string)) map[string]string {
	merged := maps.Clone(into)
	if n == nil {
		return merged
	}
	if n.Kind != document.Map {
		d.wants(n, path, "a mapping of names to text", "{NAME: value}")
		return merged
	}
	if merged == nil {
		merged = map[string]string{}
	}
	for _, f := range n.Fields {
		p := document.Join(path, f.Name)
		if k := f.Value.Kind; k == document.List || k == document.Map || k == document.Null {
			d.wants(f.Value, p, "text", `"true"`)
			continue
		}
		if why := judge(f.Name, f.Value.Text); why != "" {
			d.report(p, f.KeyPlace(), problem.CodeProject, why, "")
			continue
		}
		merged[f.Name] = f.Value.Text
	}
	if len(merged) > limit.ProjectVariablesMax {
		d.at(n, path, fmt.Sprintf("%d entries, the limit is %d", len(merged), limit.ProjectVariablesMax), "")
	}
	return merged
}
