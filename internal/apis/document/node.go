package document

import (
	"encoding/json"
	"hash"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is the shape of a node.
type Kind uint8

// The kinds of nodes, as JSON has them; Int and Float are JSON's numbers.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	List
	Map
)

// String is the word for messages.
func (k Kind) String() string {
	return [...]string{"nothing", "true or false", "a whole number", "a number", "text", "a list", "a mapping"}[k]
}

// Node is a value with its place. It is immutable, and shared where an alias repeats it.
type Node struct {
	Kind   Kind
	Text   string // scalars: the text, unquoted; numbers in canonical decimal form; booleans "true" or "false"
	Plain  bool   // scalars: written without quotes
	Line   int    // from 1
	Column int    // from 1, in characters
	Fields []Field
	Items  []*Node

	weight int // nodes below and including this one, aliases followed
}

// Field is an entry of a mapping.
type Field struct {
	Name   string
	Line   int // of the key
	Column int
	Value  *Node
}

// Place is where to point at something, and how many columns to underline.
type Place struct {
	Line, Column, Length int
}

// Lookup is the value of a mapping's field, or nil.
func (n *Node) Lookup(name string) *Node {
	if f := n.field(name); f != nil {
		return f.Value
	}
	return nil
}

func (n *Node) field(name string) *Field {
	if n == nil {
		return nil
	}
	for i := range n.Fields {
		if n.Fields[i].Name == name {
			return &n.Fields[i]
		}
	}
	return nil
}

// Place points at the node itself.
func (n *Node) Place() Place {
	p := Place{Line: n.Line, Column: n.Column, Length: 1}
	if n.Kind < List && n.Text != "" && !strings.Contains(n.Text, "\n") {
		p.Length = utf8.RuneCountInString(n.Text)
		if !n.Plain {
			p.Length += 2
		}
	}
	return p
}

// KeyPlace points at the field's key.
func (f *Field) KeyPlace() Place {
	return Place{Line: f.Line, Column: f.Column, Length: utf8.RuneCountInString(f.Name)}
}

// Find is the place of the field at path below n: of its value when that is a scalar or an item of a list, of its key when
// the value is a mapping or a list; where the path is not written, of its nearest written ancestor. n may be nil.
func (n *Node) Find(path string) (Place, bool) {
	if n == nil {
		return Place{}, false
	}
	place := n.Place()
	for n != nil && path != "" {
		name, index, rest := next(path)
		path = rest
		if index >= 0 {
			if n.Kind != List || index >= len(n.Items) {
				break
			}
			n = n.Items[index]
			place = n.Place()
			continue
		}
		f := n.field(name)
		if f == nil {
			f = n.field(otherCase(name))
		}
		if f == nil {
			break
		}
		n = f.Value
		if n.Kind >= List || n.Kind == Null {
			place = f.KeyPlace()
		} else {
			place = n.Place()
		}
	}
	return place, true
}

// next cuts the first segment off a path: a name, or an index (name "" and index ≥ 0).
func next(path string) (name string, index int, rest string) {
	path = strings.TrimPrefix(path, ".")
	if strings.HasPrefix(path, "[") {
		if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil {
			if name, err = strconv.Unquote(quoted); err == nil {
				return name, -1, strings.TrimPrefix(path[1+len(quoted):], "]")
			}
		}
		inside, rest, _ := strings.Cut(path[1:], "]")
		if i, err := strconv.Atoi(inside); err == nil && i >= 0 {
			return "", i, rest
		}
		return inside, -1, rest
	}
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i], -1, path[i:]
	}
	return path, -1, ""
}

// otherCase turns lowerCamel into snake_case: protobuf fields may be written either way.
func otherCase(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Join appends a field or map key to a path, quoting what is not a plain word.
func Join(path, name string) string {
	plain := name != ""
	for _, r := range name {
		plain = plain && (r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	switch {
	case !plain:
		return path + "[" + strconv.Quote(name) + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

// Index appends a list index to a path.
func Index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

// AppendJSON appends the node as JSON.
func (n *Node) AppendJSON(b []byte) []byte {
	switch n.Kind {
	case Null:
		return append(b, "null"...)
	case Bool, Int, Float:
		return append(b, n.Text...)
	case List:
		b = append(b, '[')
		for i, item := range n.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.AppendJSON(b)
		}
		return append(b, ']')
	case Map:
		b = append(b, '{')
		for i, f := range n.Fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, f.Name), ':')
			b = f.Value.AppendJSON(b)
		}
		return append(b, '}')
	}
	return appendString(b, n.Text)
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // strings always marshal
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// WriteHash feeds the node's content to h: equal content in any order of fields gives equal bytes, whatever its positions.
func (n *Node) WriteHash(h hash.Hash) {
	if n == nil {
		return
	}
	write := func(s string) {
		h.Write(strconv.AppendInt(nil, int64(len(s)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	h.Write([]byte{byte(n.Kind)})
	switch n.Kind {
	case List:
		for _, item := range n.Items {
			item.WriteHash(h)
		}
		h.Write([]byte{0xFF})
	case Map:
		fields := slices.Clone(n.Fields)
		slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
		for _, f := range fields {
			write(f.Name)
			f.Value.WriteHash(h)
		}
		h.Write([]byte{0xFF})
	default:
		write(n.Text)
	}
}
