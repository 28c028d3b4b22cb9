package engine

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// inspect looks at the connection's first bytes as far as the listener asks,
// without consuming them. A client that says nothing in time goes on without
// an answer when the listener allows it, so that server-first protocols work.
func (d *downstream) inspect() bool {
	wantTLS, wantHTTP := d.spec.Inspects(d.facts.Local.Port())
	if !wantTLS && !wantHTTP {
		return true
	}
	b := d.e.buffers.Get()
	defer d.e.buffers.Put(b)
	n := 0
	for n < len(b.B) {
		m, err := d.sock.Read(b.B[n:])
		n += m
		if err != nil {
			d.sock.Unread(append([]byte(nil), b.B[:n]...))
			return d.sniffEnded()
		}
		if d.sniffed(b.B[:n], &wantTLS, wantHTTP) {
			break
		}
	}
	d.sock.Unread(append([]byte(nil), b.B[:n]...))
	return true
}

// sniffEnded decides what an end of the wait means: a timeout goes on when
// allowed, and so does a client that only listens.
func (d *downstream) sniffEnded() bool {
	if !d.guard.Clear(slotHead) {
		return true // the end of the client's bytes: the chain decides
	}
	_ = d.sock.SetReadDeadline(time.Time{})
	return d.spec.ContinueOnTimeout
}

// sniffed applies the inspectors in order; true: they have their answers.
func (d *downstream) sniffed(b []byte, wantTLS *bool, wantHTTP bool) bool {
	f := &d.facts
	if *wantTLS {
		hello, s := listener.InspectTLS(b)
		switch s {
		case listener.NeedMore:
			return false
		case listener.Yes:
			f.TLS, f.SNI, f.ALPN = true, hello.SNI, hello.ALPN
			return true
		case listener.No:
			*wantTLS = false
		}
	}
	if wantHTTP {
		protocol, s := listener.InspectHTTP(b)
		if s == listener.NeedMore {
			return false
		}
		if s == listener.Yes {
			f.ALPN = []string{protocol}
		}
	}
	return true
}

// handshake terminates TLS and learns who the client is.
func (d *downstream) handshake(chain *listener.Chain) bool {
	timeout := chain.TransportTimeout
	if timeout <= 0 {
		timeout = transportTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	d.guard.Clear(slotHead)
	_ = d.sock.SetReadDeadline(time.Time{})
	t, err := d.e.store.Accept(ctx, d.sock, chain.TLS)
	if err != nil {
		d.e.telemetry.handshakeFailed.Inc()
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
func (d *downstream) xfccElement(c *listener.ForwardClientCert) []byte {
	if d.xfcc != nil {
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
	d.xfcc = []byte(strings.Join(parts, ";"))
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
