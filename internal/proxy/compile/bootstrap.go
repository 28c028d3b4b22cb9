package compile

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
	"github.com/tullemesh/tulle/internal/wire"
)

// Errors of Bootstrap.
var (
	ErrBootstrapSyntax = errors.New("bootstrap does not parse")
	ErrBootstrapLarge  = errors.New("bootstrap is too large")
)

// Boot is what a proxy starts with.
type Boot struct {
	// Node is what the client says of itself, or nil.
	Node *corev3.Node
	// Admin is the admin port's address; zero: none.
	Admin netip.AddrPort
	// Static are the static resources by type URL, for Builder.Apply.
	Static map[string][]*wire.Resource
	// ADS is where dynamic resources come from, or nil.
	ADS *Server
	// Listeners and Clusters say which of the two the server lists by itself.
	Listeners, Clusters bool
}

// Server is an xDS server.
type Server struct {
	// Target is "host:port" or "unix:///path".
	Target string
	// Delta asks for the incremental protocol.
	Delta bool
	// TLS is nil for plaintext; Secrets are its inline certificates.
	TLS     *tls.ClientSpec
	Secrets []*tls.Secret
}

// Bootstrap reads an Envoy v3 bootstrap in YAML or JSON. What the file asks for
// and tulle does not do is refused by name and place; static resources are
// checked when they are applied, by their own compilers, and here only in form.
func (c *Compiler) Bootstrap(data []byte) (*Boot, Report, error) {
	if len(data) > limit.FileBytesMax {
		return nil, Report{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrBootstrapLarge, len(data), limit.FileBytesMax)
	}
	asJSON, err := yamlToJSON(data)
	if err != nil {
		return nil, Report{}, fmt.Errorf("%w: %w", ErrBootstrapSyntax, err)
	}
	var m bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(asJSON, &m); err != nil {
		return nil, Report{}, fmt.Errorf("%w: %w", ErrBootstrapSyntax, err)
	}
	var report Report
	v := c.begin("bootstrap", &m, &report)
	if report.Refused() {
		return nil, report, nil
	}
	b := v.bootstrap(&m)
	if report.Refused() {
		return nil, report, nil
	}
	return b, report, nil
}

// yamlToJSON converts one document. yaml.v3 bounds aliases by itself.
func yamlToJSON(data []byte) ([]byte, error) {
	var doc any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (v *conv) bootstrap(m *bootstrapv3.Bootstrap) *Boot {
	b := &Boot{Node: m.GetNode(), Static: map[string][]*wire.Resource{}}
	if a := m.GetAdmin().GetAddress(); a != nil {
		b.Admin = v.socket(a, "admin.address")
	}
	static := m.GetStaticResources()
	for i, l := range static.GetListeners() {
		v.static(b, wire.ListenerType, l.GetName(), l, fmt.Sprintf("static_resources.listeners[%d]", i))
	}
	for i, s := range static.GetClusters() {
		if s.GetName() != "" && s.GetName() == adsCluster(m) {
			continue // it is only the way to the server
		}
		v.static(b, wire.ClusterType, s.GetName(), s, fmt.Sprintf("static_resources.clusters[%d]", i))
	}
	for i, s := range static.GetSecrets() {
		v.static(b, wire.SecretType, s.GetName(), s, fmt.Sprintf("static_resources.secrets[%d]", i))
	}
	v.dynamic(b, m)
	return b
}

func (v *conv) static(b *Boot, typeURL, name string, m proto.Message, path string) {
	if name == "" {
		v.report.invalid(join(path, "name"), "a name is needed")
		return
	}
	r, err := wire.NewResource(name, m)
	if err != nil {
		v.report.invalid(path, err.Error())
		return
	}
	for _, other := range b.Static[typeURL] {
		if other.Name == name {
			v.report.invalid(join(path, "name"), fmt.Sprintf("%q is taken", name))
		}
	}
	b.Static[typeURL] = append(b.Static[typeURL], r)
}

// adsCluster is the name of the cluster that ads_config goes through.
func adsCluster(m *bootstrapv3.Bootstrap) string {
	for _, g := range m.GetDynamicResources().GetAdsConfig().GetGrpcServices() {
		if name := g.GetEnvoyGrpc().GetClusterName(); name != "" {
			return name
		}
	}
	return ""
}

func (v *conv) dynamic(b *Boot, m *bootstrapv3.Bootstrap) {
	d := m.GetDynamicResources()
	if d == nil {
		return
	}
	if s := d.GetLdsConfig(); s != nil {
		v.wantADS(s, "dynamic_resources.lds_config")
		b.Listeners = true
	}
	if s := d.GetCdsConfig(); s != nil {
		v.wantADS(s, "dynamic_resources.cds_config")
		b.Clusters = true
	}
	const path = "dynamic_resources.ads_config"
	b.ADS = &Server{}
	switch d.GetAdsConfig().GetApiType() {
	case corev3.ApiConfigSource_GRPC:
	case corev3.ApiConfigSource_DELTA_GRPC:
		b.ADS.Delta = true
	default:
		v.report.refuse(path+".api_type", "only GRPC and DELTA_GRPC are supported")
	}
	if d.GetAdsConfig().GetTransportApiVersion() != corev3.ApiVersion_V3 {
		v.report.refuse(path+".transport_api_version", "only V3 is supported")
	}
	name := adsCluster(m)
	for i, c := range m.GetStaticResources().GetClusters() {
		if c.GetName() == name && name != "" {
			v.server(b.ADS, c, fmt.Sprintf("static_resources.clusters[%d]", i))
			return
		}
	}
	v.report.invalid(path+".grpc_services", fmt.Sprintf("no static cluster is called %q", name))
}

// server reads where the xDS server is: the one endpoint of its cluster.
func (v *conv) server(s *Server, m *clusterv3.Cluster, path string) {
	if countEndpoints(m) != 1 {
		v.report.refuse(join(path, "load_assignment"), "the cluster of the xDS server must have one endpoint")
		return
	}
	for _, l := range m.GetLoadAssignment().GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress()
			if p := a.GetPipe().GetPath(); p != "" {
				s.Target = "unix://" + p
			} else {
				port := v.port(a.GetSocketAddress().GetPortValue(), path)
				s.Target = net.JoinHostPort(a.GetSocketAddress().GetAddress(), strconv.Itoa(int(port)))
			}
		}
	}
	if t := m.GetTransportSocket(); t != nil {
		at := join(path, "transport_socket.typed_config")
		if _, ok := v.unpacked[t.GetTypedConfig()].(*tlsv3.UpstreamTlsContext); !ok {
			v.report.refuse(at, "only TLS is supported")
			return
		}
		s.TLS = v.clientTLS(t, at, false)
		s.Secrets, v.secrets = v.secrets, nil
	}
}
