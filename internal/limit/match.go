package limit

// Patterns in configuration. Both planes compile them with the same code, so what the control plane accepts the proxy can run.
const (
	// RegexBytesMax bounds the source of one regular expression. Istio and Envoy set no length; Envoy bounds the compiled program.
	RegexBytesMax = 8 << 10
	// RegexProgramMax bounds the compiled program, in RE2 instructions. Go's are about as many as those that Envoy's
	// re2.max_program_size counts, whose warning level is 100 and whose practical settings are 1000 and above.
	RegexProgramMax = 10_000
	// TemplateSegmentsMax bounds the segments of one path template. Istio's own grammar sets no bound; paths have tens.
	TemplateSegmentsMax = 100
)
