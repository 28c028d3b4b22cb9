// Package pool holds the settings of connections to a destination in our own words. In come those of DestinationRules, Sidecars and the mesh
// configuration (Istio: ConnectionPoolSettings), out go immutable values, which the model keeps and translate writes for proxies.
package pool

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

// Settings limit connections and requests to a destination (DestinationRule: trafficPolicy.connectionPool). Numbers that are 0 and
// durations that are nil are not limited, or have the default of who reads them.
type Settings struct {
	MaxConnections, MaxPending, MaxRequests, MaxRetries uint32
	MaxRequestsPerConn, MaxStreams                      uint32

	ConnectTimeout, MaxDuration, TCPIdle, HTTPIdle *time.Duration
	Keepalive                                      *Keepalive
	Ping                                           *Ping

	// Upgrade asks for HTTP/2, Stay for none even where the mesh asks for it, and
	// KeepProtocol for what the client speaks, whatever else is asked for.
	Upgrade, Stay, KeepProtocol bool
}

// Keepalive is of TCP; 0 leaves a value to the system.
type Keepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// Ping keeps HTTP/2 connections alive.
type Ping struct{ Interval, Timeout time.Duration }

// From puts settings into our words; nil stays nil.
func From(p *networking.ConnectionPoolSettings) *Settings {
	if p == nil {
		return nil
	}
	h, t := p.GetHttp(), p.GetTcp()
	out := &Settings{
		MaxConnections: uint32(t.GetMaxConnections()), MaxPending: uint32(h.GetHttp1MaxPendingRequests()),
		MaxRequests: uint32(h.GetHttp2MaxRequests()), MaxRetries: uint32(h.GetMaxRetries()),
		MaxRequestsPerConn: uint32(h.GetMaxRequestsPerConnection()), MaxStreams: uint32(h.GetMaxConcurrentStreams()),
		ConnectTimeout: optional(t.GetConnectTimeout()), MaxDuration: optional(t.GetMaxConnectionDuration()),
		TCPIdle: optional(t.GetIdleTimeout()), HTTPIdle: optional(h.GetIdleTimeout()),
		Upgrade:      h.GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE,
		Stay:         h.GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE,
		KeepProtocol: h.GetUseClientProtocol(),
		Keepalive:    KeepaliveFrom(t.GetTcpKeepalive()),
	}
	if k := h.GetHttp2KeepAlive(); k != nil {
		out.Ping = &Ping{Interval: k.GetInterval().AsDuration(), Timeout: k.GetTimeout().AsDuration()}
	}
	return out
}

// KeepaliveFrom is From for TCP keepalive.
func KeepaliveFrom(k *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) *Keepalive {
	if k == nil {
		return nil
	}
	return &Keepalive{Probes: k.GetProbes(), Time: k.GetTime().AsDuration(), Interval: k.GetInterval().AsDuration()}
}

func optional(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}

// OrNone is the settings, where there are none those that limit nothing.
func (p *Settings) OrNone() *Settings {
	if p == nil {
		return &Settings{}
	}
	return p
}

// Text writes the pool down; of equal pools it is equal. Empty: there is none.
func (p *Settings) Text() string {
	if p == nil {
		return ""
	}
	text, err := json.Marshal(p) // which follows pointers
	if err != nil {
		return fmt.Sprintf("%p", p) // numbers and durations always can be written: else it is equal to none
	}
	return string(text)
}

// Timed reports whether the pool bounds the time of TCP connections, which listeners do.
func (p *Settings) Timed() bool { return p != nil && (p.TCPIdle != nil || p.MaxDuration != nil) }
