package apis

import (
	"slices"
	"strings"
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/ledger"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
	"github.com/tullemesh/tulle/internal/apis/validate"
)

const (
	meshKind   = ledger.MeshConfig
	proxyField = "defaultConfig"
)

// DecodeMeshConfig reads a mesh configuration (Istio's meshConfig, without the ConfigMap around it) over Istio's defaults. A misfit
// field is a problem and keeps its default; the other fields hold, so the result is never nil.
func DecodeMeshConfig(file string, data []byte) (*meshconfig.MeshConfig, []Problem) {
	config := DefaultMeshConfig()
	docs, problems := document.Parse(data)
	for i := range docs {
		doc := &docs[i]
		problems = append(problems, doc.Problems...)
		switch {
		case doc.Root == nil:
		case i > 0:
			problems = append(problems, Problem{Code: problem.CodeNotObject, Level: LevelError, Position: Position{Line: doc.Root.Line, Column: doc.Root.Column},
				Message: "a mesh configuration is one document", Hint: "remove this document"})
		default:
			found := applyMesh(config, doc.Root)
			for j := range found {
				if !found[j].Position.Known() {
					p := at(file, doc.Root, found[j].Path)
					found[j].Position = p
				}
			}
			problems = append(problems, found...)
		}
	}
	for i := range problems {
		p := &problems[i]
		p.Key, p.Position.File = Key{Kind: meshKind, Name: "mesh"}, file
		if p.Effect == "" {
			p.Effect = "the field is ignored; the rest of the mesh configuration holds"
		}
		if p.Code == problem.CodeFieldUnsupported || p.Code == problem.CodeValueUnsupported {
			p.Code = problem.CodeMeshUnsupported
		}
	}
	problem.Sort(problems)
	return config, problems
}

// applyMesh sets what is written over config and judges it.
func applyMesh(config *meshconfig.MeshConfig, root *document.Node) []Problem {
	written := &meshconfig.MeshConfig{}
	problems := schema.Proto(root, written, "")
	for _, p := range validate.MeshConfig(written) {
		if !slices.ContainsFunc(problems, func(u Problem) bool { return holds(u.Path, p.Path) }) {
			problems = append(problems, p)
		}
	}
	problems = append(problems, ledger.New().Check(meshKind, written.ProtoReflect(), "")...)
	misfits := func(base string) func(document.Field) bool {
		return func(f document.Field) bool {
			path := document.Join(base, f.Name)
			return slices.ContainsFunc(problems, func(p Problem) bool {
				inside := p.Path == path || strings.HasPrefix(p.Path, path+".") || strings.HasPrefix(p.Path, path+"[")
				return inside && (p.Level == LevelError || p.Code == problem.CodeValueUnsupported)
			})
		}
	}
	rest := *root
	rest.Fields = slices.DeleteFunc(slices.Clone(root.Fields), misfits(""))
	rest.Fields = slices.DeleteFunc(rest.Fields, func(f document.Field) bool { return f.Name == proxyField })
	providers := config.ExtensionProviders
	schema.Proto(&rest, config, "") // its problems are those found above
	if proxy := root.Lookup(proxyField); proxy != nil && proxy.Kind == document.Map {
		fitting := *proxy
		fitting.Fields = slices.DeleteFunc(slices.Clone(proxy.Fields), misfits(proxyField))
		schema.Proto(&fitting, config.DefaultConfig, proxyField)
	}
	for _, p := range providers { // Istio merges providers by name
		if !slices.ContainsFunc(config.ExtensionProviders, func(q *meshconfig.MeshConfig_ExtensionProvider) bool { return q.Name == p.Name }) {
			config.ExtensionProviders = append(config.ExtensionProviders, p)
		}
	}
	return problems
}

// DefaultMeshConfig is what Istio assumes where nothing is written (pkg/config/mesh, DefaultMeshConfig).
func DefaultMeshConfig() *meshconfig.MeshConfig {
	const (
		connectTimeout = 10 * time.Second
		dnsRefreshRate = 60 * time.Second
		outboundPort   = 15001
		inboundPort    = 15006
	)
	everywhere := func() []string { return []string{"*"} }
	return &meshconfig.MeshConfig{
		EnableTracing:                  true,
		AccessLogEncoding:              meshconfig.MeshConfig_TEXT,
		ProtocolDetectionTimeout:       durationpb.New(0),
		IngressService:                 "istio-ingressgateway",
		IngressControllerMode:          meshconfig.MeshConfig_STRICT,
		IngressClass:                   "istio",
		TrustDomain:                    "cluster.local",
		EnableAutoMtls:                 wrapperspb.Bool(true),
		OutboundTrafficPolicy:          &meshconfig.MeshConfig_OutboundTrafficPolicy{Mode: meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY},
		InboundTrafficPolicy:           &meshconfig.MeshConfig_InboundTrafficPolicy{Mode: meshconfig.MeshConfig_InboundTrafficPolicy_PASSTHROUGH},
		LocalityLbSetting:              &networking.LocalityLoadBalancerSetting{Enabled: wrapperspb.Bool(true)},
		DefaultConfig:                  defaultProxyConfig(),
		RootNamespace:                  "istio-system",
		ProxyListenPort:                outboundPort,
		ProxyInboundListenPort:         inboundPort,
		ConnectTimeout:                 durationpb.New(connectTimeout),
		DefaultServiceExportTo:         everywhere(),
		DefaultVirtualServiceExportTo:  everywhere(),
		DefaultDestinationRuleExportTo: everywhere(),
		DnsRefreshRate:                 durationpb.New(dnsRefreshRate),
		EnablePrometheusMerge:          wrapperspb.Bool(true),
		DefaultProviders:               &meshconfig.MeshConfig_DefaultProviders{},
		ExtensionProviders: []*meshconfig.MeshConfig_ExtensionProvider{
			{Name: "prometheus", Provider: &meshconfig.MeshConfig_ExtensionProvider_Prometheus{Prometheus: &meshconfig.MeshConfig_ExtensionProvider_PrometheusMetricsProvider{}}},
			{Name: "stackdriver", Provider: &meshconfig.MeshConfig_ExtensionProvider_Stackdriver{Stackdriver: &meshconfig.MeshConfig_ExtensionProvider_StackdriverProvider{}}},
			{Name: "envoy", Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyFileAccessLog{
				EnvoyFileAccessLog: &meshconfig.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider{Path: "/dev/stdout"},
			}},
		},
	}
}

// defaultProxyConfig is Istio's DefaultProxyConfig.
func defaultProxyConfig() *meshconfig.ProxyConfig {
	const (
		adminPort, statusPort   = 15000, 15020
		statNameBytes           = 189
		drain, terminationDrain = 45 * time.Second, 5 * time.Second
	)
	return &meshconfig.ProxyConfig{
		ConfigPath:               "./etc/istio/proxy",
		ClusterName:              &meshconfig.ProxyConfig_ServiceCluster{ServiceCluster: "istio-proxy"},
		DrainDuration:            durationpb.New(drain),
		TerminationDrainDuration: durationpb.New(terminationDrain),
		ProxyAdminPort:           adminPort,
		ControlPlaneAuthPolicy:   meshconfig.AuthenticationPolicy_MUTUAL_TLS,
		DiscoveryAddress:         "istiod.istio-system.svc:15012",
		BinaryPath:               "/usr/local/bin/envoy",
		StatNameLength:           statNameBytes,
		StatusPort:               statusPort,
	}
}
