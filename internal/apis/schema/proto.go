package schema

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Proto fills the message from the tree by protojson's rules: fields by JSON or proto name, enums by name or number, wrappers as
// plain values, integers also as text. Durations are Istio's: what time.ParseDuration reads. null leaves a field unset.
// The path is that of n, such as "spec".
func Proto(n *document.Node, m proto.Message, path string) []problem.Problem {
	d := protoDecoder{}
	if n.Kind != document.Null {
		d.message(n, m.ProtoReflect(), path)
	}
	return d.problems
}

type protoDecoder struct {
	reporter
}

func (d *protoDecoder) message(n *document.Node, m protoreflect.Message, path string) {
	if known, done := d.wellKnown(n, m, path); known || done {
		return
	}
	if n.Kind != document.Map {
		d.wrong(n, path, "a mapping", exampleMap(m.Descriptor()))
		return
	}
	oneofs := map[protoreflect.Name]string{}
	seen := map[protoreflect.Name]string{}
	for i := range n.Fields {
		f := &n.Fields[i]
		fd := fieldNamed(m.Descriptor(), f.Name)
		if fd == nil {
			d.unknown(f, path, ownerName(m.Descriptor()), fieldNames(m.Descriptor()))
			continue
		}
		at := document.Join(path, fd.JSONName())
		if first, twice := seen[fd.Name()]; twice {
			d.add(f.KeyPlace(), at, problem.CodeDuplicateKey, fmt.Sprintf("%q and %q are the same field", first, f.Name), "remove one of them")
			continue
		}
		seen[fd.Name()] = f.Name
		if f.Value.Kind == document.Null && !isValue(fd) {
			continue
		}
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if first, taken := oneofs[o.Name()]; taken {
				d.add(f.KeyPlace(), at, problem.CodeOneof, fmt.Sprintf("%q can't stand beside %q: only one of them may be set", fd.JSONName(), first), "remove one of them")
				continue
			}
			oneofs[o.Name()] = fd.JSONName()
		}
		d.field(f.Value, m, fd, at)
	}
}

func isValue(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value" && !fd.IsList() && !fd.IsMap()
}

func (d *protoDecoder) field(n *document.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	switch {
	case fd.IsMap():
		d.mapping(n, m, fd, path)
	case fd.IsList():
		if n.Kind != document.List {
			d.wrong(n, path, "a list", "each item in a line of its own, after a dash")
			return
		}
		m.Clear(fd) // what is written replaces a default
		l := m.Mutable(fd).List()
		for i, item := range n.Items {
			if v, ok := d.value(item, fd, l.NewElement, document.Index(path, i)); ok {
				l.Append(v)
			}
		}
	default:
		if v, ok := d.value(n, fd, func() protoreflect.Value { return m.NewField(fd) }, path); ok {
			m.Set(fd, v)
		}
	}
}

func (d *protoDecoder) mapping(n *document.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	if n.Kind != document.Map {
		d.wrong(n, path, "a mapping", "key: value lines, indented")
		return
	}
	m.Clear(fd)
	target := m.Mutable(fd).Map()
	for i := range n.Fields {
		f := &n.Fields[i]
		at := document.Join(path, f.Name)
		key := protoreflect.ValueOfString(f.Name)
		if fd.MapKey().Kind() == protoreflect.Uint32Kind { // of ports; no map of Istio's APIs has keys of another type
			n, err := strconv.ParseUint(f.Name, 10, 32)
			if err != nil {
				d.add(f.KeyPlace(), at, problem.CodeType, fmt.Sprintf("the key wants a whole number, found %s", quote(f.Name)), "write the number of a port, such as 8080")
				continue
			}
			key = protoreflect.ValueOfUint32(uint32(n))
		}
		if v, ok := d.value(f.Value, fd.MapValue(), target.NewValue, at); ok {
			target.Set(key.MapKey(), v)
		}
	}
}

// value converts one scalar, enum or message. fresh makes an empty message.
func (d *protoDecoder) value(n *document.Node, fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value, path string) (protoreflect.Value, bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if n.Kind == document.Null && fd.Message().FullName() != "google.protobuf.Value" {
			d.wrong(n, path, "a mapping", exampleMap(fd.Message()))
			return protoreflect.Value{}, false
		}
		v, before := fresh(), len(d.problems)
		d.message(n, v.Message(), path)
		return v, len(d.problems) == before || fd.Message().FullName() != "google.protobuf.Duration"
	case protoreflect.EnumKind:
		return d.enum(n, fd.Enum(), path)
	}
	return d.scalar(n, fd.Kind(), path)
}

func (d *protoDecoder) scalar(n *document.Node, kind protoreflect.Kind, path string) (protoreflect.Value, bool) {
	var none protoreflect.Value
	switch kind {
	case protoreflect.BoolKind:
		b, ok := boolean(n)
		if !ok {
			d.wrong(n, path, "true or false", "true")
		}
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.StringKind:
		if n.Kind != document.String {
			d.wrong(n, path, "text", `"text"`)
			return none, false
		}
		return protoreflect.ValueOfString(n.Text), true
	case protoreflect.BytesKind:
		if n.Kind == document.String {
			if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(n.Text)); err == nil {
				return protoreflect.ValueOfBytes(b), true
			}
		}
		d.wrong(n, path, "base64 text", `"aGVsbG8="`)
		return none, false
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		f, ok := number(n)
		if !ok || kind == protoreflect.FloatKind && math.Abs(f) > math.MaxFloat32 {
			d.wrong(n, path, "a number", "12.5")
			return none, false
		}
		if kind == protoreflect.FloatKind {
			return protoreflect.ValueOfFloat32(float32(f)), true
		}
		return protoreflect.ValueOfFloat64(f), true
	}
	return d.integer(n, kind, path)
}

func (d *protoDecoder) integer(n *document.Node, kind protoreflect.Kind, path string) (protoreflect.Value, bool) {
	var v protoreflect.Value
	var err error
	text, ok := wholeText(n)
	want := "a whole number"
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var i int64
		i, err = strconv.ParseInt(text, 10, 32)
		v = protoreflect.ValueOfInt32(int32(i))
		if errors.Is(err, strconv.ErrRange) {
			want = "a whole number from -2147483648 to 2147483647"
		}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		var i int64
		i, err = strconv.ParseInt(text, 10, 64)
		v = protoreflect.ValueOfInt64(i)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var u uint64
		u, err = strconv.ParseUint(text, 10, 32)
		v, want = protoreflect.ValueOfUint32(uint32(u)), "a whole number from 0 to 4294967295"
	default:
		var u uint64
		u, err = strconv.ParseUint(text, 10, 64)
		v, want = protoreflect.ValueOfUint64(u), "a whole number, 0 or above"
	}
	if !ok || err != nil {
		d.wrong(n, path, want, "80")
		return protoreflect.Value{}, false
	}
	return v, true
}

func (d *protoDecoder) enum(n *document.Node, ed protoreflect.EnumDescriptor, path string) (protoreflect.Value, bool) {
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	switch n.Kind {
	case document.String:
		if v := ed.Values().ByName(protoreflect.Name(n.Text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	case document.Int:
		if i, err := strconv.ParseInt(n.Text, 10, 32); err == nil && ed.Values().ByNumber(protoreflect.EnumNumber(i)) != nil {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(i)), true
		}
	case document.Null, document.List, document.Map:
		d.wrong(n, path, "one word of "+list(names), names[len(names)-1])
		return protoreflect.Value{}, false
	}
	hint := "use one of " + list(names)
	if near := Nearest(n.Text, names); near != "" {
		hint = fmt.Sprintf("did you mean %s? It takes %s", near, list(names))
	}
	d.add(n.Place(), path, problem.CodeEnum, fmt.Sprintf("%s is not a value of this field", quote(n.Text)), hint)
	return protoreflect.Value{}, false
}

// wellKnown fills messages with a JSON form of their own. The first result is false for ordinary messages.
func (d *protoDecoder) wellKnown(n *document.Node, m protoreflect.Message, path string) (known, done bool) {
	name := m.Descriptor().FullName()
	if name.Parent() != "google.protobuf" {
		return false, false
	}
	fields := m.Descriptor().Fields()
	switch name.Name() {
	case "Duration":
		d.duration(n, m, path)
	case "Timestamp":
		t, err := time.Parse(time.RFC3339Nano, n.Text)
		if err != nil || n.Kind != document.String {
			d.wrong(n, path, "a time", `"2026-01-02T15:04:05Z"`)
			return true, true
		}
		m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(t.Unix()))
		m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(t.Nanosecond())))
	case "BoolValue", "StringValue", "BytesValue", "Int32Value", "Int64Value", "UInt32Value", "UInt64Value", "FloatValue", "DoubleValue":
		fd := fields.ByName("value")
		if v, ok := d.scalar(n, fd.Kind(), path); ok {
			m.Set(fd, v)
		}
	case "Struct":
		if n.Kind != document.Map {
			d.wrong(n, path, "a mapping", "key: value lines, indented")
			return true, true
		}
		d.mapping(n, m, fields.ByName("fields"), path)
	case "ListValue":
		if n.Kind != document.List {
			d.wrong(n, path, "a list", "each item in a line of its own, after a dash")
			return true, true
		}
		d.field(n, m, fields.ByName("values"), path)
	case "Value":
		d.anything(n, m, path)
	case "Empty":
		return false, false
	default:
		d.add(n.Place(), path, problem.CodeType, string(name)+" is not read", "")
	}
	return true, true
}

func (d *protoDecoder) anything(n *document.Node, m protoreflect.Message, path string) {
	fields := m.Descriptor().Fields()
	switch n.Kind {
	case document.Null:
		m.Set(fields.ByName("null_value"), protoreflect.ValueOfEnum(0))
	case document.Bool:
		m.Set(fields.ByName("bool_value"), protoreflect.ValueOfBool(n.Text == "true"))
	case document.Int, document.Float:
		f, _ := number(n)
		m.Set(fields.ByName("number_value"), protoreflect.ValueOfFloat64(f))
	case document.String:
		m.Set(fields.ByName("string_value"), protoreflect.ValueOfString(n.Text))
	case document.List:
		d.field(n, m.Mutable(fields.ByName("list_value")).Message(), fields.ByName("list_value").Message().Fields().ByName("values"), path)
	case document.Map:
		d.mapping(n, m.Mutable(fields.ByName("struct_value")).Message(), fields.ByName("struct_value").Message().Fields().ByName("fields"), path)
	}
}

// duration reads what Istio reads: Go's notation, and protobuf's "1.5s" which is part of it.
func (d *protoDecoder) duration(n *document.Node, m protoreflect.Message, path string) {
	t, err := time.ParseDuration(n.Text)
	if n.Kind != document.String || err != nil {
		d.wrong(n, path, "a duration", "5s, 1m30s or 250ms")
		return
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(int64(t/time.Second)))
	m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(t%time.Second)))
}

// boolean takes YAML 1.1's words too, as kubectl does, when they stand without quotes.
func boolean(n *document.Node) (value, ok bool) {
	if n.Kind == document.Bool {
		return n.Text == "true", true
	}
	if n.Kind != document.String || !n.Plain {
		return false, false
	}
	switch strings.ToLower(n.Text) {
	case "yes", "on":
		return true, true
	case "no", "off":
		return false, true
	}
	return false, false
}

func number(n *document.Node) (float64, bool) {
	if n.Kind != document.Int && n.Kind != document.Float && n.Kind != document.String {
		return 0, false
	}
	f, err := strconv.ParseFloat(n.Text, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// wholeText is the decimal text of a whole number, also when it is written as text or with a zero fraction (protojson).
func wholeText(n *document.Node) (string, bool) {
	switch n.Kind {
	case document.Int, document.String:
		return n.Text, n.Text != "" && n.Text[0] != '+'
	case document.Float:
		f, ok := number(n)
		if ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return strconv.FormatInt(int64(f), 10), true
		}
	}
	return "", false
}

func fieldNamed(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByJSONName(name); fd != nil {
		return fd
	}
	return md.Fields().ByName(protoreflect.Name(name))
}

func fieldNames(md protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range md.Fields().Len() {
		names = append(names, md.Fields().Get(i).JSONName())
	}
	return names
}

// ownerName is the message's name without its package: "HTTPRoute", "LoadBalancerSettings.ConsistentHashLB".
func ownerName(md protoreflect.MessageDescriptor) string {
	return strings.TrimPrefix(string(md.FullName()), string(md.ParentFile().Package())+".")
}

func exampleMap(md protoreflect.MessageDescriptor) string {
	names := fieldNames(md)
	if len(names) == 0 {
		return "{}"
	}
	slices.Sort(names)
	return "its fields below it, indented: " + list(names)
}
