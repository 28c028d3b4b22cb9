package ledger

import (
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	extensions "istio.io/api/extensions/v1alpha1"
	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	networkingbeta "istio.io/api/networking/v1beta1"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// Names lists the kinds of the ledger, in order.
func (l *Ledger) Names() []string {
	var names []string
	for name := range l.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Field is one field of a kind's API with its verdict.
type Field struct {
	Pattern string
	Entry   Entry
	Refused string // the message; empty: Entry holds
}

// Enforced reports whether the field has its effect.
func (f *Field) Enforced() bool { return f.Refused == "" && f.Entry.Inert == "" && f.Entry.Told == "" }

// Fields lists every field of the kind's API by its descriptors (of Kubernetes' objects by their Go types), in the order of the API.
func (k *Kind) Fields() []Field {
	switch {
	case k.whole != nil:
		return k.structFields(nil, reflect.TypeOf(k.whole), "")
	case k.Name == Annotations || k.Name == Labels:
		return k.metadataFields()
	}
	m := apiMessage(k.Name)
	if m == nil {
		return nil
	}
	return k.fields(nil, m.ProtoReflect().Descriptor(), "", nil)
}

func (k *Kind) fields(all []Field, md protoreflect.MessageDescriptor, pattern string, within []protoreflect.FullName) []Field {
	if slices.Contains(within, md.FullName()) {
		return all
	}
	within = append(within[:len(within):len(within)], md.FullName())
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		f := Field{Pattern: Child(pattern, fd)}
		entry, known := k.Entries[f.Pattern]
		switch {
		case k.Refused != "":
			f.Refused = k.Refused
		case known:
			f.Entry = entry
		default:
			f.Refused = k.Reason(f.Pattern, fd.JSONName())
		}
		all = append(all, f)
		if below := fd.Message(); !Leaf(fd) && f.Entry.Inert == "" {
			if fd.IsMap() {
				below = fd.MapValue().Message()
			}
			all = k.fields(all, below, f.Pattern, within)
		}
	}
	return all
}

// apiMessage is an empty message of the kind's spec.
func apiMessage(kind string) proto.Message {
	switch kind {
	case "VirtualService":
		return &networking.VirtualService{}
	case "DestinationRule":
		return &networking.DestinationRule{}
	case "Gateway":
		return &networking.Gateway{}
	case "ServiceEntry":
		return &networking.ServiceEntry{}
	case "WorkloadEntry":
		return &networking.WorkloadEntry{}
	case "WorkloadGroup":
		return &networking.WorkloadGroup{}
	case "Sidecar":
		return &networking.Sidecar{}
	case "EnvoyFilter":
		return &networking.EnvoyFilter{}
	case "ProxyConfig":
		return &networkingbeta.ProxyConfig{}
	case "PeerAuthentication":
		return &security.PeerAuthentication{}
	case "RequestAuthentication":
		return &security.RequestAuthentication{}
	case "AuthorizationPolicy":
		return &security.AuthorizationPolicy{}
	case "Telemetry":
		return &telemetry.Telemetry{}
	case "WasmPlugin":
		return &extensions.WasmPlugin{}
	case "TrafficExtension":
		return &extensions.TrafficExtension{}
	case MeshConfig:
		return &meshconfig.MeshConfig{}
	}
	return nil
}
