package engine

import (
	"errors"
	"log/slog"
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
	d.guard.Set(slotHead, d.clock.Now()+int64(timeout))
	leave := d.shared.handshakes.begin(d.sock)
	t, err := d.store.Accept(d.sock, chain.TLS)
	if !leave() && err == nil {
		err = errHandshakesMax
	}
	if d.guard.Clear(slotHead) && err == nil {
		err = os.ErrDeadlineExceeded // its wake came too late to end the handshake
	}
	if err != nil {
		d.meters.HandshakesFailed.Inc()
		d.shared.log.Debug("TLS handshake failed", slog.String("listener", d.spec.Name), slog.Any("remote", d.facts.Remote), slog.Any("error", err))
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
