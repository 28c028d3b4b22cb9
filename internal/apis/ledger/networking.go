package ledger

// noNetworks is why the network of an endpoint changes nothing.
const noNetworks = "networks differ only where gateways join them, and no such gateway can be set up yet: addresses are dialled as they are, as Istio does without gateways"

// Messages that stand in several places.
const (
	stringMatch = `
		exact
		prefix
		regex`
	destination = `
		host
		subset
		port
		port.number`
	headerOperations = `
		request
		request.set{}
		request.add{}
		request.remove[]
		response
		response.set{}
		response.add{}
		response.remove[]`
	loadBalancer = `
		simple = UNSPECIFIED LEAST_CONN RANDOM PASSTHROUGH ROUND_ROBIN LEAST_REQUEST`
	clientTLS = `
		mode = DISABLE ISTIO_MUTUAL`
	// Suites with keys from RSA or with DES are missing: crypto/tls counts them as insecure.
	cipherSuites = " = ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-RSA-AES256-GCM-SHA384" +
		" ECDHE-ECDSA-CHACHA20-POLY1305 ECDHE-RSA-CHACHA20-POLY1305 ECDHE-ECDSA-AES128-SHA ECDHE-RSA-AES128-SHA ECDHE-ECDSA-AES256-SHA ECDHE-RSA-AES256-SHA\n"
	workload = `
		address
		ports{}
		labels{}
		network ~ ` + noNetworks + `
		locality
		weight
		serviceAccount`
)

func networkingKinds() []*Kind {
	return []*Kind{virtualService(), destinationRule(), gateway(), serviceEntry(), workloadEntry(), sidecar(),
		{Name: "WorkloadGroup", Refused: "WorkloadGroup is not enforced yet: machines join by WorkloadEntry only"},
		{Name: "EnvoyFilter", Refused: "EnvoyFilter is not enforced yet: no patch is applied"},
		{Name: "ProxyConfig", Refused: "ProxyConfig is not enforced yet: proxies run with the mesh's settings"},
		{Name: "WasmPlugin", Refused: "WasmPlugin is not enforced yet: no plugin is loaded"},
		{Name: "TrafficExtension", Refused: "TrafficExtension is not enforced yet: no extension is loaded"},
	}
}

// virtualServiceFields are those without the messages above.
const virtualServiceFields = `
	hosts[]
	gateways[]
	exportTo[]
	http[]
	http[].name
	http[].match[]
	http[].match[].name ~ only a name for messages
	http[].match[].port
	http[].match[].sourceLabels{}
	http[].match[].sourceNamespace
	http[].match[].gateways[]
	http[].match[].ignoreUriCase
	http[].redirect
	http[].redirect.uri
	http[].redirect.authority
	http[].redirect.port
	http[].redirect.derivePort
	http[].redirect.scheme
	http[].redirect.redirectCode
	http[].redirect.prefixRewrite
	http[].directResponse
	http[].directResponse.status
	http[].directResponse.body
	http[].directResponse.body.string
	http[].directResponse.body.bytes
	http[].delegate
	http[].delegate.name
	http[].delegate.namespace
	http[].rewrite
	http[].rewrite.uri
	http[].rewrite.authority
	http[].rewrite.uriRegexRewrite
	http[].rewrite.uriRegexRewrite.match
	http[].rewrite.uriRegexRewrite.rewrite
	http[].timeout
	http[].retries
	http[].retries.attempts
	http[].retries.perTryTimeout
	http[].retries.retryOn
	http[].retries.retryIgnorePreviousHosts
	http[].retries.backoff
	http[].route[]
	http[].route[].weight
	tls[]
	tls[].match[]
	tls[].match[].sniHosts[]
	tls[].match[].destinationSubnets[]
	tls[].match[].port
	tls[].match[].sourceLabels{}
	tls[].match[].gateways[]
	tls[].match[].sourceNamespace
	tls[].route[]
	tls[].route[].weight
	tcp[]
	tcp[].match[]
	tcp[].match[].destinationSubnets[]
	tcp[].match[].port
	tcp[].match[].sourceLabels{}
	tcp[].match[].gateways[]
	tcp[].match[].sourceNamespace
	tcp[].route[]
	tcp[].route[].weight
`

func virtualService() *Kind {
	lines := virtualServiceFields
	for _, field := range []string{"uri", "scheme", "method", "authority", "headers{}", "withoutHeaders{}", "queryParams{}"} {
		lines += under("http[].match[]."+field, stringMatch)
	}
	lines += under("http[].headers", headerOperations) + under("http[].route[].headers", headerOperations) +
		under("http[].route[].destination", destination) + under("tls[].route[].destination", destination) + under("tcp[].route[].destination", destination)
	entries := table(lines)
	for _, field := range []string{"http[].match[].headers{}", "http[].match[].withoutHeaders{}"} {
		entries[field] = Entry{Keys: "@request.auth.claims"}
	}
	return &Kind{Name: "VirtualService", Entries: entries, Reasons: map[string]string{
		"http[].retries":            "retryRemoteLocalities is not enforced yet: without outlierDetection localities have no priorities, so there is none that a retry could leave",
		"http[].fault":              "fault injection is not enforced yet",
		"http[].mirror":             "mirroring is not enforced yet",
		"http[].mirrors[]":          "mirroring is not enforced yet",
		"http[].mirrorPercent":      "mirroring is not enforced yet",
		"http[].mirrorPercentage":   "mirroring is not enforced yet",
		"http[].corsPolicy":         "corsPolicy is not enforced yet",
		"http[].match[].statPrefix": "statistics of a route of its own are not kept yet",
	}}
}

const connectionPool = `
	tcp
	tcp.maxConnections
	tcp.connectTimeout
	tcp.tcpKeepalive
	tcp.tcpKeepalive.probes
	tcp.tcpKeepalive.time
	tcp.tcpKeepalive.interval
	tcp.maxConnectionDuration
	tcp.idleTimeout
	http
	http.http1MaxPendingRequests
	http.http2MaxRequests
	http.maxRequestsPerConnection
	http.maxRetries
	http.idleTimeout
	http.useClientProtocol
	http.maxConcurrentStreams
	http.http2KeepAlive
	http.http2KeepAlive.interval
	http.http2KeepAlive.timeout
`

func destinationRule() *Kind {
	policy := under("loadBalancer", loadBalancer) + under("tls", clientTLS) + under("connectionPool", connectionPool+`
		http.h2UpgradePolicy`)
	ports := under("portLevelSettings[]", policy+`
		port
		port.number`)
	const proxyHeader = `
		proxyProtocol
		proxyProtocol.version`
	lines := `
		host
		exportTo[]
		workloadSelector
		workloadSelector.matchLabels{}
		subsets[]
		subsets[].name
		subsets[].labels{}
	` + under("trafficPolicy", policy+ports+proxyHeader) + under("subsets[].trafficPolicy", policy+ports+proxyHeader)
	reasons := map[string]string{}
	for _, place := range []string{"trafficPolicy.", "subsets[].trafficPolicy.", "trafficPolicy.portLevelSettings[].", "subsets[].trafficPolicy.portLevelSettings[]."} {
		reasons[place+"outlierDetection"] = "outlierDetection is not enforced yet: no endpoint is ejected"
		reasons[place+"loadBalancer.consistentHash"] = "consistentHash is not enforced yet"
		reasons[place+"loadBalancer.localityLbSetting"] = "locality settings of a destination are not enforced yet"
		reasons[place+"loadBalancer.zoneAwareLbSetting"] = "locality settings of a destination are not enforced yet"
		reasons[place+"loadBalancer.warmup"] = "warm-up is not enforced yet"
		reasons[place+"loadBalancer.warmupDurationSecs"] = "warm-up is not enforced yet"
	}
	return &Kind{Name: "DestinationRule", Entries: table(lines), Reasons: reasons}
}

func gateway() *Kind {
	return &Kind{Name: "Gateway", Entries: table(`
		selector{}
		servers[]
		servers[].port
		servers[].port.number
		servers[].port.protocol
		servers[].port.name
		servers[].port.targetPort ~ Istio's validation refuses it: it has no meaning at a gateway
		servers[].bind
		servers[].hosts[]
		servers[].name ~ a name for people: no proxy is told it, nor does Istio
		servers[].tls
		servers[].tls.httpsRedirect
		servers[].tls.mode
		servers[].tls.serverCertificate
		servers[].tls.privateKey
		servers[].tls.caCertificates
		servers[].tls.credentialName
		servers[].tls.credentialNames[]
		servers[].tls.minProtocolVersion = TLS_AUTO TLSV1_2 TLSV1_3
		servers[].tls.maxProtocolVersion = TLS_AUTO TLSV1_2 TLSV1_3
		servers[].tls.cipherSuites[]` + cipherSuites), Reasons: map[string]string{
		"servers[].tls.subjectAltNames[]": "subjectAltNames are not enforced yet: every certificate of the client CA would be let in",
	}}
}

func serviceEntry() *Kind {
	return &Kind{Name: "ServiceEntry", Entries: table(`
		hosts[]
		addresses[]
		ports[]
		ports[].number
		ports[].protocol
		ports[].name
		ports[].targetPort
		location
		resolution = NONE STATIC DNS DNS_ROUND_ROBIN
		workloadSelector
		workloadSelector.labels{}
		exportTo[]
	` + under("endpoints[]", workload)), Reasons: map[string]string{
		"subjectAltNames[]": "subjectAltNames are not enforced yet: the server's name would not be checked",
	}}
}

func workloadEntry() *Kind {
	return &Kind{Name: "WorkloadEntry", Entries: table(workload)}
}

func sidecar() *Kind {
	const noUpgrade = "h2UpgradePolicy has no meaning for inbound traffic: the app is spoken to as its port says, or with useClientProtocol as the client speaks"
	return &Kind{Name: "Sidecar", Entries: table(`
		workloadSelector
		workloadSelector.labels{}
		ingress[]
		ingress[].port
		ingress[].port.number
		ingress[].port.protocol
		ingress[].port.name ~ a name for people: no proxy is told it, nor does Istio
		ingress[].bind
		ingress[].captureMode
		ingress[].defaultEndpoint
		ingress[].tls
		ingress[].tls.mode
		ingress[].tls.serverCertificate
		ingress[].tls.privateKey
		ingress[].tls.caCertificates
		ingress[].tls.minProtocolVersion = TLS_AUTO TLSV1_2 TLSV1_3
		ingress[].tls.maxProtocolVersion = TLS_AUTO TLSV1_2 TLSV1_3
		ingress[].tls.cipherSuites[]` + cipherSuites + `
		egress[]
		egress[].port
		egress[].port.number
		egress[].port.protocol
		egress[].port.name ~ a name for people: no proxy is told it, nor does Istio
		egress[].bind
		egress[].captureMode
		egress[].hosts[]
		outboundTrafficPolicy
		outboundTrafficPolicy.mode = REGISTRY_ONLY ALLOW_ANY
	` + under("ingress[].connectionPool", connectionPool) + under("inboundConnectionPool", connectionPool)), Reasons: map[string]string{
		"ingress[].connectionPool.http.h2UpgradePolicy": noUpgrade,
		"ingress[].tls.subjectAltNames[]":               "subjectAltNames are not enforced yet: every certificate of the client CA would be let in",
		"inboundConnectionPool.http.h2UpgradePolicy":    noUpgrade,
		"outboundTrafficPolicy.egressProxy":             "egressProxy is not enforced yet",
	}}
}
