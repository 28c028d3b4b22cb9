package apis

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

const redacted = "[redacted]"

// SecretValue is a value of a Secret. It prints as [redacted], in logs, JSON and %v; Reveal gives the bytes.
type SecretValue struct{ value []byte }

// NewSecretValue wraps bytes that must not be printed.
func NewSecretValue(b []byte) SecretValue { return SecretValue{value: b} }

// Reveal is the value itself. The caller must not change or print it.
func (v SecretValue) Reveal() []byte { return v.value }

// Format prints [redacted] for every verb.
func (SecretValue) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText gives [redacted], also to JSON and slog.
func (SecretValue) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Secret is a Kubernetes Secret whose values do not print.
type Secret struct {
	Type string // such as kubernetes.io/tls
	Data map[string]SecretValue
}

// newSecret takes the values over; those of stringData win, as in Kubernetes.
func newSecret(s *corev1.Secret) *Secret {
	out := &Secret{Type: string(s.Type), Data: make(map[string]SecretValue, len(s.Data)+len(s.StringData))}
	for k, v := range s.Data {
		out.Data[k] = NewSecretValue(v)
	}
	for k, v := range s.StringData {
		out.Data[k] = NewSecretValue([]byte(v))
	}
	return out
}
