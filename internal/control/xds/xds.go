// Package xds is the ADS server: it sends resources to the proxies that
// subscribed to them, by the xDS v3 protocol in both its forms, delta and state
// of the world (Envoy documentation, "xDS REST and gRPC protocol").
//
// In come generations, immutable published states of the world (Publish), and
// discovery requests; out go discovery responses and Status. The package knows
// resources and subscriptions, not their meaning: what a resource is and who
// may have it, decides the Generation.
//
// Every stream owns its state in one goroutine (sender in stream.go). A slow
// stream holds what is dirty, never a queue of responses: changes that come
// while it sends are answered by one pass over the newest generation.
//
// Costs: a resource is serialized once, by whoever built it; a response is a
// list of references to those bytes and a few bytes of its own, and gRPC writes
// them out without a copy of the whole (codec.go). A stream keeps 16 bytes for
// each name that it holds, in a map.
//
// Debouncing is the publisher's: building a generation is the costly part, so
// it publishes the first change after quiet at once and coalesces later ones.
//
// Left out: aggregation of several ADS streams of one client, TTL of resources,
// dynamic parameters (xdstp names), CSDS.
//
// Read this file first, then server.go, stream.go, subscription.go, held.go,
// push.go.
package xds

import (
	"github.com/tullemesh/tulle/internal/wire"
)

// Client is who a stream serves: what it claims (Node) and what is proven.
type Client struct {
	// Node holds the client's claims. On an authenticated stream they may
	// narrow what it gets, never widen it.
	Node *wire.Node
	// Peer is the SPIFFE URI of the verified client certificate; empty only on
	// plaintext (TLS without a client certificate is refused).
	Peer string
	// Plaintext says that the connection has no TLS at all.
	Plaintext bool
	// Last is the View that the generation before gave this client, nil at
	// first, for generations that can tell whether it still holds.
	Last View
}

// View is what a client's configuration depends on. Clients with equal keys
// get equal resources of one generation.
type View interface{ Key() string }

// Generation is one published state of the world. It is immutable and used by
// all streams at once.
type Generation interface {
	// Version names the generation in version_info; for people.
	Version() string
	// View derives the client's view. An error refuses the stream with this
	// reason (gRPC PERMISSION_DENIED). It is called once for each stream and
	// generation.
	View(c *Client) (View, error)
	// Names is the content of a wildcard subscription, sorted. For virtual
	// hosts and filter chains it is all that exist, "owner/name" each: a
	// subscription to "owner" stands for the names below it. The implementer
	// caches it by view; the caller only reads.
	// Equal contents should be one slice: streams hold what they have by place
	// in it.
	Names(v View, typeURL string) []string
	// Resources are those of Names, in that order, for streams that look at a
	// whole type: nil where Build has to be asked, or altogether. The
	// implementer shares and caches them; the caller only reads.
	Resources(v View, typeURL string) []*wire.Resource
	// Build returns the resource, nil when it does not exist for this view.
	// The implementer caches and shares it. A resource whose Name differs from
	// the name asked for is sent under its own name with that as alias.
	Build(v View, typeURL, name string) (*wire.Resource, error)
}

// NameSet is a set of resource names of one type.
type NameSet struct {
	All   bool
	Names map[string]struct{}
}

// Dirty says what may differ from the generation published before. It may say
// too much (what turns out equal is not sent), never too little. A change of a
// client's View needs no mention.
type Dirty struct {
	All   bool
	Types map[string]NameSet // by type URL
}
