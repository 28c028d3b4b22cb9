// Package ledger says which fields of the APIs tulle enforces, and refuses the others by name.
//
// In comes a decoded message; out come problems of level unsupported for every field that is set and not in the tables, and for values that are
// not in a field's list. Kubernetes' objects, annotations and labels come as trees, and what they ask for in vain is told by warnings (Tell). The
// tables (networking.go, security.go, mesh.go, kubernetes.go, metadata.go) are the truth that docs/reference/fields.md is generated from; a field that is
// in no table is refused, so a new version of the API can't slip through. A Ledger is immutable. Read this file first.
package ledger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Entry is a field that objects may set.
type Entry struct {
	Keys   string   // of a map: keys with this prefix are refused; empty: all are enforced
	Values []string // of an enum, or of texts in a list: the words that are enforced; nil: all. With Told: the values that ask for nothing
	Inert  string   // why the field needs no enforcement; empty: it is enforced
	Told   string   // why the field is not honoured; the object is used all the same (Kubernetes' objects and metadata)
	Test   string   // the name of the test that proves it; empty: a case of test/conformance/fields does
}

// Kind is the ledger of one kind.
type Kind struct {
	Name    string
	Refused string           // why the whole kind is refused; empty: Entries decide
	Entries map[string]Entry // by pattern: a path below spec with [] for lists and {} for maps, such as http[].headers.request.set{}
	Reasons map[string]string

	whole any // the Go type of a Kubernetes object
}

// Ledger holds the ledgers of all kinds.
type Ledger struct {
	kinds map[string]*Kind
}

// New builds the tables.
func New() *Ledger {
	l := &Ledger{kinds: map[string]*Kind{}}
	for _, k := range slices.Concat(networkingKinds(), securityKinds(), meshKinds(), kubernetesKinds(), metadataKinds()) {
		l.kinds[k.Name] = k
	}
	return l
}

// Kind is the ledger of a kind, or nil.
func (l *Ledger) Kind(name string) *Kind { return l.kinds[name] }

// Check lists what the message sets beyond the ledger. prefix is the message's path, "spec" or empty.
func (l *Ledger) Check(kind string, m protoreflect.Message, prefix string) []problem.Problem {
	k := l.kinds[kind]
	switch {
	case k == nil:
		return []problem.Problem{unsupported(problem.CodeKindUnsupported, "kind", kind+" is not enforced yet", "remove the object")}
	case k.Refused != "":
		return []problem.Problem{unsupported(problem.CodeKindUnsupported, "kind", k.Refused, "remove the object, or keep it for Istio in a folder that tulle does not read")}
	}
	c := checker{kind: k}
	c.message(m, prefix, "")
	return c.problems
}

func unsupported(code, path, message, hint string) problem.Problem {
	return problem.Problem{Code: code, Level: problem.Unsupported, Path: path, Message: message, Hint: hint}
}

type checker struct {
	kind     *Kind
	problems []problem.Problem
}

// message checks the fields that are set, in the order of their numbers.
func (c *checker) message(m protoreflect.Message, path, pattern string) {
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, fd)
		return true
	})
	slices.SortFunc(set, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	for _, fd := range set {
		c.field(fd, m.Get(fd), document.Join(path, fd.JSONName()), Child(pattern, fd))
	}
}

func (c *checker) field(fd protoreflect.FieldDescriptor, v protoreflect.Value, path, pattern string) {
	entry, known := c.kind.Entries[pattern]
	if !known {
		c.problems = append(c.problems, unsupported(problem.CodeFieldUnsupported, path, c.kind.Reason(pattern, fd.JSONName()), "remove the field"))
		return
	}
	switch {
	case entry.Inert != "":
	case fd.IsMap():
		for _, key := range mapKeys(v.Map()) {
			if entry.Keys != "" && strings.HasPrefix(strings.ToLower(key.String()), entry.Keys) {
				c.problems = append(c.problems, unsupported(problem.CodeValueUnsupported, document.Join(path, key.String()),
					fmt.Sprintf("%s: keys that begin with %q are not enforced yet", fd.JSONName(), entry.Keys), "remove it"))
			}
			if fd.MapValue().Message() != nil {
				c.below(fd.MapValue(), v.Map().Get(key), document.Join(path, key.String()), pattern)
			}
		}
	case fd.IsList():
		for i := range v.List().Len() {
			at := path + "[" + strconv.Itoa(i) + "]"
			if word := v.List().Get(i); entry.Values != nil && fd.Kind() == protoreflect.StringKind && !slices.Contains(entry.Values, word.String()) {
				c.refuse(fd, word.String(), entry, at)
			}
			c.below(fd, v.List().Get(i), at, pattern)
		}
	default:
		c.value(fd, v, entry, path)
		c.below(fd, v, path, pattern)
	}
}

// below descends into messages that have fields of their own.
func (c *checker) below(fd protoreflect.FieldDescriptor, v protoreflect.Value, path, pattern string) {
	if fd.Message() != nil && !Leaf(fd) {
		c.message(v.Message(), path, pattern)
	}
}

func (c *checker) value(fd protoreflect.FieldDescriptor, v protoreflect.Value, entry Entry, path string) {
	if entry.Values == nil || fd.Enum() == nil {
		return
	}
	ed := fd.Enum().Values().ByNumber(v.Enum())
	if ed == nil || !slices.Contains(entry.Values, string(ed.Name())) {
		word := strconv.Itoa(int(v.Enum()))
		if ed != nil {
			word = string(ed.Name())
		}
		c.refuse(fd, word, entry, path)
	}
}

func (c *checker) refuse(fd protoreflect.FieldDescriptor, word string, entry Entry, path string) {
	c.problems = append(c.problems, unsupported(problem.CodeValueUnsupported, path,
		fmt.Sprintf("%s: %s is not enforced yet", fd.JSONName(), word), "use one of "+strings.Join(entry.Values, ", ")))
}

func mapKeys(m protoreflect.Map) []protoreflect.MapKey {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// Reason is the message of a refused field: its own or that of the nearest field above that has one.
func (k *Kind) Reason(pattern, name string) string {
	for p := pattern; p != ""; p = Parent(p) {
		if r := k.Reasons[p]; r != "" {
			return r
		}
	}
	return name + " is not enforced yet"
}

// Holds reports whether the pattern is of a message whose fields are listed: it is enforced by them.
func (k *Kind) Holds(pattern string) bool {
	for p := range k.Entries {
		if strings.HasPrefix(p, pattern+".") {
			return true
		}
	}
	return false
}

// Proof names the test that proves an enforced field; empty for a message, which its fields prove.
func (k *Kind) Proof(pattern string) string {
	const pairs = "TestFields" // test/conformance/fields; TestEveryEnforcedFieldHasACase holds it to be complete
	switch {
	case k.Entries[pattern].Test != "":
		return k.Entries[pattern].Test
	case k.Holds(pattern):
		return ""
	}
	return pairs
}

// Child is the pattern of a field within the pattern of its message.
func Child(pattern string, fd protoreflect.FieldDescriptor) string {
	name := fd.JSONName()
	if pattern != "" {
		name = pattern + "." + name
	}
	switch {
	case fd.IsMap():
		return name + "{}"
	case fd.IsList():
		return name + "[]"
	}
	return name
}

// Parent is the pattern above, empty at the top.
func Parent(pattern string) string {
	return pattern[:max(0, strings.LastIndexByte(pattern, '.'))]
}

// Leaf reports whether a message field counts as one value: durations, wrappers, free-form structs.
func Leaf(fd protoreflect.FieldDescriptor) bool {
	md := fd.Message()
	if fd.IsMap() {
		md = fd.MapValue().Message()
	}
	return md == nil || md.FullName().Parent() == "google.protobuf"
}

// table builds entries from lines of the form
//
//	pattern                 enforced
//	pattern = WORD WORD     enforced, an enum with only these words
//	pattern ~ reason        inert
//	pattern ! WORDS ! why   told, unless the value is one of the words ("-": no value is harmless)
//
// The pattern of a message or list of messages lets the fields below it be listed; it does not imply them.
func table(lines string) map[string]Entry {
	entries := map[string]Entry{}
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if pattern, words, ok := strings.Cut(line, " = "); ok {
			entries[pattern] = Entry{Values: strings.Fields(words)}
		} else if pattern, rest, ok := strings.Cut(line, " ! "); ok {
			words, why, _ := strings.Cut(rest, " ! ")
			entries[pattern] = Entry{Values: strings.Fields(words), Told: why}
		} else if pattern, reason, ok := strings.Cut(line, " ~ "); ok {
			entries[pattern] = Entry{Inert: reason}
		} else {
			entries[line] = Entry{}
		}
	}
	return entries
}

// under copies lines below a pattern, for messages that stand in several places.
func under(pattern, lines string) string {
	var b strings.Builder
	b.WriteString(pattern + "\n")
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(pattern + "." + line + "\n")
		}
	}
	return b.String()
}
