package model

import (
	"fmt"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Credential is what a gateway may serve: a certificate with its key, a root
// that verifies callers, or both (Istio, "credentialName").
type Credential struct {
	Certificate []byte
	Key         apis.SecretValue
	CA          []byte
}

// Credential is the Secret of this name as a credential; nil: there is none,
// or it has neither a key pair nor a root. Both spellings of keys are known,
// that of kubernetes.io/tls and that of generic Secrets (key, cert, cacert).
func (s *Snapshot) Credential(namespace, name string) *Credential {
	o := s.Object(apis.Key{Kind: "Secret", Namespace: namespace, Name: name})
	if o == nil {
		return nil
	}
	secret, ok := o.Spec.(*apis.Secret)
	if !ok {
		return nil
	}
	value := func(keys ...string) apis.SecretValue {
		for _, k := range keys {
			if v, ok := secret.Data[k]; ok {
				return v
			}
		}
		return apis.SecretValue{}
	}
	c := &Credential{
		Certificate: value("tls.crt", "cert").Reveal(), Key: value("tls.key", "key"), CA: value("ca.crt", "cacert").Reveal(),
	}
	if len(c.Certificate) == 0 && len(c.CA) == 0 {
		return nil
	}
	return c
}

// checkCredentials finds credentials that gateways look for in vain. They read Secrets of the namespaces where they run, which is known of
// those that have a workload (Istio's analyzer stays silent of others too).
func checkCredentials(s *Snapshot) []finding {
	var out []finding
	for _, g := range s.gateways.list {
		namespaces := s.gatewayNamespaces(g)
		for _, server := range g.Servers {
			if server.TLS == nil || len(server.TLS.CredentialNames) == 0 {
				continue
			}
			for _, ns := range namespaces {
				out = append(out, s.missingCredentials(server, ns)...)
			}
		}
	}
	return out
}

func (s *Snapshot) gatewayNamespaces(g *Gateway) []string {
	var out []string
	for _, w := range s.set.Workloads {
		if len(g.Services) == 0 && !slices.Contains(out, w.Namespace) && selects(g.Selector, w.Labels) {
			out = append(out, w.Namespace)
		}
	}
	return out
}

func (s *Snapshot) missingCredentials(server *Server, ns string) []finding {
	var out []finding
	look := func(what string, holds func(*Credential) bool, names ...string) {
		has := func(namespace string) bool {
			return slices.ContainsFunc(names, func(n string) bool { c := s.Credential(namespace, n); return c != nil && holds(c) })
		}
		if has(ns) {
			return
		}
		hint := "add a Secret of this name, of type kubernetes.io/tls, to namespace " + ns
		if own := server.Origin.Key.Namespace; has(own) {
			hint = fmt.Sprintf("the Secret in namespace %s is not read: move it to namespace %s, where the gateway runs", own, ns)
		}
		out = append(out, finding{Origin{Key: server.Origin.Key, Path: server.Origin.Path + ".tls"}, problem.CodeNotFound, apis.LevelError,
			fmt.Sprintf("namespace %s has no Secret %q with %s", ns, names[0], what), hint, "connections to the server's hosts are closed"})
	}
	for _, name := range server.TLS.CredentialNames {
		look("a certificate and its key", func(c *Credential) bool { return len(c.Certificate) > 0 && len(c.Key.Reveal()) > 0 }, name)
	}
	if m := server.TLS.Mode; m == "MUTUAL" || m == "OPTIONAL_MUTUAL" {
		first := server.TLS.CredentialNames[0]
		look("a CA that verifies clients", func(c *Credential) bool { return len(c.CA) > 0 }, first+"-cacert", first)
	}
	return out
}
