package message

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// Field numbers of istio.networking.nds.v1.NameTable, whose Go type is in no
// module: table (a map, so entries of key 1 and value 2), and of NameInfo.
const (
	fieldTable     = 1
	fieldKey       = 1
	fieldValue     = 2
	fieldIPs       = 1
	fieldRegistry  = 2
	fieldShortname = 3
	fieldNamespace = 4
)

// NameTable lists the addresses of every host in scope, for the agent's DNS
// proxy. Entries are sorted, so equal tables have equal bytes.
func (w *Writer) NameTable(r *view.Reader) *wire.Resource {
	x := r.Scope()
	f := r.Families()
	var table []byte
	for _, host := range slices.Sorted(maps.Keys(x.ByHost)) {
		svc := x.ByHost[host]
		ips := w.nameAddresses(svc, f)
		if len(ips) == 0 {
			continue
		}
		var info []byte
		for _, ip := range ips {
			info = appendText(info, fieldIPs, ip)
		}
		if svc.FromKubernetes {
			info = appendText(info, fieldRegistry, "Kubernetes")
			info = appendText(info, fieldShortname, svc.Name)
			info = appendText(info, fieldNamespace, svc.Namespace)
		} else {
			info = appendText(info, fieldRegistry, "External")
		}
		entry := appendText(nil, fieldKey, host)
		entry = protowire.AppendTag(entry, fieldValue, protowire.BytesType)
		entry = protowire.AppendBytes(entry, info)
		table = protowire.AppendTag(table, fieldTable, protowire.BytesType)
		table = protowire.AppendBytes(table, entry)
	}
	return wire.PackResource(plan.NameTable, wire.NameTableType, table)
}

// nameAddresses are what a host resolves to: its VIPs, or the endpoints of a
// headless service.
func (w *Writer) nameAddresses(svc *registry.Service, f view.Families) []string {
	var out []string
	for _, p := range plan.VIPs(svc, f, true) {
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
		}
	}
	if len(out) > 0 || svc.Resolution != registry.Passthrough || !svc.FromKubernetes || len(svc.Ports) == 0 {
		return out
	}
	for _, e := range w.snap.Endpoints(svc, svc.Ports[0].Number) {
		for _, a := range e.Addresses {
			if e.Ready && f.Has(a) {
				out = append(out, a.String())
			}
		}
	}
	return out
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}
