package limit

// Configuration files. They come from the user's disk, an editor that saves half a file, or a platform's store, so the bounds keep
// one bad file from stopping a control plane that has good ones.
const (
	// FileBytesMax bounds one configuration file. Istio's own CRD bundle is 1 MiB; rendered charts of large meshes reach a few.
	FileBytesMax = 16 << 20
	// DocumentBytesMax bounds one YAML document. etcd refuses objects above 1.5 MiB, a List holds many of them.
	DocumentBytesMax = 8 << 20
	// DocumentsMax bounds the documents of one file.
	DocumentsMax = 10_000
	// DocumentDepthMax bounds the nesting of one document. The deepest path of Istio's APIs has under 20 levels; EnvoyFilter patches have more.
	DocumentDepthMax = 100
	// DocumentNodesMax bounds the nodes of one document after aliases are followed: a few kilobytes of nested aliases can name billions.
	DocumentNodesMax = 1_000_000
	// AliasNodesMax bounds the nodes that aliases add to one document. Honest files share a few labels.
	AliasNodesMax = 100_000
	// FileProblemsMax bounds the problems that one file reports; the rest are counted.
	FileProblemsMax = 1_000
	// ListDepthMax bounds Kubernetes Lists inside Lists.
	ListDepthMax = 4
)
