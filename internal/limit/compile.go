package limit

// Resources that a control plane sends. It is trusted to decide, but a mistake of it must not exhaust the proxy.
const (
	// ChainCombinationsMax bounds the single matches that one filter chain match stands for. A ServiceEntry with some thousand
	// addresses and hosts comes near; products beyond are mistakes.
	ChainCombinationsMax = 1 << 16
	// PolicyDepthMax bounds the nesting of conditions in an authorization policy. Istio's have under 8 levels.
	PolicyDepthMax = 64
)
