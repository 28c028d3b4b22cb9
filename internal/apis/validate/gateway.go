package validate

import (
	"slices"
	"strings"
	"unicode"

	networking "istio.io/api/networking/v1alpha3"
)

func (c *checker) gateway(g *networking.Gateway) {
	semantics := c.meta.Annotations["internal.istio.io/gateway-semantics"] == "gateway"
	if !isLabel(c.meta.Name) && !semantics {
		c.errorf("metadata.name", "names of gateways have letters, digits and -", "%q is not the name of a gateway", c.meta.Name)
	}
	if len(g.Servers) == 0 {
		c.errorf("spec", "add servers", "the gateway has no server")
	}
	var names []string
	for i, s := range g.Servers {
		at := index("spec", "servers", i)
		if s == nil {
			c.errorf(at, "remove it", "the server is empty")
			continue
		}
		c.server(at, s, semantics)
		if s.Port == nil {
			continue
		}
		if slices.Contains(names, s.Port.Name) {
			c.errorf(at+".port.name", "rename one of them", "port name %q stands twice", s.Port.Name)
		}
		names = append(names, s.Port.Name)
		if s.GetTls().GetHttpsRedirect() && !isHTTP(protocol(s.Port.Protocol)) {
			c.warnf(at+".tls.httpsRedirect", "move it to the server of protocol HTTP", "httpsRedirect works on servers of protocol HTTP")
		}
	}
}

func (c *checker) server(at string, s *networking.Server, semantics bool) {
	if len(s.Hosts) == 0 {
		c.errorf(at, `add hosts, such as ["*"]`, "the server has no host")
	}
	for i, h := range s.Hosts {
		c.namespacedHost(index(at, "hosts", i), h, true, semantics)
	}
	before := len(c.problems)
	c.serverPort(at, s)
	sound := len(c.problems) == before
	c.bind(at, s.Port, s.Bind)
	c.serverTLS(at+".tls", s.Tls)
	if !sound {
		return
	}
	word := s.Port.GetProtocol()
	p := protocol(word)
	passes := s.GetTls().GetMode() == networking.ServerTLSSettings_PASSTHROUGH || s.GetTls().GetMode() == networking.ServerTLSSettings_AUTO_PASSTHROUGH
	switch {
	case isTLS(p) && s.Tls == nil:
		c.errorf(at, "add tls with a mode", "protocol %s needs tls settings", word)
	case isTLS(p) || s.Tls == nil:
	case !isHTTP(p):
		c.errorf(at+".tls", "use protocol TLS or HTTPS", "protocol %s takes no tls settings", word)
	case !passes || s.Tls.CaCertificates != "" || s.Tls.PrivateKey != "" || s.Tls.ServerCertificate != "":
		c.errorf(at+".tls", "use protocol HTTPS; a server of protocol HTTP takes httpsRedirect only", "protocol %s takes no certificates", word)
	}
}

func (c *checker) serverPort(at string, s *networking.Server) {
	p := s.Port
	if p == nil {
		c.errorf(at, "add port with number, protocol and name", "the server has no port")
		return
	}
	if protocol(p.Protocol) == "" {
		c.errorf(at+".port.protocol", "use one of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, REDIS, MYSQL", "unknown protocol %q", p.Protocol)
	}
	if p.Number > 0 || !strings.HasPrefix(s.Bind, unixPrefix) {
		c.check(at+".port.number", portRule(int64(p.Number)))
	}
	if p.TargetPort > 0 { //nolint:staticcheck // deprecated, and that is what we say
		c.errorf(at+".port.targetPort", "remove it", "targetPort has no meaning at a gateway")
	}
	if p.Name == "" {
		c.errorf(at+".port", "add name", "the port has no name")
	}
}

func (c *checker) bind(at string, p *networking.Port, bind string) {
	if socket, ok := strings.CutPrefix(bind, unixPrefix); ok {
		c.check(at+".bind", unixRule(socket))
		if p.GetNumber() != 0 {
			c.errorf(at+".port.number", "write 0", "a unix socket has no port, found %d", p.GetNumber())
		}
	} else if bind != "" {
		c.check(at+".bind", addressRule(bind))
	}
}

func cipherSuites() []string {
	return []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
		"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA",
		"ECDHE-RSA-AES256-SHA", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "DES-CBC3-SHA"}
}

func (c *checker) cipherSuites(at string, suites []string) {
	var seen []string
	for i, s := range suites {
		path := index(at, "cipherSuites", i)
		expression := s == "" || s == "ALL" || !unicode.IsNumber(rune(s[0])) && !unicode.IsLetter(rune(s[0])) // such as +AES or !MD5
		switch {
		case !expression && !slices.Contains(cipherSuites(), s):
			c.warnf(path, "remove it", "unknown cipher suite %q is ignored", s)
		case slices.Contains(seen, s):
			c.warnf(path, "remove it", "cipher suite %q stands twice", s)
		}
		seen = append(seen, s)
	}
}

// serverTLS checks what a server needs in each mode.
func (c *checker) serverTLS(at string, t *networking.ServerTLSSettings) {
	if t == nil {
		return
	}
	old := t.MinProtocolVersion == networking.ServerTLSSettings_TLSV1_0 || t.MinProtocolVersion == networking.ServerTLSSettings_TLSV1_1
	if old && len(t.CipherSuites) == 0 {
		c.warnf(at+".minProtocolVersion", "add cipherSuites", "no cipher suite of TLS below 1.2 is on by itself")
	}
	if t.MaxProtocolVersion != networking.ServerTLSSettings_TLS_AUTO && t.MinProtocolVersion > t.MaxProtocolVersion {
		// Istio lets it pass, and nobody in; proxies that look refuse the listener with all its servers.
		c.errorf(at+".minProtocolVersion", "lower it, or raise maxProtocolVersion", "minProtocolVersion %s is above maxProtocolVersion %s: no client could connect", t.MinProtocolVersion, t.MaxProtocolVersion)
	}
	c.cipherSuites(at, t.CipherSuites)
	certificates := []struct {
		field string
		set   bool
	}{
		{"serverCertificate", t.ServerCertificate != ""}, {"privateKey", t.PrivateKey != ""}, {"caCertificates", t.CaCertificates != ""},
		{"tlsCertificates", len(t.TlsCertificates) > 0}, {"credentialName", t.CredentialName != ""}, {"credentialNames", len(t.CredentialNames) > 0},
	}
	switch t.Mode {
	case networking.ServerTLSSettings_ISTIO_MUTUAL:
		for _, x := range certificates {
			if x.set {
				c.errorf(at+"."+x.field, "remove it", "ISTIO_MUTUAL takes the mesh's own certificates, found %s", x.field)
			}
		}
		return
	case networking.ServerTLSSettings_PASSTHROUGH, networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		for _, x := range certificates {
			if x.set {
				c.warnf(at+"."+x.field, "remove it", "mode %s uses no certificates: %s is ignored", t.Mode, x.field)
			}
		}
		if t.MinProtocolVersion != 0 || t.MaxProtocolVersion != 0 || len(t.CipherSuites) > 0 {
			c.warnf(at, "remove versions and cipherSuites", "in mode %s client and workload agree on versions and cipher suites: those here are ignored", t.Mode)
		}
	}
	sources := 0
	for _, set := range []bool{t.ServerCertificate != "" && t.PrivateKey != "", t.CredentialName != "", len(t.CredentialNames) > 0, len(t.TlsCertificates) > 0} {
		if set {
			sources++
		}
	}
	if sources > 1 {
		c.errorf(at, "keep one", "only one of credentialName, credentialNames, serverCertificate with privateKey, and tlsCertificates may be set")
	}
	c.serverFiles(at, t)
}

func (c *checker) serverFiles(at string, t *networking.ServerTLSSettings) {
	mutual := t.Mode == networking.ServerTLSSettings_MUTUAL || t.Mode == networking.ServerTLSSettings_OPTIONAL_MUTUAL
	terminates := mutual || t.Mode == networking.ServerTLSSettings_SIMPLE
	if terminates && (t.CredentialName != "" || len(t.CredentialNames) > 0) {
		return
	}
	if mutual && t.CaCertificates == "" {
		c.errorf(at, "add caCertificates, or credentialName", "mode %s needs a CA for clients", t.Mode)
	}
	if terminates && len(t.TlsCertificates) > 2 {
		c.warnf(at+".tlsCertificates", "keep two", "at most 2 certificates of a server are used")
	}
	pair := func(path, certificate, key string) {
		if certificate == "" {
			c.errorf(path, "add serverCertificate, or credentialName", "mode %s needs a server certificate", t.Mode)
		}
		if key == "" {
			c.errorf(path, "add privateKey, or credentialName", "mode %s needs a private key", t.Mode)
		}
	}
	switch {
	case !terminates:
	case len(t.TlsCertificates) == 0:
		pair(at, t.ServerCertificate, t.PrivateKey)
	default:
		for i, x := range t.TlsCertificates {
			pair(index(at, "tlsCertificates", i), x.GetServerCertificate(), x.GetPrivateKey())
		}
	}
	if t.CaCrl != "" {
		if t.CredentialName != "" {
			c.errorf(at+".caCrl", "put the list into the credential", "caCrl can't stand beside credentialName")
		}
		if t.Mode == networking.ServerTLSSettings_SIMPLE {
			c.errorf(at+".caCrl", "remove it", "mode SIMPLE checks no client, so a revocation list has no use")
		}
	}
}
