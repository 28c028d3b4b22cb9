package limit

import "time"

// What runs beside a workload: capture and the DNS proxy. The workload itself is the peer here, and the resolvers behind.
const (
	// NamespacesMax bounds the network namespaces of a run: a kernel's bridge has 1,024 ports (BR_PORT_BITS).
	NamespacesMax = 1_000
	// RelayConnectionsMax bounds the connections that one relay out of the namespaces carries at once; more are closed at once.
	RelayConnectionsMax = 1_024
	// DNSQueriesMax bounds the queries of one workload that wait for a resolver at once; more are answered SERVFAIL. A query waits for
	// DNSForwardTime at most, and glibc sends two at a time for each name.
	DNSQueriesMax = 256
	// DNSConnectionsMax bounds the TCP connections to one DNS proxy.
	DNSConnectionsMax = 128
	// DNSForwardTime bounds one forwarded query over all resolvers. glibc gives up after 5 s (resolv.conf(5): timeout).
	DNSForwardTime = 4 * time.Second
	// DNSMessageBytesMax is the largest UDP answer that we offer (EDNS, RFC 6891 §6.2.5), as recommended against fragments (DNS flag day 2020).
	DNSMessageBytesMax = 1232
	// DNSTableHostsMax bounds the names of a table, aliases included. Istio's tables hold four for each service.
	DNSTableHostsMax = 500_000
	// DNSAnswerAddressesMax bounds the addresses of one answer; a headless service may have more endpoints than a message holds.
	DNSAnswerAddressesMax = 256
)
