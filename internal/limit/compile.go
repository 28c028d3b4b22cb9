package limit

// Resources that a control plane sends. It is trusted to decide, but a mistake of it must not exhaust the proxy.
const (
	// ChainCombinationsMax bounds the single matches that the filter chain matches of one listener stand for together. A gateway
	// with some ten thousand hosts comes near; products of lists beyond are mistakes.
	ChainCombinationsMax = 1 << 18
	// PolicyDepthMax bounds the nesting of conditions in an authorization policy. Istio's have under 8 levels.
	PolicyDepthMax = 64
)
