package sds

import (
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/wire"
)

// Resources are the secrets of a bundle as resources, for a proxy that runs in
// the agent's own process. None for nil.
func Resources(b *identity.Bundle) ([]*wire.Resource, error) {
	secrets, err := build(b)
	if err != nil {
		return nil, err
	}
	out := make([]*wire.Resource, 0, len(secrets))
	for _, s := range secrets {
		out = append(out, &wire.Resource{Name: s.name, Version: s.version, Body: s.body})
	}
	return out, nil
}
