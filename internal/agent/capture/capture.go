// Package capture brings a workload's traffic to its proxy.
//
// There are two captures. Proxy is an environment: Environment says which variables make an unchanged program send its calls to a proxy on
// loopback; it needs no privilege and is no boundary. Netns is a machine of its own for each workload (Linux): a network namespace with an
// own address and nftables rules that redirect as Istio's do, so that nothing gets around the proxy.
//
// In comes a project's run (Open) and the names of its workloads (Network.Add); out come Namespaces to start processes, listen and dial
// in. All namespaces hang on one bridge in a namespace that belongs to the run alone, so the host gets no link, no address and no rule.
// Namespaces have no names in the file system: they live by our descriptors and end with us. Network owns them and a state file, by
// which the next run finds processes that a killed one left. Read this file first; then network_linux.go and rules_linux.go.
package capture

import "errors"

// The ports and the user of Istio's capture (istio.io/latest/docs/ops/deployment/application-requirements).
const (
	// OutboundPort takes what the workload sends, InboundPort what is sent to it, DNSPort its name queries.
	OutboundPort = 15001
	InboundPort  = 15006
	DNSPort      = 15053
	// ProxyUID is the user, and the group, of a proxy in a namespace: what it sends is not captured again.
	ProxyUID = 1337
)

// ErrUnavailable is what Open returns where netns capture cannot work; Detect says why and what to do.
var ErrUnavailable = errors.New("netns capture is not available")

// Ability says whether netns capture works here, and if not, why and what to do.
type Ability struct {
	Mode   Mode
	Reason string // why it does not work, or not without more; empty when Mode is Direct
	Remedy string
}

// Mode is how netns capture gets its rights.
type Mode string

// Direct: we may make namespaces. Rootless: we may after RunRootless. Unavailable: neither.
const (
	Direct      Mode = "direct"
	Rootless    Mode = "rootless"
	Unavailable Mode = "unavailable"
)
