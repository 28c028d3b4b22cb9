package limit

// What clients of the data plane can make grow, where no configuration says otherwise; their tests are those of the packages that enforce them.
const (
	// ListenerConnectionsMax bounds the open connections of one listening address: at some 5 KiB each, 330 MiB.
	ListenerConnectionsMax = 65_536
	// RequestsPerTurn is how many requests of a connection that need not wait, of HTTP/2 or pipelined, begin before it gives way to others:
	// they take less than a millisecond, and clients who have fewer under way, as nearly all do, never wait (Envoy: the runtime key
	// http.max_requests_per_io_cycle).
	RequestsPerTurn = 64
	// HeadBytesMax bounds a message's head (Envoy: max_request_headers_kb, 60).
	HeadBytesMax = 60 << 10
	// HeadFieldsMax bounds the fields of a head (Envoy: max_headers_count, 100).
	HeadFieldsMax = 100
	// LeadingLinesMax bounds the empty lines before a request that are skipped (RFC 9112 §2.2: at least one).
	LeadingLinesMax = 1
	// ConnectionFieldsMax bounds the Connection fields of a head. One is usual, and each may be a list.
	ConnectionFieldsMax = 4
	// ChunkDigitsMax bounds the digits of a chunk's size, leading zeros included, so that sizes stay within 60 bits.
	ChunkDigitsMax = 15
	// ChunkExtensionBytesMax bounds the extensions of one chunk, and ExtensionsBytesMax those of a body: many small chunks with
	// extensions make work without data (RFC 9112 §7.1.1).
	ChunkExtensionBytesMax = 256
	ExtensionsBytesMax     = 64 << 10
	// TrailerBytesMax bounds a trailer section; HeadFieldsMax bounds its fields.
	TrailerBytesMax = 8 << 10
	// MethodBytesMax bounds a method; the longest registered one has 17 (IANA HTTP Method Registry).
	MethodBytesMax = 32
	// HelloBytesMax bounds the bytes that the TLS inspector looks at. A ClientHello with post-quantum key shares takes about 2 KiB;
	// Envoy's bound is 16 KiB.
	HelloBytesMax = 16 << 10
	// ProxyHeaderBytesMax bounds a header of the PROXY protocol. Addresses take up to 232 bytes; with the client's certificate
	// among its fields it stays below 4 KiB.
	ProxyHeaderBytesMax = 8 << 10
	// FirstSpeakersMax bounds the destinations that are remembered as ones where the server speaks first: clients choose addresses.
	FirstSpeakersMax = 4096
	// HandshakesMax bounds the TLS handshakes of clients that are going on at once, at some 50 KiB each. A further one ends the oldest:
	// an honest handshake takes a round trip, one that waits for its client longest is the least likely to be honest.
	HandshakesMax = 4096
	// PassedChainsMax bounds the peers' certificate chains that are remembered as verified, 64 bytes each.
	PassedChainsMax = 4096
	// SniffBytesMax bounds what is read of a connection before its filter chain is known: a ClientHello at its limit in many records,
	// with a PROXY header before it.
	SniffBytesMax = 32 << 10
	// SniffLineBytesMax bounds the request line that the HTTP inspector waits for.
	SniffLineBytesMax = 8 << 10
	// LingerBytesMax bounds what is still read of a request that was answered early, or of a peer that was told to go, so that it can read what it
	// was told (RFC 9112 §9.6).
	LingerBytesMax = 256 << 10
	// LabelSetsMax bounds the label sets that a proxy keeps resolved; further ones are resolved for each request.
	LabelSetsMax = 8192
	// PeersMax bounds the peers whose metadata is kept decoded; beyond, all are forgotten, and those in use are decoded again.
	PeersMax = 1024
	// WideBuffersMax bounds the buffers of 64 KiB in use, so that many slow bodies hold small ones: 64 MiB in all.
	WideBuffersMax = 1024
	// UnsentBytesMax bounds what of a connection waits in the kernel for the peer's window (TCP_NOTSENT_LOWAT): 64 KiB, one write of ours. At
	// 10,000 stalled readers that is 700 MB; without it the kernel's memory for TCP is gone with a thousand, and all connections suffer.
	UnsentBytesMax = 64 << 10
	// AccessLogBytesMax bounds the lines that wait for one access log's sink; further ones are dropped and counted.
	AccessLogBytesMax = 1 << 20
)

// What clients choose of the upstream side, and what upstreams send.
const (
	// UpstreamIdleMax bounds the idle connections of one endpoint.
	UpstreamIdleMax = 1024
	// UpstreamPendingMax bounds the requests of a cluster that wait for a connection (Envoy: max_pending_requests, 1024).
	UpstreamPendingMax = 1024
	// OriginalDestinationsMax bounds the live endpoints of an ORIGINAL_DST cluster: clients choose the addresses.
	OriginalDestinationsMax = 4096
	// ChosenNamesMax bounds the DNS answers that are kept for names that clients chose.
	ChosenNamesMax = 1024
	// InformationalMax bounds the informational responses to one request: a server that sends hints for ever would never be late.
	// It bounds those of HTTP/2 that nobody has read yet, too.
	InformationalMax = 32
	// GRPCWebHeldBytesMax bounds what is held of a response that is not one of gRPC, to tell a client of gRPC-Web in grpc-message
	// (Envoy's grpc_web: MAX_BUFFERED_PLAINTEXT_LENGTH). The rest is read and dropped.
	GRPCWebHeldBytesMax = 16 << 10
	// DNSAnswersMax bounds the addresses taken of one answer.
	DNSAnswersMax = 256
)
