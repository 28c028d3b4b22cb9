package apis

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/apis/ledger"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/validate"
)

// judge applies Istio's validation and the ledger to a decoded object.
func (o *Object) judge(k *kind, book *ledger.Ledger) {
	o.Problems = append(o.Problems, book.Tell(k.name, o.root)...)
	spec, istio := o.Spec.(proto.Message)
	if !istio || !k.istio() {
		if k.group == groupGateway {
			o.Problems = append(o.Problems, Problem{Code: problem.CodeKindUnsupported, Level: LevelUnsupported, Path: "kind",
				Message: k.name + " of the Gateway API is not enforced yet", Hint: "use Istio's Gateway and VirtualService"})
		}
		return
	}
	meta := validate.Meta{Namespace: o.Key.Namespace, Name: o.Key.Name, Labels: o.Labels, Annotations: o.Annotations}
	unread := o.Problems
	for _, p := range validate.Object(meta, spec) {
		if !slices.ContainsFunc(unread, func(u Problem) bool { return u.Refuses() && (holds(p.Path, u.Path) || holds(u.Path, p.Path)) }) {
			o.Problems = append(o.Problems, p)
		}
	}
	o.Problems = append(o.Problems, book.Check(k.name, spec.ProtoReflect(), "spec")...)
}

// holds reports whether the field at path is, or holds, the field at inner. What could not be read leaves a gap, which validation would
// report once more: at the field itself, within it, or in what holds it.
func holds(path, inner string) bool {
	rest, ok := strings.CutPrefix(inner, path)
	return ok && path != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
