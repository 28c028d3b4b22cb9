package exchange

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/path"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// sanitize makes the request's headers trustworthy before anything is decided
// by them: what Envoy's connection manager does (mutateRequestHeaders), without
// the headers by which clients could steer its router.
func (x *Exchange) sanitize() *failure.Failure {
	h, m := &x.Req, x.Manager
	x.forwarded()
	h.RemovePrefix("x-envoy-", keepsEnvoyHeader)
	if m.UseRemoteAddress {
		x.enter()
	}
	x.takePeer()
	x.forwardedCert()
	x.identify()
	if m.StripPort {
		h.Authority = withoutPort(h.Authority)
	}
	return x.normalizePath()
}

// enter marks a request that comes into the mesh here: what it says of itself
// as if a proxy had said it is replaced (Envoy: x-envoy-external-address).
func (x *Exchange) enter() {
	h := &x.Req
	h.Remove("x-envoy-attempt-count")
	x.scratch = x.facts.Remote.AppendTo(x.scratch[:0])
	h.Set("x-envoy-external-address", x.scratch)
}

// keepsEnvoyHeader keeps what is information, and removes the others: those
// that steer retries and timeouts, which we don't let clients do, and those
// that say of a request what only a proxy may say.
func keepsEnvoyHeader(name []byte) bool {
	switch string(name) {
	case "x-envoy-attempt-count", "x-envoy-external-address", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id":
		return true
	}
	return false
}

// normalizePath does what the connection manager says with the path, before
// anything is decided by it.
func (x *Exchange) normalizePath() *failure.Failure {
	out, memory, redirect, err := path.Normalize(x.Manager, x.Req.Path, x.scratch)
	x.scratch = memory
	switch {
	case err != nil:
		return &failure.Failure{Kind: failure.BadRequest, Cause: http1.ErrTarget, Detail: err.Error()}
	case redirect:
		x.location = bytes.Clone(out)
	case !bytes.Equal(out, x.Req.Path):
		x.Req.Set(":path", out)
	}
	return nil
}

// forwarded fills x-forwarded-for and x-forwarded-proto, the scheme, and the
// client's address that policies read (Envoy: use_remote_address and
// xff_num_trusted_hops).
func (x *Exchange) forwarded() {
	h, m, d := &x.Req, x.Manager, x.d
	scheme := "http"
	if d.Facts.Secured() {
		scheme = "https"
	}
	direct := d.Facts.Remote.Addr()
	if m.UseRemoteAddress {
		// An edge: what clients say of the scheme and of the way is not theirs
		// to say.
		if m.XFFTrustedHops > 0 {
			x.facts.Remote = x.fromXFF(m.XFFTrustedHops-1, direct)
		} else {
			x.facts.Remote = direct
		}
		if !m.SkipXFFAppend {
			x.appendXFF(direct)
		}
		if m.XFFTrustedHops == 0 {
			h.SetString("x-forwarded-proto", scheme)
		}
	} else {
		x.facts.Remote = x.fromXFF(m.XFFTrustedHops, direct)
	}
	proto, present := h.Get("x-forwarded-proto")
	if !present || string(proto) != "http" && string(proto) != "https" {
		h.SetString("x-forwarded-proto", scheme)
		proto, _ = h.Get("x-forwarded-proto")
	}
	h.Scheme = proto
}

// fromXFF is the address that stands skip places before the last of
// x-forwarded-for; without it, the connection's.
func (x *Exchange) fromXFF(skip uint32, direct netip.Addr) netip.Addr {
	value, present := x.Req.Get("x-forwarded-for")
	if !present {
		return direct
	}
	end := len(value)
	for i := len(value) - 1; i >= -1; i-- {
		if i >= 0 && value[i] != ',' {
			continue
		}
		if skip > 0 {
			skip--
			end = max(i, 0)
			continue
		}
		if a, err := netip.ParseAddr(trimSpace(value[i+1 : end])); err == nil {
			return a.Unmap()
		}
		return direct
	}
	return direct
}

func trimSpace(b []byte) string {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	if len(b) > 45 {
		return "" // longer than any address
	}
	return string(b)
}

func (x *Exchange) appendXFF(direct netip.Addr) {
	x.scratch = x.scratch[:0]
	if old, present := x.Req.Get("x-forwarded-for"); present && len(old) > 0 {
		x.scratch = append(x.scratch, old...)
		x.scratch = append(x.scratch, ',')
	}
	x.scratch = direct.AppendTo(x.scratch)
	x.Req.Set("x-forwarded-for", x.scratch)
}

// forwardedCert does what forward_client_cert_details says with
// x-forwarded-client-cert.
func (x *Exchange) forwardedCert() {
	const name = "x-forwarded-client-cert"
	h, mode := &x.Req, x.Manager.ForwardClientCert.Mode
	verified := x.d.Facts.Verified
	switch mode {
	case listener.XFCCAlwaysForwardOnly:
		return
	case listener.XFCCForwardOnly:
		if !verified {
			h.Remove(name)
		}
		return
	case listener.XFCCSanitize:
		h.Remove(name)
		return
	case listener.XFCCSanitizeSet:
		h.Remove(name)
	case listener.XFCCAppendForward:
		if !verified {
			h.Remove(name)
		}
	}
	if !verified {
		return
	}
	x.scratch = x.scratch[:0]
	if old, present := h.Get(name); present {
		x.scratch = append(append(x.scratch, old...), ',')
	}
	x.scratch = append(x.scratch, x.d.xfccElement(&x.Manager.ForwardClientCert)...)
	h.Set(name, x.scratch)
}

// identify makes sure that the request has an id.
func (x *Exchange) identify() {
	h, m := &x.Req, x.Manager
	id, present := h.Get("x-request-id")
	edge := m.UseRemoteAddress
	if present && len(id) > 0 && (!edge || m.PreserveRequestID) {
		return
	}
	if !m.GenerateRequestID {
		return
	}
	var buf [36]byte
	newRequestID(&buf)
	h.Set("x-request-id", buf[:])
}

// newRequestID writes a random UUID (RFC 9562 §5.4). It needs to be unique,
// not unguessable.
func newRequestID(out *[36]byte) {
	var raw [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		raw[i], raw[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	hex.Encode(out[0:8], raw[0:4])
	hex.Encode(out[9:13], raw[4:6])
	hex.Encode(out[14:18], raw[6:8])
	hex.Encode(out[19:23], raw[8:10])
	hex.Encode(out[24:36], raw[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
}

// ToUpstream turns the request into what the upstream gets. It runs once,
// after the first Choose.
func (x *Exchange) ToUpstream() {
	h, f := &x.Req, x.Result.Route.Forward
	// Templates read the request as it came, so they go before the rewrites
	// (Envoy: finalizeRequestHeaders).
	levels := x.table.RequestLevels(x.Result.Host, x.Result.Route, x.weighted)
	x.scratch = levels.Apply(h, x, x.scratch)
	x.countAttempt()
	if f.Rewrites() {
		original := h.Path
		x.scratch = f.AppendPath(x.scratch[:0], &x.Result.Route.Match, &x.facts)
		h.Set("x-envoy-original-path", original)
		h.Set(":path", x.scratch)
	}
	if host := f.Authority(x.weighted); host != "" {
		if f.AppendForwardedHost {
			h.Add("x-forwarded-host", h.Authority)
		}
		h.Authority = h.KeepString(host)
	} else if f.AutoHostRewrite {
		if info := x.Upstream.Info(); info.Hostname != "" {
			h.Authority = h.KeepString(info.Hostname)
		} else if info.Host != "" {
			h.Authority = h.KeepString(info.Host)
		}
	}
	if p := x.d.Peers; p.Talk() && x.d.Spec.Direction == listener.Outbound && x.Upstream.Secure() {
		p.Tell(h)
	}
	if x.Manager.Via != "" {
		h.Add("via", h.KeepString(x.Manager.Via))
	}
}

// ToDownstream turns the upstream's response into what the client gets.
func (x *Exchange) ToDownstream() {
	h := &x.Res
	x.takeUpstreamPeer()
	telemetry.DropMetadata(h)
	var digits [20]byte
	h.Set("x-envoy-upstream-service-time", strconv.AppendInt(digits[:0], (x.HeadAt-x.Sent)/1e6, 10))
	x.responseHeaders()
}

// responseHeaders are those that every response gets, ours too.
func (x *Exchange) responseHeaders() {
	h, m := &x.Res, x.Manager
	if x.clientTells {
		x.d.Peers.Tell(h) // who says so wants to know
	}
	if x.table != nil {
		levels := x.table.ResponseLevels(x.Result.Host, x.Result.Route, x.weighted)
		x.scratch = levels.Apply(h, x, x.scratch)
	}
	if m.ServerName != "" && !m.ServerHeaderPassThrough || x.Action == ActAnswer {
		name := m.ServerName
		if name == "" {
			name = "istio-envoy" // Istio's server_name, which its users see
		}
		h.SetString("server", name)
	}
	if _, present := h.Get("date"); !present {
		h.SetString("date", x.d.dates.Value(x.d.Clock))
	}
	if m.AlwaysRequestIDInResp {
		if id, _ := x.Req.Get("x-request-id"); len(id) > 0 {
			h.Set("x-request-id", id)
		}
	}
	if m.Via != "" {
		h.Add("via", h.KeepString(m.Via))
	}
}

func withoutPort(authority []byte) []byte {
	for i := len(authority) - 1; i >= 0; i-- {
		switch c := authority[i]; {
		case c == ':':
			return authority[:i]
		case c < '0' || c > '9':
			return authority
		}
	}
	return authority
}
