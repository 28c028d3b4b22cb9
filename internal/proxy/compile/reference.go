package compile

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Reference writes docs/reference/xds.md: every extension, and every field of
// every message that the compiler reads, with its verdict.
func (c *Compiler) Reference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`<!-- Generated from internal/proxy/compile/surface*.go by "go test ./internal/proxy/compile -update". Do not edit. -->
# What the proxy reads of xDS

The proxy takes xDS v3 from any server that sends what Istio sends. Every field and every extension is *enforced*,
*inert* (nothing has to be done, for the stated reason) or *refused*: a resource that uses it gets a NACK that
names the place, and its last good version stays. What is not listed here is refused.

## Extensions

| type | verdict | reason |
|---|---|---|
`)
	for _, name := range slices.Sorted(maps.Keys(c.surface.extensions)) {
		r := c.surface.extensions[name]
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, r.verdict, r.reason)
	}
	b.WriteString("\n## Fields\n")
	for _, name := range slices.Sorted(maps.Keys(c.surface.messages)) {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			return fmt.Errorf("message %s: %w", name, err)
		}
		message, ok := d.(protoreflect.MessageDescriptor)
		if !ok {
			return fmt.Errorf("%s is not a message", name)
		}
		referenceMessage(&b, message, c.surface.messages[name])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func referenceMessage(b *strings.Builder, d protoreflect.MessageDescriptor, rules fields) {
	fmt.Fprintf(b, "\n### %s\n\n", d.FullName())
	if d.Fields().Len() == 0 {
		b.WriteString("No fields.\n")
		return
	}
	byVerdict := map[verdict][]string{}
	var reasons strings.Builder
	for i := range d.Fields().Len() {
		name := d.Fields().Get(i).Name()
		r := rules[name]
		byVerdict[r.verdict] = append(byVerdict[r.verdict], "`"+string(name)+"`")
		if r.reason != "" {
			fmt.Fprintf(&reasons, "- `%s` (%s): %s\n", name, r.verdict, r.reason)
		}
	}
	for _, v := range []verdict{enforced, inert, refused} {
		if list := byVerdict[v]; len(list) > 0 {
			fmt.Fprintf(b, "- %s: %s\n", v, strings.Join(list, ", "))
		}
	}
	b.WriteString(reasons.String())
}
