package apis

import (
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/apis/ledger"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/validate"
)

// judge applies Istio's validation and the ledger to a decoded object.
func (o *Object) judge(k *kind, book *ledger.Ledger) {
	spec, istio := o.Spec.(proto.Message)
	if !istio || !k.istio() {
		if k.group == groupGateway {
			o.Problems = append(o.Problems, Problem{Code: problem.CodeKindUnsupported, Level: LevelUnsupported, Path: "kind",
				Message: k.name + " of the Gateway API is not enforced yet", Hint: "use Istio's Gateway and VirtualService"})
		}
		return
	}
	if !o.Refused() { // what could not be read leaves gaps that validation would report once more
		meta := validate.Meta{Namespace: o.Key.Namespace, Name: o.Key.Name, Labels: o.Labels, Annotations: o.Annotations}
		o.Problems = append(o.Problems, validate.Object(meta, spec)...)
	}
	o.Problems = append(o.Problems, book.Check(k.name, spec.ProtoReflect(), "spec")...)
}
