package ca

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
)

// ServerCertificate is the certificate by which the control plane serves ADS
// and CreateCertificate over TLS (Istio's port 15012). It is renewed by the
// first handshake after half of its life, so it needs no runner, and open
// connections are not touched.
type ServerCertificate struct {
	// Fixed at creation.
	authority *Authority
	id        identity.ID
	names     []string
	addresses []net.IP
	ttl       time.Duration

	mu      sync.Mutex
	current *identity.Bundle
	renewAt time.Time
}

// NewServerCertificate issues the first certificate. The control plane's
// identity is the service account istiod of istio-system; hosts, DNS names or
// addresses, are what its clients dial, such as istiod.istio-system.svc. A ttl
// of zero means the authority's default.
func NewServerCertificate(a *Authority, hosts []string, ttl time.Duration) (*ServerCertificate, error) {
	s := &ServerCertificate{authority: a, ttl: ttl, id: controlPlane(a.options.TrustDomains)}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			s.addresses = append(s.addresses, ip)
		} else {
			s.names = append(s.names, host)
		}
	}
	if _, err := s.bundle(); err != nil {
		return nil, fmt.Errorf("certificate of the control plane: %w", err)
	}
	return s, nil
}

// bundle returns the certificate to serve now. When a renewal fails, the
// current one is served until its end.
func (s *ServerCertificate) bundle() (*identity.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.authority.options.Now()
	if s.current != nil && now.Before(s.renewAt) {
		return s.current, nil
	}
	fresh, err := s.authority.Issue(s.id, s.names, s.addresses, s.ttl)
	if err != nil {
		if s.current != nil && now.Before(s.current.NotAfter) {
			return s.current, nil
		}
		return nil, err
	}
	s.current = fresh
	s.renewAt = now.Add(fresh.NotAfter.Sub(now) / 2)
	return s.current, nil
}

// Current returns the certificate that a handshake would get now.
func (s *ServerCertificate) Current() (*identity.Bundle, error) { return s.bundle() }

// TLSConfig returns the configuration for the server. Clients may show a
// certificate, which must then lead to the mesh's roots; who has none has to
// bring a token. Sessions are not resumed: a handshake is rare here, and each
// one is judged by the roots and the clock of its time.
func (s *ServerCertificate) TLSConfig() *tls.Config {
	clients := s.authority.Pool()
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  clients,
		Time:       s.authority.options.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			b, err := s.bundle()
			if err != nil {
				return nil, err
			}
			return b.Certificate(), nil
		},
		SessionTicketsDisabled: true,
	}
}
