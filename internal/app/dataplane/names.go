package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/tullemesh/tulle/internal/agent/dns"
	"github.com/tullemesh/tulle/internal/proxy/xdsclient"
	"github.com/tullemesh/tulle/internal/wire"
)

// names is the DNS proxy of a workload whose queries are captured: its table
// is the name table that the xDS server sends (Istio's NDS).
type names struct {
	server      *dns.Server
	client      dns.Client
	packets     net.PacketConn
	connections net.Listener
}

// listenNames binds the DNS proxy of a node. Names outside of the mesh fail:
// the namespaces that capture makes reach no resolver.
func listenNames(ctx context.Context, o Options, node *wire.Node) (*names, error) {
	at, err := netip.ParseAddrPort(o.DNS)
	if err != nil {
		return nil, fmt.Errorf("DNS address: %w", err)
	}
	// The node's domain is NAMESPACE.svc.CLUSTER-DOMAIN, by Istio's convention.
	_, cluster, ok := strings.Cut(node.Domain, ".svc.")
	if !ok {
		return nil, fmt.Errorf("DNS needs a node id with a domain NAMESPACE.svc.DOMAIN, it is %q", node.ID)
	}
	n := &names{server: dns.New(dns.Options{Own: []string{cluster}, Log: o.Log}),
		client: dns.Client{Namespace: node.Namespace, Domain: cluster, Search: dns.SearchDomains(node.Namespace, cluster)}}
	if n.packets, n.connections, err = dns.ListenBoth(ctx, at); err != nil {
		return nil, err
	}
	return n, nil
}

// Run answers until ctx ends.
func (n *names) Run(ctx context.Context) error { return n.server.Run(ctx, n.packets, n.connections) }

// apply takes the name table, of which there is one. Its removal leaves the
// last one: names that are gone are gone from the table itself.
func (n *names) apply(u xdsclient.Update) []wire.Rejection {
	var refused []wire.Rejection
	for _, r := range u.Added {
		hosts, err := dns.ParseNameTable(r.Body.GetValue())
		if err == nil {
			var table *dns.Table
			if table, err = dns.NewTable(hosts, n.client); err == nil {
				n.server.SetTable(table)
				continue
			}
		}
		refused = append(refused, wire.Rejection{Name: r.Name, Reason: err.Error()})
	}
	return refused
}
