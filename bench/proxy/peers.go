package main

import (
	"fmt"
	"net/netip"
)

// nginxConfig does the work of the shape with nginx: the same decisions, which
// it writes as locations.
func (s shape) nginxConfig(dir string, n int, listen, backend netip.AddrPort, down, up bool, ca *authority) string {
	head := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx-%[2]d.pid; error_log %[1]s/nginx-%[2]d.err crit; worker_processes 1;
include /etc/nginx/modules-enabled/*.conf;
worker_rlimit_nofile 20000; events { worker_connections 19000; }
`, dir, n)
	if s.tcp {
		return head + fmt.Sprintf("stream { server { listen %s; proxy_pass %s; } }\n", listen, backend)
	}
	server := fmt.Sprintf("listen %s;", listen)
	if down {
		server = fmt.Sprintf("listen %s ssl; ssl_certificate %s; ssl_certificate_key %s; ssl_client_certificate %s; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_cache shared:s:10m;",
			listen, ca.path("b.crt"), ca.path("b.key"), ca.path("ca.crt"))
	}
	pass := "proxy_pass http://be;"
	if up {
		pass = fmt.Sprintf("proxy_pass https://be; proxy_ssl_certificate %s; proxy_ssl_certificate_key %s; proxy_ssl_trusted_certificate %s; proxy_ssl_verify on; proxy_ssl_name b.mesh; proxy_ssl_protocols TLSv1.3;",
			ca.path("a.crt"), ca.path("a.key"), ca.path("ca.crt"))
	}
	location := pass + ` proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_read_timeout 15s;
      client_max_body_size 0; proxy_request_buffering off; proxy_buffer_size 32k; proxy_buffers 8 32k;`
	if s.http2 {
		server = fmt.Sprintf("listen %s http2;", listen)
		location = "grpc_pass grpc://be; grpc_set_header X-Request-Id $request_id; grpc_set_header X-Forwarded-Proto $scheme; grpc_read_timeout 15s; client_max_body_size 0;"
	}
	return head + fmt.Sprintf(`http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path %[1]s/t; proxy_temp_path %[1]s/t; fastcgi_temp_path %[1]s/t; uwsgi_temp_path %[1]s/t; scgi_temp_path %[1]s/t;
  map $http_x_tenant $ok { blue 1; default 0; }
  upstream be { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
  server { %[3]s
    location /admin/ { return 404; } location /static/ { return 404; }
    location /api/ { limit_except GET POST { deny all; } if ($ok = 0) { return 404; } %[4]s }
  }
}
`, dir, backend, server, location)
}

// haproxyConnections is what haproxy may have open within a limit of 20,000
// descriptors; it counts both sides.
const haproxyConnections = 7500

// haproxyConfig does the same with haproxy.
func (s shape) haproxyConfig(listen, backend netip.AddrPort, down, up bool, ca *authority) string {
	bind, server := "bind "+listen.String(), "server s "+backend.String()
	if down {
		bind += fmt.Sprintf(" ssl crt %s ca-file %s verify required ssl-min-ver TLSv1.3", ca.path("b.pem"), ca.path("ca.crt"))
	}
	if up {
		server += fmt.Sprintf(" ssl crt %s ca-file %s verify required sni str(b.mesh) ssl-min-ver TLSv1.3", ca.path("a.pem"), ca.path("ca.crt"))
	}
	if s.http2 {
		bind += " proto h2"
		server += " proto h2"
	}
	mode := `http-request deny deny_status 403 unless { path_beg /api/ } { method GET POST } or { path_beg /bulk/ }
  http-request deny deny_status 404 unless { path_beg /api/ } { hdr(x-tenant) -m str blue } or { path_beg /bulk/ }
  http-request set-header X-Request-Id %[uuid()] unless { req.hdr(x-request-id) -m found }
  http-request set-header X-Forwarded-Proto http
  option forwardfor`
	kind, connections := "http", haproxyConnections
	if s.tcp {
		kind, mode, connections = "tcp", "option splice-auto", 1000
	} else {
		server += " pool-max-conn 1000"
	}
	return fmt.Sprintf(`global
  nbthread 1
  maxconn %d
defaults
  mode %s
  timeout connect 5s
  timeout client 3600s
  timeout server 60s
  timeout http-keep-alive 3600s
  http-reuse always
frontend f
  %s
  %s
  default_backend be
backend be
  %s
`, connections, kind, bind, mode, server)
}
