package ledger

// Names of the ledgers of configuration that is no object.
const (
	MeshConfig  = "MeshConfig"
	proxyPrefix = "defaultConfig"
)

// How often a reason holds for several fields of the mesh configuration.
const (
	noIngress = "Kubernetes Ingress is not read, so no mode of it has work to do"
	noBinary  = "of Envoy's own process; the proxy here has one binary and no files of that kind"
	byFlag    = "given to the proxy by its own flags"
)

func meshKinds() []*Kind {
	lines := `
		outboundTrafficPolicy
		outboundTrafficPolicy.mode = REGISTRY_ONLY ALLOW_ANY
		trustDomain
		rootNamespace
		defaultServiceExportTo[]
		defaultVirtualServiceExportTo[]
		defaultDestinationRuleExportTo[]
		enableAutoMtls
		accessLogFile
		accessLogFormat
		accessLogEncoding = TEXT
		connectTimeout
		dnsRefreshRate
		protocolDetectionTimeout
		proxyHttpPort
		pathNormalization
		pathNormalization.normalization = DEFAULT NONE BASE MERGE_SLASHES DECODE_AND_MERGE_SLASHES
		h2UpgradePolicy = DO_NOT_UPGRADE UPGRADE
		tcpKeepalive
		tcpKeepalive.probes
		tcpKeepalive.time
		tcpKeepalive.interval
		defaultConfig
		defaultConfig.gatewayTopology
		defaultConfig.gatewayTopology.numTrustedProxies
		defaultConfig.gatewayTopology.forwardClientCertDetails
		defaultConfig.gatewayTopology.proxyProtocol
		ingressControllerMode ~ ` + noIngress + `
		ingressClass ~ ` + noIngress + `
		ingressService ~ ` + noIngress + `
		ingressSelector ~ ` + noIngress + `
	`
	for field, reason := range map[string]string{
		"discoveryAddress": byFlag, "serviceCluster": byFlag, "proxyAdminPort": byFlag, "statusPort": byFlag, "controlPlaneAuthPolicy": byFlag,
		"configPath": noBinary, "binaryPath": noBinary, "customConfigFile": noBinary, "statNameLength": noBinary,
		"proxyBootstrapTemplatePath": noBinary,
	} {
		lines += proxyPrefix + "." + field + " ~ " + reason + "\n"
	}
	entries := table(lines)
	encoding := entries["accessLogEncoding"]
	encoding.Test = "TestValuesOutsideTheLedgerAreRefused" // its one word is the default
	entries["accessLogEncoding"] = encoding
	return []*Kind{{Name: MeshConfig, Entries: entries}}
}
