package engine

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// errHandshakesMax: newer handshakes took the place of one that took long.
var errHandshakesMax = errors.New("too many TLS handshakes at once")

// handshake terminates TLS and learns who the client is.
func (d *downstream) handshake(chain *listener.Chain) bool {
	timeout := chain.TransportTimeout
	if timeout <= 0 {
		timeout = transportTimeout
	}
	d.guard.Clear(slotHead)
	_ = d.sock.SetDeadline(time.Time{})
	d.guard.Set(slotHead, d.e.clock.Now()+int64(timeout))
	leave := d.e.handshakes.begin(d.sock)
	t, err := d.e.store.Accept(d.sock, chain.TLS)
	if !leave() && err == nil {
		err = errHandshakesMax
	}
	if d.guard.Clear(slotHead) && err == nil {
		err = os.ErrDeadlineExceeded // its wake came too late to end the handshake
	}
	if err != nil {
		d.e.meters.HandshakesFailed.Inc()
		d.e.opts.Log.Debug("TLS handshake failed", slog.String("listener", d.spec.Name), slog.Any("remote", d.facts.Remote), slog.Any("error", err))
		return false
	}
	d.stream = t
	f := &d.facts
	state := t.ConnectionState()
	f.TLS, f.Terminated = true, true
	f.SNI = strings.ToLower(state.ServerName)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		f.Verified = chain.TLS.Validation != ""
		if len(leaf.URIs) > 0 {
			f.Peer = leaf.URIs[0].String()
		}
		f.PeerDNS = leaf.DNSNames
		f.PeerSubject = leaf.Subject.String()
		d.peerCert = leaf
	}
	return true
}

// xfccElement is what x-forwarded-client-cert says of this connection's client
// (Envoy: "x-forwarded-client-cert"). It is built once and kept.
func (d *downstream) xfccElement(c *listener.ForwardClientCert) string {
	if d.xfcc != "" {
		return d.xfcc
	}
	var parts []string
	if chain := d.chain.Load(); chain.TLS != nil {
		if own, ok := d.ownURI(chain); ok {
			parts = append(parts, "By="+own)
		}
	}
	if leaf := d.peerCert; leaf != nil {
		sum := sha256.Sum256(leaf.Raw)
		parts = append(parts, "Hash="+hex.EncodeToString(sum[:]))
		if c.Cert {
			parts = append(parts, `Cert="`+url.QueryEscape(string(certPEM(leaf)))+`"`)
		}
		if c.Subject {
			parts = append(parts, `Subject="`+strings.ReplaceAll(d.facts.PeerSubject, `"`, `\"`)+`"`)
		}
		if c.URI {
			parts = append(parts, "URI="+d.facts.Peer)
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
func (d *downstream) ownURI(chain *listener.Chain) (string, bool) {
	for _, name := range chain.TLS.Certificates {
		if leaf, ok := d.e.store.Certificate(name); ok && len(leaf.URIs) > 0 {
			return leaf.URIs[0].String(), true
		}
	}
	return "", false
}
