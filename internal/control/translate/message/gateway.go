package message

import (
	"net/netip"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// gatewayAddress is where a port is served: where the node says that it binds
// it (TULLE_APP_PORTS, on a machine that the gateway shares), else at the port
// itself.
func gatewayAddress(r *view.Reader, p *plan.GatewayListener) *corev3.Address {
	if at, err := netip.ParseAddrPort(r.AppAddress(strconv.Itoa(p.Port))); err == nil {
		return socketAddress(at.Addr().String(), int(at.Port()))
	}
	return socketAddress(p.Bind, p.Port)
}

// gatewayListener builds one listener of a gateway.
func (w *Writer) gatewayListener(r *view.Reader, name string) *listenerv3.Listener {
	p := plan.GatewayOf(r).Listeners[name]
	if p == nil {
		return nil
	}
	l := &listenerv3.Listener{
		Name: name, Address: gatewayAddress(r, p), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(0),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            w.listenerAccessLog(),
	}
	var chains []*chain
	if p.Protocol.IsHTTP() {
		chains = []*chain{{routes: p.Servers[0].Routes}}
	} else {
		sni := make(map[string]struct{})
		for _, s := range p.Servers {
			chains = mergeChains(chains, w.serverChains(r, s, sni))
		}
	}
	inspect := false
	for _, c := range chains {
		fc := &listenerv3.FilterChain{
			FilterChainMatch: c.match(), TransportSocket: c.tls, TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
		}
		if c.config != nil {
			fc.Metadata = configMetadata(*c.config)
		}
		if c.routes != "" {
			fc.Filters = []*listenerv3.Filter{httpFilter(forProtocol(byRDS(w.gatewayManager("outbound_"+name), c.routes), p.Protocol))}
		} else {
			fc.Filters = w.chainFilters(c)
		}
		inspect = inspect || len(c.sni) > 0 || c.tls != nil
		l.FilterChains = append(l.FilterChains, fc)
	}
	if w.snap.Mesh().Topology.ProxyHeader {
		l.ListenerFilters = append(l.ListenerFilters, proxyHeader())
	}
	if inspect {
		l.ListenerFilters = append(l.ListenerFilters, tlsInspector(nil))
	}
	if len(l.FilterChains) == 0 {
		return nil // Envoy refuses a listener that takes nothing
	}
	return l
}

// serverChains makes the chains of a server that is not plain HTTP. taken are
// the server names that tls rules of earlier servers of the listener have.
func (w *Writer) serverChains(r *view.Reader, s *plan.GatewayServer, taken map[string]struct{}) []*chain {
	if s.Routes != "" {
		return []*chain{{routes: s.Routes, sni: s.SNI, tls: w.serverTLS(s.TLS)}}
	}
	c := &l4Context{r: r, port: s.Port, gateway: s.Gateway}
	rules := w.snap.GatewayRules(s.Gateway, r.Namespace())
	if s.TLS != nil && !plan.Terminates(s.TLS) {
		if s.TLS.Mode == "AUTO_PASSTHROUGH" {
			return autoPassthrough(r, s)
		}
		return passthroughServer(c, s, rules, taken)
	}
	for _, x := range rules {
		if len(plan.Intersect(s.Hosts, x)) == 0 {
			continue
		}
		for _, rule := range x.TCP {
			if !c.takes(rule) {
				continue
			}
			ch := c.forward(rule.Destinations, x)
			ch.config = &x.Origin
			if s.TLS != nil {
				ch.sni, ch.tls = s.SNI, w.serverTLS(s.TLS)
			}
			return []*chain{ch}
		}
	}
	return nil
}

// takes reports whether a tcp rule applies on a gateway: sources and subnets
// are those of sidecars and do not count there (Istio).
func (c *l4Context) takes(rule *model.L4Route) bool {
	for i := range rule.Matches {
		m := &rule.Matches[i]
		if (m.Port == 0 || m.Port == c.port) && (len(m.Gateways) == 0 || slices.Contains(m.Gateways, c.gateway)) {
			return true
		}
	}
	return len(rule.Matches) == 0
}

// passthroughServer leads TLS connections on by the name in the ClientHello.
func passthroughServer(c *l4Context, s *plan.GatewayServer, rules []*model.Rules, taken map[string]struct{}) []*chain {
	var out []*chain
	for _, x := range rules {
		if len(plan.Intersect(s.Hosts, x)) == 0 {
			continue
		}
		for _, rule := range x.TLS {
			for i := range rule.Matches {
				m := &rule.Matches[i]
				if m.Port != 0 && m.Port != s.Port || len(m.Gateways) > 0 && !slices.Contains(m.Gateways, c.gateway) {
					continue
				}
				if !plan.Claim(taken, m.SNIHosts) {
					continue // Envoy refuses two chains with one match
				}
				ch := c.forward(rule.Destinations, x)
				ch.sni, ch.config = m.SNIHosts, &x.Origin
				out = append(out, ch)
			}
		}
	}
	return out
}
