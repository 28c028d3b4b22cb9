package ledger

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
)

// Names of the ledgers of what Istio reads off metadata.
const (
	Annotations = "Annotations"
	Labels      = "Labels"
)

// Reasons that hold for many annotations and labels.
const (
	noInjection = "of the sidecar's container, which nothing injects yet"
	ofEnvoy     = "of Envoy's own process and statistics"
	oneMesh     = "chooses among several control planes; here there is one"
	noWaypoints = "ambient mode is not built: workloads have proxies of their own, or none"
	ofGateways  = "of the Deployment that Istio makes of a Gateway of the Gateway API, a kind that is refused"
	byStatus    = "written by a control plane, for people"
	byProject   = "what is captured follows the flags of the agent and the project file, not annotations"
)

// metadataKinds are the ledgers of annotations and labels: names instead of patterns.
func metadataKinds() []*Kind {
	return []*Kind{
		{Name: Annotations, Entries: table(annotations() + `
			networking.istio.io/exportTo
			istio.io/autoRegistrationGroup
			istio.io/dry-run ~ of AuthorizationPolicy, a kind that is refused
			galley.istio.io/analyze-suppress ~ every problem is told
			kubernetes.io/ingress.class ~ Kubernetes Ingress is not read
			istio.io/rev ~ ` + oneMesh + `
			alpha.istio.io/canonical-serviceaccounts ! - ! only the service accounts of the endpoints may answer for the service
			alpha.istio.io/kubernetes-serviceaccounts ! - ! only the service accounts of the endpoints may answer for the service
			networking.istio.io/traffic-distribution ! - ! calls go to endpoints of all zones alike
			proxy.istio.io/config ! - ! proxies run with the mesh's settings
			traffic.istio.io/nodeSelector ! - ! gateways between networks are not built
			topology.istio.io/controlPlaneClusters ~ ` + oneMesh + `
			istio.io/reroute-virtual-interfaces ! - ! ` + byProject + `
			istio.io/use-waypoint-canary-weight ! - ! ` + noWaypoints + `
			sidecar.istio.io/inject ! true ! which workloads have a proxy follows the project file
		`)},
		{Name: Labels, Entries: table(`
			security.istio.io/tlsMode
			service.istio.io/canonical-name
			service.istio.io/canonical-revision
			service.istio.io/workload-name
			topology.istio.io/locality
			topology.istio.io/subzone
			topology.istio.io/network ~ ` + noNetworks + `
			topology.istio.io/cluster ~ a label for metrics; the registry names the cluster
			sidecar.istio.io/inject ! true ! which workloads have a proxy follows the project file
			networking.istio.io/enable-autoallocate-ip ! true ! an address is allocated as for other entries
			networking.istio.io/gatewayPort ! - ! gateways between networks are not built
			istio.io/dataplane-mode ! none ! ` + noWaypoints + `
			istio.io/use-waypoint ! none ! ` + noWaypoints + `
		` + others("istio.io/", "rev tag", oneMesh) +
			tells("istio.io/", "ingress-use-waypoint use-waypoint-canary use-waypoint-canary-namespace use-waypoint-namespace waypoint-for", noWaypoints) +
			others("operator.istio.io/", "component managed version", byStatus) +
			others("", "gateway.istio.io/managed gateway.networking.k8s.io/gateway-class-name gateway.networking.k8s.io/gateway-name", ofGateways))},
	}
}

func annotations() string {
	return tells("traffic.sidecar.istio.io/", `excludeInboundPorts excludeInterfaces excludeOutboundIPRanges excludeOutboundPorts includeInboundPorts
			includeOutboundIPRanges includeOutboundPorts kubevirtInterfaces`, byProject) +
		"sidecar.istio.io/interceptionMode ! - ! " + byProject + "\n" +
		tells("ambient.istio.io/", "bypass-inbound-capture dns-capture waypoint-inbound-binding", noWaypoints) +
		others("ambient.istio.io/", "redirection", byStatus) +
		others("istio.io/", "connectedAt disconnectedAt workloadController", byStatus) +
		others("gateway.istio.io/", "controller-version name-override service-account", ofGateways) +
		others("networking.istio.io/", "service-type", ofGateways) +
		others("sidecar.istio.io/", `nativeSidecar proxyCPU proxyCPULimit proxyImage proxyImageType proxyMemory proxyMemoryLimit rewriteAppHTTPProbers
			status userVolume userVolumeMount`, noInjection) +
		others("sidecar.istio.io/", `agentLogLevel bootstrapOverride componentLogLevel discoveryAddress extraStatTags logLevel statsCompression
			statsEvictionInterval statsFlushInterval statsHistogramBins statsHistogramBuckets statsInclusionPrefixes statsInclusionRegexps
			statsInclusionSuffixes`, ofEnvoy) +
		others("readiness.status.sidecar.istio.io/", "applicationPorts failureThreshold initialDelaySeconds periodSeconds", noInjection) +
		others("", "status.sidecar.istio.io/port inject.istio.io/templates proxy.istio.io/overrides prometheus.istio.io/merge-metrics", noInjection)
}

// tells are lines for names whose use is told, for one reason.
func tells(place, names, message string) string {
	var b strings.Builder
	for _, name := range strings.Fields(names) {
		b.WriteString(place + name + " ! - ! " + message + "\n")
	}
	return b.String()
}

// metadataFields lists a ledger of names.
func (k *Kind) metadataFields() []Field {
	var all []Field
	for _, name := range slices.Sorted(maps.Keys(k.Entries)) {
		all = append(all, Field{Pattern: name, Entry: k.Entries[name]})
	}
	return all
}

// tellMetadata tells which annotations and labels of Istio are not honoured.
func (l *Ledger) tellMetadata(found []problem.Problem, meta *document.Node, path string) []problem.Problem {
	for _, in := range []struct{ kind, other, field, word, otherWord string }{
		{Annotations, Labels, "annotations", "an annotation", "a label"}, {Labels, Annotations, "labels", "a label", "an annotation"},
	} {
		values := meta.Lookup(in.field)
		if values == nil {
			continue
		}
		for i := range values.Fields {
			f := &values.Fields[i]
			at := document.Join(path+"."+in.field, f.Name)
			entry, known := l.kinds[in.kind].Entries[f.Name]
			switch _, elsewhere := l.kinds[in.other].Entries[f.Name]; {
			case known && entry.Told != "" && !entry.harmless(f.Value.Text):
				found = append(found, notHonoured(at, f.Name+" is not honoured: "+entry.Told))
			case known || !strings.Contains(f.Name, "istio.io/"):
			case elsewhere:
				p := notHonoured(at, f.Name+" is "+in.otherWord+": as "+in.word+" it does nothing")
				p.Hint = "write it as " + in.otherWord
				found = append(found, p)
			default:
				if name := l.misspelt(in.kind, f.Name); name != "" {
					p := notHonoured(at, "Istio knows no such name: it does nothing")
					p.Hint = "did you mean " + strconv.Quote(name) + "?"
					found = append(found, p)
				}
			}
		}
	}
	return found
}

// misspelt is the name that is nearly written; empty: there is none.
func (l *Ledger) misspelt(kind, name string) string {
	names := slices.Sorted(maps.Keys(l.kinds[kind].Entries))
	if !schema.Near(name, names) {
		return ""
	}
	return schema.Nearest(name, names)
}
