package translate

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// fieldVirtualHosts is virtual_hosts of envoy.config.route.v3.RouteConfiguration.
const fieldVirtualHosts = 2

// routeConfiguration builds a route configuration. Its virtual hosts are the
// bytes of the virtual host resources, so that an edit of one leaves the
// others as they were serialized. A client that takes virtual hosts as
// resources of their own gets none inline.
func (t *Translator) routeConfiguration(r *view.Reader, name string) (*wire.Resource, error) {
	p := plan.RoutesOf(t.mem, r, r.View(), name)
	if p == nil {
		return nil, nil
	}
	rc := t.writer.RouteConfiguration(r, p)
	if r.TakesVHDS() {
		return wire.NewResource(name, rc)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(rc)
	if err != nil {
		return nil, fmt.Errorf("route configuration %q: %w", name, err)
	}
	for _, h := range p.Hosts {
		res, err := t.build(r, r.View(), wire.VirtualHostType, wire.VirtualHostResourceName(name, h.Name))
		if err != nil {
			return nil, err
		}
		if res != nil {
			value = protowire.AppendTag(value, fieldVirtualHosts, protowire.BytesType)
			value = protowire.AppendBytes(value, res.Body.GetValue())
		}
	}
	return wire.PackResource(name, wire.RouteType, value), nil
}

// virtualHostNameFor is the name of the resource that answers for a name which
// a client asked for: "route configuration/host", the host as in a Host header
// or as the virtual host is called. Empty: there is none.
func (t *Translator) virtualHostNameFor(outer *view.Reader, v *view.View, name string) string {
	rc, host, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	p := plan.RoutesOf(t.mem, outer, v, rc)
	if p == nil {
		return ""
	}
	h := p.Find(host)
	if h == nil {
		return ""
	}
	return wire.VirtualHostResourceName(rc, h.Name)
}

// plannedHost is the plan of a virtual host resource; nil: there is none.
func (t *Translator) plannedHost(v *view.View, name string) *plan.Host {
	rc, host, _ := strings.Cut(name, "/")
	p := plan.RoutesOf(t.mem, nil, v, rc)
	if p == nil {
		return nil
	}
	return p.Named(host)
}
