package model

import "github.com/tullemesh/tulle/internal/apis"

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
