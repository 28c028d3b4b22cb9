package fact

// Verdict says what a decision made of a candidate.
type Verdict string

// The verdicts of a trace.
const (
	Chosen  Verdict = "chosen"
	Skipped Verdict = "skipped"
	Allowed Verdict = "allowed"
	Denied  Verdict = "denied"
	Failed  Verdict = "failed"
)

// Stage names the part of a decision that a step belongs to.
type Stage string

// The stages, in the order in which traffic meets them.
const (
	StageListener    Stage = "listener"
	StageFilterChain Stage = "filter_chain"
	StageTransport   Stage = "transport"
	StageNetwork     Stage = "network_filter"
	StageFilter      Stage = "http_filter"
	StageVirtualHost Stage = "virtual_host"
	StageRoute       Stage = "route"
	StageCluster     Stage = "cluster"
)

// Step is one candidate that a decision considered.
type Step struct {
	Stage   Stage   `json:"stage"`
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Reason says why, in words for people.
	Reason string `json:"reason,omitempty"`
	// Origin is the encoded wire.Origin of the candidate, or empty.
	Origin string `json:"origin,omitempty"`
}

// Trace collects steps. A nil Trace collects nothing; callers test for nil
// before they build a reason, so that the hot path builds none.
type Trace struct{ Steps []Step }

// Add appends a step.
func (t *Trace) Add(s Step) {
	if t != nil {
		t.Steps = append(t.Steps, s)
	}
}
