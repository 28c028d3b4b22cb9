package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

type object = map[string]any

// bootstraps writes the Envoy bootstraps of one contender: one proxy for h1,
// a client side and a server side for mtls.
func bootstraps(s settings, name string, backend netip.AddrPort, ca *authority) ([]string, netip.AddrPort, error) {
	front, err := freePort()
	if err != nil {
		return nil, front, err
	}
	middle, err := freePort()
	if err != nil {
		return nil, front, err
	}
	var configs []object
	switch s.scenario {
	case "h1":
		configs = []object{bootstrap(front, backend, nil, nil)}
	case "mtls":
		configs = []object{
			bootstrap(middle, backend, ca.downstream("b"), nil),
			bootstrap(front, middle, nil, ca.upstream("a")),
		}
	default:
		return nil, front, fmt.Errorf("no scenario %q; there are h1 and mtls", s.scenario)
	}
	var paths []string
	for i, c := range configs {
		data, err := json.MarshalIndent(c, "", " ")
		if err != nil {
			return nil, front, err
		}
		path, err := write(s.dir, fmt.Sprintf("%s-%d.json", name, i), string(data))
		if err != nil {
			return nil, front, err
		}
		paths = append(paths, path)
	}
	return paths, front, nil
}

func bootstrap(listen, upstream netip.AddrPort, downTLS, upTLS object) object {
	chain := object{"filters": []object{{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager()}}}
	if downTLS != nil {
		chain["transport_socket"] = downTLS
	}
	cluster := object{"name": "be", "type": "STATIC", "connect_timeout": "5s",
		"load_assignment":  object{"cluster_name": "be", "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{"address": address(upstream)}}}}}},
		"circuit_breakers": object{"thresholds": []object{{"max_connections": 100000, "max_requests": 100000, "max_pending_requests": 100000}}}}
	if upTLS != nil {
		cluster["transport_socket"] = upTLS
	}
	return object{"static_resources": object{
		"listeners": []object{{"name": "front", "address": address(listen), "filter_chains": []object{chain}}},
		"clusters":  []object{cluster},
	}}
}

func address(a netip.AddrPort) object {
	return object{"socket_address": object{"address": a.Addr().String(), "port_value": a.Port()}}
}

// manager is a connection manager with five routes (prefix and header) and an
// RBAC filter with two policies: what a sidecar evaluates at the least.
func manager() object {
	route := func(prefix, header, value string, action object) object {
		m := object{"prefix": prefix}
		if header != "" {
			m["headers"] = []object{{"name": header, "string_match": object{"exact": value}}}
		}
		action["match"] = m
		return action
	}
	refuse := func() object { return object{"direct_response": object{"status": 404}} }
	forward := func() object { return object{"route": object{"cluster": "be"}} }
	anyone := []object{{"any": true}}
	method := func(m string) object {
		return object{"header": object{"name": ":method", "string_match": object{"exact": m}}}
	}
	path := func(p string) object { return object{"url_path": object{"path": object{"prefix": p}}} }
	return object{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "h1",
		"route_config": object{"name": "h1", "virtual_hosts": []object{{"name": "v", "domains": []string{"*"}, "routes": []object{
			route("/admin/", "x-admin", "1", refuse()),
			route("/static/", "", "", refuse()),
			route("/api/", "x-tenant", "green", refuse()),
			route("/api/", "x-tenant", "blue", forward()),
			route("/bulk/", "", "", forward()),
		}}}},
		"http_filters": []object{
			{"name": "envoy.filters.http.rbac", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
				"rules": object{"action": "ALLOW", "policies": object{
					"api": object{"principals": anyone, "permissions": []object{{"and_rules": object{"rules": []object{
						path("/api/"), {"or_rules": object{"rules": []object{method("GET"), method("POST")}}}}}}}},
					"bulk": object{"principals": anyone, "permissions": []object{path("/bulk/")}},
				}}}},
			{"name": "envoy.filters.http.router", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
		},
	}
}

func nginxConfig(dir string, listen, backend netip.AddrPort) string {
	return fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.err crit; worker_processes 1;
events { worker_connections 19000; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path %[1]s/t; proxy_temp_path %[1]s/t; fastcgi_temp_path %[1]s/t; uwsgi_temp_path %[1]s/t; scgi_temp_path %[1]s/t;
  map $http_x_tenant $ok { blue 1; default 0; }
  upstream be { server %[3]s; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[2]s;
    location /admin/ { return 404; } location /static/ { return 404; }
    location /api/ { limit_except GET POST { deny all; } if ($ok = 0) { return 404; }
      proxy_pass http://be; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_read_timeout 15s; }
  }
}
`, dir, listen, backend)
}

// authority issues the certificates of the mtls scenario.
type authority struct{ dir string }

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench-ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	if err := a.save("ca.crt", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	for i, who := range []string{"a", "b"} {
		leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		uri := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/" + who}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), NotBefore: root.NotBefore, NotAfter: root.NotAfter, URIs: []*url.URL{uri}, DNSNames: []string{who + ".mesh"},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), key)
		if err != nil {
			return nil, err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(leafKey)
		if err != nil {
			return nil, err
		}
		if err := a.save(who+".crt", "CERTIFICATE", der); err != nil {
			return nil, err
		}
		if err := a.save(who+".key", "PRIVATE KEY", pkcs8); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *authority) save(name, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (a *authority) context(who string) object {
	file := func(n string) object { return object{"filename": filepath.Join(a.dir, n)} }
	return object{
		"tls_certificates":   []object{{"certificate_chain": file(who + ".crt"), "private_key": file(who + ".key")}},
		"validation_context": object{"trusted_ca": file("ca.crt")},
		"alpn_protocols":     []string{"http/1.1"},
		"tls_params":         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
	}
}

func (a *authority) downstream(who string) object {
	return object{"name": "tls", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		"require_client_certificate": true, "common_tls_context": a.context(who)}}
}

func (a *authority) upstream(who string) object {
	return object{"name": "tls", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		"sni": "b.mesh", "common_tls_context": a.context(who)}}
}
