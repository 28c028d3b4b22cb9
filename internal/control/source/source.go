// Package source names what all sources of configuration have in common: each
// watches one part of the outside world (files, Kubernetes, Consul, machines)
// and puts whole inputs into a registry.Store. What comes in is the platform's
// business; what goes out is registry.Input. A source owns its connection, and
// nothing else. The folders below hold one source each.
package source

import "context"

// Source puts what it knows into its Store, again whenever that changes. Run
// returns when ctx ends, with nil, or when it can't go on, and only after all that
// it started has ended.
type Source interface {
	Run(ctx context.Context) error
}
