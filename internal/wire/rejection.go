package wire

import "strings"

// Rejection is one resource that a client refused, with its reason.
type Rejection struct {
	// Name is the resource's; empty when the client named none.
	Name string
	// Reason is for people: what is wrong and where.
	Reason string
}

// rejectionsMax and rejectionBytesMax bound what one NACK may say: a
// google.rpc.Status travels in a request and is kept for `status`.
const (
	rejectionsMax     = 64
	rejectionBytesMax = 1024
)

// envoyPrefixes begin Envoy's NACK messages, e.g. "Error adding/updating
// listener(s) NAME: reason" (Envoy, listener_manager, cds_api_helper,
// config_subscription).
func envoyPrefixes() []string {
	return []string{"Error adding/updating listener(s) ", "Error adding/updating cluster(s) "}
}

// FormatRejections is the message of our NACK: a line "name: reason" for each
// refused resource.
func FormatRejections(rs []Rejection) string {
	var b strings.Builder
	for i, r := range rs {
		if i == rejectionsMax {
			b.WriteString("\n: and more")
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(r.Name)
		b.WriteString(": ")
		b.WriteString(strings.ReplaceAll(clip(r.Reason), "\n", "; "))
	}
	return b.String()
}

// ParseRejections reads what FormatRejections and Envoy write. A line that
// names no resource becomes a Rejection without Name, so nothing is lost.
// Names of resources hold no ": ".
func ParseRejections(message string) []Rejection {
	for _, p := range envoyPrefixes() {
		message = strings.TrimPrefix(message, p)
	}
	var out []Rejection
	for _, line := range strings.Split(message, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if len(out) == rejectionsMax {
			break
		}
		name, reason, ok := strings.Cut(line, ": ")
		if !ok || strings.ContainsAny(name, " \t") {
			name, reason = "", line
		}
		out = append(out, Rejection{Name: name, Reason: clip(strings.TrimPrefix(reason, ": "))})
	}
	return out
}

func clip(s string) string {
	if len(s) > rejectionBytesMax {
		return strings.ToValidUTF8(s[:rejectionBytesMax], "") + "…"
	}
	return s
}
