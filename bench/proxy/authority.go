package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// authority issues the certificates of the scenarios with mutual TLS: a is the
// client's, b the server's.
type authority struct {
	dir  string
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench-ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, root: root, key: key}
	if err := a.save("ca.crt", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	for i, who := range []string{"a", "b"} {
		if err := a.issue(who, int64(i+2)); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *authority) issue(who string, serial int64) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	uri := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/" + who}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: a.root.NotBefore, NotAfter: a.root.NotAfter, URIs: []*url.URL{uri}, DNSNames: []string{who + ".mesh"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.root, key.Public(), a.key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := a.save(who+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	if err := a.save(who+".key", "PRIVATE KEY", pkcs8); err != nil {
		return err
	}
	// haproxy wants both in one file.
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	return os.WriteFile(a.path(who+".pem"), both, 0o600)
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) save(name, kind string, der []byte) error {
	return os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// client is the load's own side of mutual TLS. The curve is fixed, so that no
// contender does more key exchange than another.
func (a *authority) client() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(a.path("a.crt"), a.path("a.key"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(a.path("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "b.mesh", MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}}, nil
}

// context is Envoy's CommonTlsContext.
func (a *authority) context(who, alpn string) object {
	file := func(n string) object { return object{"filename": a.path(n)} }
	return object{
		"tls_certificates":   []object{{"certificate_chain": file(who + ".crt"), "private_key": file(who + ".key")}},
		"validation_context": object{"trusted_ca": file("ca.crt")},
		"alpn_protocols":     []string{alpn},
		"tls_params": object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
			"ecdh_curves": []string{"X25519", "P-256"}},
	}
}

func (a *authority) downstream(who, alpn string) object {
	return object{"name": "tls", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		"require_client_certificate": true, "common_tls_context": a.context(who, alpn)}}
}

func (a *authority) upstream(who, alpn string) object {
	return object{"name": "tls", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		"sni": "b.mesh", "common_tls_context": a.context(who, alpn)}}
}
