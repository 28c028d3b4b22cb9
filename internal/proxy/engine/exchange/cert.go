package exchange

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// xfccElement is what x-forwarded-client-cert says of this connection's client
// (Envoy: "x-forwarded-client-cert"). It is built once and kept.
func (d *Conn) xfccElement(c *listener.ForwardClientCert) string {
	if d.xfcc != "" {
		return d.xfcc
	}
	var parts []string
	if chain := d.Chain.Load(); chain.TLS != nil {
		if own, ok := d.ownURI(chain); ok {
			parts = append(parts, "By="+own)
		}
	}
	if leaf := d.PeerCert; leaf != nil {
		sum := sha256.Sum256(leaf.Raw)
		parts = append(parts, "Hash="+hex.EncodeToString(sum[:]))
		if c.Cert {
			parts = append(parts, `Cert="`+url.QueryEscape(string(certPEM(leaf)))+`"`)
		}
		if c.Subject {
			parts = append(parts, `Subject="`+strings.ReplaceAll(d.Facts.PeerSubject, `"`, `\"`)+`"`)
		}
		if c.URI {
			parts = append(parts, "URI="+d.Facts.Peer)
		}
		if c.DNS {
			for _, name := range leaf.DNSNames {
				parts = append(parts, "DNS="+name)
			}
		}
	}
	d.xfcc = strings.Join(parts, ";")
	return d.xfcc
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// ownURI is the identity that we showed to the client.
func (d *Conn) ownURI(chain *listener.Chain) (string, bool) {
	for _, name := range chain.TLS.Certificates {
		if leaf, ok := d.Store.Certificate(name); ok && len(leaf.URIs) > 0 {
			return leaf.URIs[0].String(), true
		}
	}
	return "", false
}
