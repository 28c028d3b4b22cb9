package identity

import (
	"fmt"
	"slices"
)

// TrustDomains is the trust domain of a mesh and its aliases
// (MeshConfig.trustDomain and trustDomainAliases): names that mean the same
// mesh, for instance while it is renamed. The zero value contains nothing.
type TrustDomains struct {
	names []string // the mesh's own first, without repetition
}

// NewTrustDomains returns the trust domains of a mesh, checked.
func NewTrustDomains(own string, aliases ...string) (TrustDomains, error) {
	names := []string{}
	for _, name := range append([]string{own}, aliases...) {
		if err := ValidateTrustDomain(name); err != nil {
			return TrustDomains{}, fmt.Errorf("trust domain %q: %w", name, err)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return TrustDomains{names: names}, nil
}

// Own returns the mesh's own trust domain, empty in the zero value.
func (d TrustDomains) Own() string {
	if len(d.names) == 0 {
		return ""
	}
	return d.names[0]
}

// Contains reports whether name is the mesh's trust domain or an alias.
func (d TrustDomains) Contains(name string) bool { return slices.Contains(d.names, name) }
