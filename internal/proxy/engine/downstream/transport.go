package downstream

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
func (d *Conn) handshake(chain *listener.Chain) bool {
	timeout := chain.TransportTimeout
	if timeout <= 0 {
		timeout = transportTimeout
	}
	d.Guard.Clear(SlotHead)
	_ = d.Sock.SetDeadline(time.Time{})
	d.Guard.Set(SlotHead, d.Clock.Now()+int64(timeout))
	leave := d.Shared.handshakes.begin(d.Sock)
	t, err := d.Store.Accept(d.Sock, chain.TLS)
	if !leave() && err == nil {
		err = errHandshakesMax
	}
	if d.Guard.Clear(SlotHead) && err == nil {
		err = os.ErrDeadlineExceeded // its wake came too late to end the handshake
	}
	if err != nil {
		d.Meters.HandshakesFailed.Inc()
		d.Shared.Log.Debug("TLS handshake failed", slog.String("listener", d.Spec.Name), slog.Any("remote", d.Facts.Remote), slog.Any("error", err))
		return false
	}
	d.Stream = t
	f := &d.Facts
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
		d.PeerCert = leaf
	}
	return true
}
