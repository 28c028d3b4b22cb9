package registry

import "strings"

// ParseProtocol reads the protocol of a ServiceEntry or Gateway port, any
// case. Unknown words give Unsupported: the protocol is detected.
func ParseProtocol(s string) Protocol {
	switch strings.ToLower(s) {
	case "tcp":
		return TCP
	case "udp":
		return UDP
	case "grpc":
		return GRPC
	case "grpc-web":
		return GRPCWeb
	case "http":
		return HTTP
	case "http_proxy":
		return HTTPProxy
	case "http2":
		return HTTP2
	case "https":
		return HTTPS
	case "tls":
		return TLS
	case "mongo":
		return Mongo
	case "redis":
		return Redis
	case "mysql":
		return MySQL
	}
	return Unsupported
}

// KubernetesProtocol chooses the protocol of a Kubernetes port: appProtocol,
// else the port name up to its first hyphen, else detection; ports where
// servers speak first (SMTP, DNS, MySQL, MongoDB) are never detected, because
// detection waits for the client (Istio, "Protocol Selection").
func KubernetesProtocol(number int, name, transport string, appProtocol *string) Protocol {
	if transport == "UDP" {
		return UDP
	}
	word := name
	if appProtocol != nil {
		word = *appProtocol
		switch word {
		case "kubernetes.io/h2c":
			return HTTP2
		case "kubernetes.io/ws":
			return HTTP
		case "kubernetes.io/wss":
			return HTTPS
		}
	}
	if len(word) >= len(GRPCWeb) && strings.EqualFold(word[:len(GRPCWeb)], string(GRPCWeb)) {
		return GRPCWeb
	}
	word, _, _ = strings.Cut(word, "-")
	p := ParseProtocol(word)
	if p == Unsupported {
		switch number {
		case 25, 53, 3306, 27017:
			return TCP
		}
	}
	return p
}
