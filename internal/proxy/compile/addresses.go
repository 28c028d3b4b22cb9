package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/wire"
)

// owners are the listeners of each address, by name.
type owners map[netip.AddrPort][]string

func (o owners) add(s *listener.Spec, name string) {
	for _, at := range s.Addresses {
		if at.Port() != 0 { // the kernel chooses another for each
			o[at] = append(o[at], name)
		}
	}
}

func (o owners) remove(s *listener.Spec, name string) {
	for _, at := range s.Addresses {
		o[at] = slices.DeleteFunc(o[at], func(n string) bool { return n == name })
	}
}

// other is the first listener by name that shares an address; false: none does.
func (o owners) other(s *listener.Spec, name string) (first string, ok bool) {
	for _, at := range s.Addresses {
		for _, n := range o[at] {
			if n != name && (!ok || n < first) {
				first, ok = n, true
			}
		}
	}
	return first, ok
}

// refuseSharedAddresses refuses new listeners at an address that another one
// has (Envoy: "duplicate address").
func (b *Builder) refuseSharedAddresses(added []*wire.Resource) []wire.Rejection {
	all := owners{}
	for name, e := range b.listeners {
		all.add(e.value.Spec(), name)
	}
	var rejections []wire.Rejection
	for _, r := range added {
		e := b.listeners[r.Name]
		if e == nil || e.version != r.Version {
			continue
		}
		name, shared := all.other(e.value.Spec(), r.Name)
		if !shared {
			continue
		}
		rejections = append(rejections, wire.Rejection{Name: r.Name, Reason: fmt.Sprintf("address: %s is listener %s's already", e.value.Spec().Addresses[0], name)})
		all.remove(e.value.Spec(), r.Name)
		if live := b.liveListeners[r.Name]; live != nil {
			b.listeners[r.Name] = live
			all.add(live.value.Spec(), r.Name)
		} else {
			delete(b.listeners, r.Name)
		}
	}
	return rejections
}
