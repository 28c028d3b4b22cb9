package message

import "strings"

// MayTrail reports whether a field may stand in trailers, whatever protocol
// carries them; the name is in lower case. Those may not that frame, route,
// authenticate or explain the message (RFC 9110 §6.5.1), and those that only
// proxies may state: recipients that merge trailers into the head would take
// them for ours.
func MayTrail(name string) bool {
	switch name {
	case "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
		"host", "authorization", "proxy-authorization", "cookie", "set-cookie", "content-type", "content-encoding", "content-range",
		"expect", "cache-control", "max-forwards", "range", "forwarded":
		return false
	}
	return !strings.HasPrefix(name, "x-forwarded-") && !strings.HasPrefix(name, "x-envoy-")
}
