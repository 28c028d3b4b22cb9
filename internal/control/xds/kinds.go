package xds

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/wire"
)

// kind is what the protocol says about one resource type.
type kind struct {
	typeURL string
	// short is the label of metrics and the name in status.
	short string
	// needsNames: an empty first request is no wildcard (Envoy documentation,
	// "How the client specifies what resources to return").
	needsNames bool
	// complete: in state of the world every response holds all resources; what
	// is absent is removed (only Listener and Cluster, the same page).
	complete bool
	// owned: names are "owner/name", and a subscription to "owner" stands for
	// all of them (Envoy documentation, VHDS).
	owned bool
}

// kinds in the order in which resources are sent, make before break (Envoy
// documentation, "Eventual consistency considerations").
func kinds() []kind {
	return []kind{
		{typeURL: wire.ClusterType, short: "cds", complete: true},
		{typeURL: wire.EndpointType, short: "eds", needsNames: true},
		{typeURL: wire.SecretType, short: "sds", needsNames: true},
		{typeURL: wire.ExtensionType, short: "ecds", needsNames: true},
		{typeURL: wire.FilterChainType, short: "fcds", needsNames: true, owned: true},
		{typeURL: wire.ListenerType, short: "lds", complete: true},
		{typeURL: wire.RouteType, short: "rds", needsNames: true},
		{typeURL: wire.VirtualHostType, short: "vhds", needsNames: true, owned: true},
		{typeURL: wire.NameTableType, short: "nds"},
	}
}

// kindOf returns the kind and its place in the order of sending. A type that
// the table does not have comes last and behaves as the name table does.
func kindOf(typeURL string) (kind, int) {
	all := kinds()
	for i, k := range all {
		if k.typeURL == typeURL {
			return k, i
		}
	}
	return kind{typeURL: typeURL, short: "other"}, len(all)
}

// removalRank orders removals: who refers goes before what is referred to.
func removalRank(typeURL string) int {
	order := []string{wire.ListenerType, wire.FilterChainType, wire.RouteType, wire.VirtualHostType, wire.ClusterType}
	if i := slices.Index(order, typeURL); i >= 0 {
		return i
	}
	return len(order)
}

// span is a part of a list.
type span struct{ from, to int }

// below returns where the names of a sorted list begin with owner and a slash.
func below(names []string, owner string) span {
	prefix := owner + "/"
	from, _ := slices.BinarySearch(names, prefix)
	n, _ := slices.BinarySearchFunc(names[from:], prefix, func(name, p string) int {
		if strings.HasPrefix(name, p) {
			return -1
		}
		return cmp.Compare(name, p)
	})
	return span{from, from + n}
}
