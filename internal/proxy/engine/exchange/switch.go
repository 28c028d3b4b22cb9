package exchange

import "slices"

// A request that switches to another protocol has one form in an exchange,
// whatever carries it: HTTP/1.1's GET with Upgrade, and 101 as its answer. In
// HTTP/2 it is an extended CONNECT and 200 (RFC 8441).

// ConnectType is the upgrade type that stands for CONNECT itself (Envoy:
// upgrade_configs).
const ConnectType = "connect"

// UpgradeAllowed reports whether the listener or the route allows the wanted
// upgrade (Envoy: upgrade_configs). CONNECT is not one that can be asked for by
// name.
func (x *Exchange) UpgradeAllowed() bool {
	wanted := string(x.Upgrade)
	if wanted == ConnectType {
		return false
	}
	if slices.Contains(x.Manager.Upgrades, wanted) {
		return true
	}
	r := x.Result.Route
	return r != nil && r.Forward != nil && slices.Contains(r.Forward.Upgrades, wanted)
}
