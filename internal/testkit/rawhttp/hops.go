package rawhttp

const body5 = "Content-Length: 5\r\n\r\nhello"

// hopRequests: fields of one hop, persistence, expectations and what proxies
// say of a request (RFC 9110 §7.6, §10.1; RFC 9112 §9).
func hopRequests() []Request {
	const (
		hop     = "RFC 9110 §7.6.1"
		persist = "RFC 9112 §9.3"
		te      = "RFC 9110 §10.1.4"
	)
	out := []Request{
		last("close", persist, getA+"Connection: close\r\n\r\n", "GET / a"),
		last("close in other letters", persist, getA+"connection: CLOSE\r\n\r\n", "GET / a"),
		last("close in a list", persist, getA+"Connection: x-a, close\r\nX-A: 1\r\n\r\n", "GET / a"),
		last("close in a list of tabs and empty elements", persist, getA+"Connection: ,\t, close\t,,\r\n\r\n", "GET / a"),
		last("close in a second field", persist, getA+"Connection: x-a\r\nConnection: close\r\n\r\n", "GET / a"),
		last("close and keep-alive", persist, getA+"Connection: keep-alive, close\r\n\r\n", "GET / a"),
		last("close with a body", persist, postA+"Connection: close\r\n"+body5, `POST /p a "hello"`),
		last("close with chunks", persist, postA+"Connection: close\r\n"+chunked+"\r\n"+hello, `POST /p a chunked "hello"`),
		good("keep-alive", persist, getA+"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n", "GET / a"),
		good("a name that begins like close", persist, getA+"Connection: closed\r\n\r\n", "GET / a"),
		good("Proxy-Connection means nothing", "RFC 9112 §C.2.2", getA+"Proxy-Connection: close\r\n\r\n", "GET / a"),
		good("an empty Connection", hop, getA+"Connection:\r\n\r\n", "GET / a"),
		good("a nominated field is dropped", hop, getA+"X-A: 1\r\nConnection: x-a\r\nX-B: 2\r\n\r\n", "GET / a (x-b: 2)"),
		good("a nominated field in other letters is dropped", hop, getA+"Connection: X-a\r\nx-A: 1\r\n\r\n", "GET / a"),
		good("all fields of a nominated name are dropped", hop, getA+"X-A: 1\r\nConnection: x-a\r\nX-A: 2\r\n\r\n", "GET / a"),
		good("several are nominated", hop, getA+"X-A: 1\r\nX-B: 2\r\nX-C: 3\r\nConnection: x-a,x-b\r\nConnection: x-c\r\n\r\n", "GET / a"),
		good("a nominated field that is not there", hop, getA+"Connection: x-a\r\n\r\n", "GET / a"),
		good("hop-by-hop fields are dropped without nomination", hop, getA+"Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: x\r\n\r\n", "GET / a"),
		bad("Connection nominates what is no name", hop, 400, getA+"Connection: a b\r\n\r\n"),
		bad("Connection nominates in quotes", hop, 400, getA+"Connection: \"close\"\r\n\r\n"),
		good("TE trailers", te, getA+"TE: trailers\r\n\r\n", "GET / a"),
		good("TE that Connection names", te, getA+"TE: trailers\r\nConnection: TE\r\n\r\n", "GET / a"),
	}
	out = append(out, expectRequests()...)
	for _, name := range []string{"Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Client-Cert", "Forwarded"} {
		out = append(out, bad("Connection nominates "+name, hop, 400, postA+"Connection: "+name+"\r\n"+body5))
	}
	return out
}

// expectRequests: expectations and upgrades, and what proxies say of a request (RFC 9110 §7.8, §10.1).
func expectRequests() []Request {
	const (
		expect  = "RFC 9110 §10.1.1"
		upgrade = "RFC 9110 §7.8"
		edge    = "Envoy: use_remote_address"
	)
	return []Request{
		bad("an expectation that nobody knows", expect, 417, postA+"Expect: 200-ok\r\n"+body5),
		bad("an expectation in a list with one that nobody knows", expect, 417, postA+"Expect: 100-continue, x\r\n"+body5),
		bad("an expectation with a parameter", expect, 417, postA+"Expect: 100-continue;a=b\r\n"+body5),
		bad("an empty expectation", expect, 417, postA+"Expect:\r\n"+body5),
		bad("two expectations of which one is unknown", expect, 417, postA+"Expect: 100-continue\r\nExpect: y\r\n"+body5),
		bad("an expectation with a space before the colon", "RFC 9112 §5.1", 400, postA+"Expect : 100-continue\r\n"+body5),
		good("100-continue goes on", expect, postA+"Expect: 100-continue\r\n"+body5, `POST /p a (expect: 100-continue) "hello"`),
		good("100-continue in other letters", expect, postA+"eXPECT: 100-Continue\r\n"+body5, `POST /p a (expect: 100-continue) "hello"`),
		good("100-continue with chunks", expect, postA+"Expect: 100-continue\r\n"+chunked+"\r\n"+hello, `POST /p a (expect: 100-continue) chunked "hello"`),
		good("100-continue without content is dropped", expect, getA+"Expect: 100-continue\r\n\r\n", "GET / a"),
		good("100-continue with length zero is dropped", expect, postA+"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", "POST /p a (content-length: 0)"),
		good("100-continue is answered here where that is said", expect, postA+"Expect: 100-continue\r\n"+body5, `POST /p a "hello"`).
			with(AnswersExpect),
		good("Upgrade that Connection does not name is dropped", upgrade, getA+"Upgrade: websocket\r\n\r\n", "GET / a"),
		good("Connection: upgrade without Upgrade", upgrade, getA+"Connection: upgrade\r\n\r\n", "GET / a"),
		good("Upgrade to HTTP/2 in the clear is ignored", "RFC 9113 §3.1", getA+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET / a"),
		bad("Upgrade with a body", upgrade, 400, postA+"Connection: upgrade\r\nUpgrade: websocket\r\n"+body5),
		bad("Upgrade with chunks", upgrade, 400, postA+"Connection: upgrade\r\nUpgrade: websocket\r\n"+chunked+"\r\n"+hello),
		bad("h2c in a list with websocket", upgrade, 403, getA+"Connection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n"),
		bad("two Upgrade fields", upgrade, 403, getA+"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n"),
		good("Max-Forwards is left alone", "RFC 9110 §7.6.2", getA+"Max-Forwards: 0\r\n\r\n", "GET / a (max-forwards: 0)"),
		good("Via is left alone", "RFC 9110 §7.6.3", getA+"Via: 1.0 b\r\n\r\n", "GET / a (via: 1.0 b)"),
		good("a request id of a neighbour stays", "Envoy: x-request-id", getA+"x-request-id: mine\r\n\r\n", "GET / a (x-request-id: mine)"),
		good("a request id from outside is replaced", edge, getA+"x-request-id: theirs\r\n\r\n", "GET / a"+outside("")).with(Gateway),
		good("x-forwarded-for of a neighbour stays", "Envoy: x-forwarded-for", getA+"X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n\r\n", "GET / a (x-forwarded-for: 1.2.3.4, 5.6.7.8)"),
		good("x-forwarded-for from outside gets the client's address", edge, getA+"X-Forwarded-For: 1.2.3.4\r\n\r\n", "GET / a"+outside("1.2.3.4,")).with(Gateway),
		good("several x-forwarded-for from outside", edge, getA+"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n", "GET / a"+outside("1.2.3.4,5.6.7.8,")).with(Gateway),
		good("x-forwarded-proto of a neighbour stays", "Envoy: x-forwarded-proto", getA+"X-Forwarded-Proto: https\r\n\r\n", "GET / a (x-forwarded-proto: https)"),
		good("x-forwarded-proto that is none is replaced", "Envoy: x-forwarded-proto", getA+"X-Forwarded-Proto: gopher\r\n\r\n", "GET / a"),
		good("x-forwarded-proto from outside is replaced", edge, getA+"X-Forwarded-Proto: https\r\n\r\n", "GET / a"+outside("")).with(Gateway),
		good("x-envoy-external-address from outside is replaced", "Envoy: x-envoy-external-address", getA+"X-Envoy-External-Address: 9.9.9.9\r\n\r\n", "GET / a"+outside("")).with(Gateway),
		good("x-envoy-external-address of a neighbour stays", "Envoy: x-envoy-external-address", getA+"X-Envoy-External-Address: 9.9.9.9\r\n\r\n", "GET / a (x-envoy-external-address: 9.9.9.9)"),
		good("a client certificate that is claimed is dropped", "Envoy: SANITIZE_SET", getA+"X-Forwarded-Client-Cert: By=x;URI=spiffe://x\r\n\r\n", "GET / a"+outside("")).with(Gateway),
		good("headers that steer Envoy's router are dropped", "Envoy: x-envoy-*", getA+"x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 9\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-original-path: /x\r\nx-envoy-internal: true\r\nx-envoy-decorator-operation: x\r\n\r\n", "GET / a"),
		good("peer metadata that is claimed is dropped", "Istio: peer metadata", getA+"x-envoy-peer-metadata: x\r\nx-envoy-peer-metadata-id: y\r\n\r\n", "GET / a"),
	}
}

// outside is what a gateway adds to a request from 127.0.0.1.
func outside(before string) string {
	return " (x-envoy-external-address: 127.0.0.1; x-forwarded-for: " + before + "127.0.0.1)"
}
