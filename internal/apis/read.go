package apis

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
)

// object decodes one object of a known kind, with all its problems.
func (d *decoder) object(k *kind, version string, root *document.Node, found []Problem) {
	o := &Object{Group: k.group, Version: version, File: d.file, root: root, Problems: found}
	var meta metav1.ObjectMeta
	if k.istio() {
		o.istio(k, root, &meta)
	} else {
		o.whole(k, version, root, &meta)
	}
	o.Key = Key{Kind: k.key(), Namespace: meta.Namespace, Name: meta.Name}
	o.Labels, o.Annotations, o.Created = meta.Labels, meta.Annotations, meta.CreationTimestamp.Time
	switch {
	case k.cluster:
		o.Key.Namespace = ""
	case o.Key.Namespace == "":
		o.Key.Namespace = d.opts.DefaultNamespace
	}
	o.Problems = append(o.Problems, checkMetadata(&meta)...)
	o.Hash = contentHash(o.Key, k.group, version, root)
	o.judge(k, d.ledger)
	if first := d.seen[o.Key]; first != nil {
		o.Problems = append(o.Problems, Problem{Code: problem.CodeTwice, Level: LevelError, Path: "metadata.name",
			Message: "the same object stands in line " + fmt.Sprint(first.root.Line), Hint: "remove or rename one of them; the first counts"})
	} else {
		d.seen[o.Key] = o
	}
	o.settle(k)
	d.objects = append(d.objects, o)
}

// istio decodes an object of Istio: metadata, spec, and a status that is left alone.
func (o *Object) istio(k *kind, root *document.Node, meta *metav1.ObjectMeta) {
	spec := k.message()
	o.Spec = spec
	for i := range root.Fields {
		f := &root.Fields[i]
		switch f.Name {
		case "apiVersion", "kind", "status":
		case "metadata":
			o.Problems = append(o.Problems, schema.Struct(f.Value, meta, "metadata")...)
		case "spec":
			o.Problems = append(o.Problems, schema.Proto(f.Value, spec, "spec")...)
		default:
			hint := "it has apiVersion, kind, metadata, spec"
			if spec.ProtoReflect().Descriptor().Fields().ByJSONName(f.Name) != nil {
				hint = "indent it below spec"
			} else if near := nearest(f.Name, []string{"metadata", "spec", "status"}); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			at := f.KeyPlace()
			o.Problems = append(o.Problems, Problem{Code: problem.CodeUnknownField, Level: LevelError, Path: document.Join("", f.Name),
				Position: Position{Line: at.Line, Column: at.Column}, Length: at.Length, Message: fmt.Sprintf("%s has no field %q", k.name, f.Name), Hint: hint})
		}
	}
}

// whole decodes an object of Kubernetes or the Gateway API.
func (o *Object) whole(k *kind, version string, root *document.Node, meta *metav1.ObjectMeta) {
	target := k.whole(version)
	problems := schema.Struct(withoutStatus(root), target, "")
	if holder, ok := target.(metav1.ObjectMetaAccessor); ok {
		if m, ok := holder.GetObjectMeta().(*metav1.ObjectMeta); ok {
			*meta = *m
		}
	}
	o.Spec = target
	if s, ok := target.(*corev1.Secret); ok {
		o.Spec = newSecret(s)
		hideSecrets(problems)
	}
	if pod, ok := target.(*corev1.Pod); ok {
		// Addresses and readiness stand in the status. No author writes it, so a mistake in it refuses nothing.
		if status := root.Lookup("status"); status != nil {
			schema.Struct(status, &pod.Status, "status")
		}
	}
	o.Problems = append(o.Problems, problems...)
	for _, p := range checkPorts(target) {
		// What could not be read is 0 here, and told already.
		if !slices.ContainsFunc(problems, func(u Problem) bool { return holds(u.Path, p.Path) }) {
			o.Problems = append(o.Problems, p)
		}
	}
}

// withoutStatus leaves out what controllers write, which no author can answer for.
func withoutStatus(root *document.Node) *document.Node {
	n := *root
	n.Fields = nil
	for _, f := range root.Fields {
		if f.Name != "status" {
			n.Fields = append(n.Fields, f)
		}
	}
	return &n
}

// contentHash is over what we read of an object.
func contentHash(key Key, group, version string, root *document.Node) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key.String() + "\x00" + group + "/" + version + "\x00"))
	meta := root.Lookup("metadata")
	for _, name := range []string{"labels", "annotations", "creationTimestamp"} {
		h.Write([]byte(name))
		meta.Lookup(name).WriteHash(h)
	}
	for _, f := range root.Fields {
		switch {
		case f.Name == "status" && key.Kind != "Pod", f.Name == "apiVersion", f.Name == "kind", f.Name == "metadata":
		default: // spec; data, type, subsets, endpoints, ... of Kubernetes' older kinds
			one := document.Node{Kind: document.Map, Fields: []document.Field{f}}
			one.WriteHash(h)
		}
	}
	return h.Sum64()
}

// settle gives every problem of the object its name, place and effect, and sorts them.
func (o *Object) settle(k *kind) {
	for i := range o.Problems {
		p := &o.Problems[i]
		p.Key = o.Key
		if !p.Position.Known() {
			if place, ok := o.root.Find(p.Path); ok {
				p.Position = Position{Line: place.Line, Column: place.Column}
				p.Length = place.Length
			}
		}
		p.Position.File = o.File
		if p.Effect == "" {
			p.Effect = effect(k, p.Level)
		}
	}
	problem.Sort(o.Problems)
}

// effect says what a refusal does to traffic (DESIGN §3, strictness).
func effect(k *kind, level Level) string {
	if level != LevelError && level != LevelUnsupported {
		return "the object is used as it is"
	}
	subject := "the " + k.name
	switch k.role {
	case guarding:
		return subject + " is refused: its last good version stays; without one the workloads it selects deny"
	case observing:
		return subject + " is refused: its last good version stays; traffic is not affected"
	case inventory:
		return subject + " is refused: its last good version stays; without one what it defines does not exist"
	}
	return subject + " is refused: its last good version stays; without one it counts as absent"
}

// hideSecrets removes values from messages about a Secret.
func hideSecrets(problems []Problem) {
	for i := range problems {
		if p := &problems[i]; strings.HasPrefix(p.Path, "data") || strings.HasPrefix(p.Path, "stringData") {
			p.Message, p.Hint = "the value has the wrong form", "values of data are base64 text, values of stringData are text in quotes"
		}
	}
}
