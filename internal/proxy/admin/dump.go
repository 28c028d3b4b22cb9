package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tullemesh/tulle/internal/wire"
)

// configDump answers in the shape of envoy.admin.v3.ConfigDump, sections in
// Envoy's order. Endpoints are there with ?include_eds, as Envoy does it.
// Secrets carry names and validity only.
func (h *handler) configDump(w http.ResponseWriter, r *http.Request) error {
	sections := []func() (proto.Message, error){h.bootstrapDump, h.clustersDump}
	if r.URL.Query().Has("include_eds") {
		sections = append(sections, h.endpointsDump)
	}
	sections = append(sections, h.listenersDump, h.routesDump, h.secretsDump)
	if res := r.URL.Query().Get("resource"); res != "" {
		http.Error(w, "resource= is not served: read the whole dump", http.StatusBadRequest)
		return nil
	}
	dump := &adminv3.ConfigDump{}
	for _, section := range sections {
		m, err := section()
		if err != nil {
			return err
		}
		packed, err := anypb.New(m)
		if err != nil {
			return err
		}
		dump.Configs = append(dump.Configs, packed)
	}
	return writeProto(w, dump)
}

// writeProto writes protojson with the field names of the proto files, as
// Envoy does.
func writeProto(w http.ResponseWriter, m proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("render %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var raw json.RawMessage = data // protojson's spacing is random: make it stable
	return writeJSON(w, raw)
}

func (h *handler) bootstrapDump() (proto.Message, error) {
	id, cluster, metadata := h.p.Node()
	node := &corev3.Node{Id: id, Cluster: cluster, UserAgentName: "tulle", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: h.version}}
	if len(metadata) > 0 {
		node.Metadata = &structpb.Struct{}
		if err := protojson.Unmarshal(metadata, node.Metadata); err != nil {
			return nil, fmt.Errorf("node metadata: %w", err)
		}
	}
	return &adminv3.BootstrapConfigDump{Bootstrap: &bootstrapv3.Bootstrap{Node: node}, LastUpdated: timestamppb.New(h.p.Started())}, nil
}

func (h *handler) clustersDump() (proto.Message, error) {
	out := &adminv3.ClustersConfigDump{}
	for _, r := range h.p.Resources(wire.ClusterType) {
		if r.Static {
			out.StaticClusters = append(out.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{Cluster: r.Body, LastUpdated: timestamppb.New(r.Updated)})
			continue
		}
		out.VersionInfo = r.Version
		out.DynamicActiveClusters = append(out.DynamicActiveClusters, &adminv3.ClustersConfigDump_DynamicCluster{
			VersionInfo: r.Version, Cluster: r.Body, LastUpdated: timestamppb.New(r.Updated)})
	}
	return out, nil
}

func (h *handler) endpointsDump() (proto.Message, error) {
	out := &adminv3.EndpointsConfigDump{}
	for _, r := range h.p.Resources(wire.EndpointType) {
		out.DynamicEndpointConfigs = append(out.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{
			VersionInfo: r.Version, EndpointConfig: r.Body, LastUpdated: timestamppb.New(r.Updated)})
	}
	return out, nil
}

func (h *handler) listenersDump() (proto.Message, error) {
	out := &adminv3.ListenersConfigDump{}
	for _, r := range h.p.Resources(wire.ListenerType) {
		if r.Static {
			out.StaticListeners = append(out.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{Listener: r.Body, LastUpdated: timestamppb.New(r.Updated)})
			continue
		}
		out.VersionInfo = r.Version
		d := &adminv3.ListenersConfigDump_DynamicListener{Name: r.Name, ClientStatus: adminv3.ClientResourceStatus_ACKED,
			ActiveState: &adminv3.ListenersConfigDump_DynamicListenerState{VersionInfo: r.Version, Listener: r.Body, LastUpdated: timestamppb.New(r.Updated)}}
		out.DynamicListeners = append(out.DynamicListeners, d)
	}
	for _, rej := range h.p.Rejected() {
		if rej.TypeURL != wire.ListenerType {
			continue
		}
		failure := &adminv3.UpdateFailureState{Details: rej.Reason, LastUpdateAttempt: timestamppb.New(rej.At), VersionInfo: rej.Version}
		found := false
		for _, d := range out.DynamicListeners {
			if d.Name == rej.Name {
				d.ErrorState, d.ClientStatus, found = failure, adminv3.ClientResourceStatus_NACKED, true
			}
		}
		if !found {
			out.DynamicListeners = append(out.DynamicListeners, &adminv3.ListenersConfigDump_DynamicListener{Name: rej.Name, ErrorState: failure, ClientStatus: adminv3.ClientResourceStatus_NACKED})
		}
	}
	return out, nil
}

func (h *handler) routesDump() (proto.Message, error) {
	out := &adminv3.RoutesConfigDump{}
	for _, r := range h.p.Resources(wire.RouteType) {
		if r.Static {
			out.StaticRouteConfigs = append(out.StaticRouteConfigs, &adminv3.RoutesConfigDump_StaticRouteConfig{RouteConfig: r.Body, LastUpdated: timestamppb.New(r.Updated)})
			continue
		}
		out.DynamicRouteConfigs = append(out.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{
			VersionInfo: r.Version, RouteConfig: r.Body, LastUpdated: timestamppb.New(r.Updated)})
	}
	return out, nil
}

// secretsDump names the secrets; keys and chains never leave the process.
func (h *handler) secretsDump() (proto.Message, error) {
	out := &adminv3.SecretsConfigDump{}
	for _, s := range h.p.Secrets() {
		out.DynamicActiveSecrets = append(out.DynamicActiveSecrets, &adminv3.SecretsConfigDump_DynamicSecret{
			Name: s.Name, VersionInfo: s.Serial, LastUpdated: timestamppb.New(s.Updated)})
	}
	return out, nil
}

func (h *handler) certs(w http.ResponseWriter, _ *http.Request) error {
	out := &adminv3.Certificates{}
	for _, s := range h.p.Secrets() {
		if s.To.IsZero() {
			continue
		}
		d := &adminv3.CertificateDetails{Path: s.Name, SerialNumber: s.Serial, ValidFrom: timestamppb.New(s.From), ExpirationTime: timestamppb.New(s.To)}
		if left := time.Until(s.To); left > 0 {
			d.DaysUntilExpiration = uint64(left / (24 * time.Hour))
		}
		if s.URI != "" {
			d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: s.URI}})
		}
		for _, n := range s.DNS {
			d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: n}})
		}
		c := &adminv3.Certificate{}
		if s.Roots > 0 {
			c.CaCert = []*adminv3.CertificateDetails{d}
		} else {
			c.CertChain = []*adminv3.CertificateDetails{d}
		}
		out.Certificates = append(out.Certificates, c)
	}
	return writeProto(w, out)
}

func (h *handler) serverInfo(w http.ResponseWriter, _ *http.Request) error {
	states := map[State]adminv3.ServerInfo_State{Initializing: adminv3.ServerInfo_PRE_INITIALIZING, Live: adminv3.ServerInfo_LIVE, Draining: adminv3.ServerInfo_DRAINING}
	id, cluster, _ := h.p.Node()
	info := &adminv3.ServerInfo{Version: strings.Join([]string{"tulle", h.version}, "/"), State: states[h.p.State()], Node: &corev3.Node{Id: id, Cluster: cluster}}
	return writeProto(w, info)
}
