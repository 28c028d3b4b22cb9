package compile

import (
	"fmt"
	"strings"

	udpa "github.com/cncf/xds/go/udpa/type/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// checker walks a message and all that is in it. It collects every problem, not
// the first, and keeps the unpacked extensions for the converters.
type checker struct {
	surface *surface
	report  *Report
	// unpacked holds what the walk found in each Any.
	unpacked map[*anypb.Any]proto.Message
}

// message checks each set field of m. path is m's own place in the resource.
func (c *checker) message(m protoreflect.Message, path string) {
	if n := len(m.GetUnknown()); n > 0 {
		c.report.UnknownFields++
	}
	name := m.Descriptor().FullName()
	if strings.HasPrefix(string(name), "google.protobuf.") {
		return
	}
	rules, known := c.surface.messages[name]
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, string(fd.Name()))
		r := rules[fd.Name()]
		switch {
		case !known:
			c.report.refuse(at, fmt.Sprintf("%s is not supported", name))
		case r.verdict == refused:
			c.report.refuse(at, reasonOr(r.reason, fmt.Sprintf("field %s of %s is not supported", fd.Name(), name.Name())))
		case r.verdict == enforced:
			c.field(fd, v, at)
		}
		return known
	})
}

func (c *checker) field(fd protoreflect.FieldDescriptor, v protoreflect.Value, path string) {
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			return
		}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			c.value(v.Message(), fmt.Sprintf("%s[%q]", path, k.String()))
			return true
		})
	case fd.Message() == nil:
	case fd.IsList():
		for i := range v.List().Len() {
			c.value(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		c.value(v.Message(), path)
	}
}

func (c *checker) value(m protoreflect.Message, path string) {
	a, ok := m.Interface().(*anypb.Any)
	if !ok {
		c.message(m, path)
		return
	}
	c.any(a, path)
}

// any unpacks an extension that is enforced; the walk goes on inside.
func (c *checker) any(a *anypb.Any, path string) {
	name := typeName(a.GetTypeUrl())
	if name == "udpa.type.v1.TypedStruct" {
		var s udpa.TypedStruct
		if err := a.UnmarshalTo(&s); err != nil {
			c.report.invalid(path, fmt.Sprintf("%s does not parse", name))
			return
		}
		name = typeName(s.GetTypeUrl())
		if r := c.surface.extensions[name]; r.verdict == inert {
			return
		}
		c.report.refuse(path, fmt.Sprintf("extension %s as an untyped structure is not supported", name))
		return
	}
	r := c.surface.extensions[name]
	switch r.verdict {
	case inert:
	case refused:
		c.report.Problems = append(c.report.Problems, Problem{Path: path, Extension: name,
			Message: fmt.Sprintf("extension %s: %s", name, reasonOr(r.reason, "not supported"))})
	case enforced:
		m, err := a.UnmarshalNew()
		if err != nil {
			c.report.invalid(path, fmt.Sprintf("extension %s does not parse", name))
			return
		}
		c.unpacked[a] = m
		c.message(m.ProtoReflect(), path)
	}
}

// inert reports whether the extension is one for which nothing has to be done.
func (c *checker) inert(a *anypb.Any) bool {
	name := typeName(a.GetTypeUrl())
	if name == "udpa.type.v1.TypedStruct" {
		var s udpa.TypedStruct
		if a.UnmarshalTo(&s) != nil {
			return false
		}
		name = typeName(s.GetTypeUrl())
	}
	return c.surface.extensions[name].verdict == inert
}

func typeName(url string) string {
	return url[strings.LastIndexByte(url, '/')+1:]
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func reasonOr(reason, otherwise string) string {
	if reason != "" {
		return reason
	}
	return otherwise
}
