package http2

// rulesOfFrames are RFC 9113's rules about what a client may send to a server,
// each with what breaks it and what follows.
func rulesOfFrames() []struct {
	name string
	in   *wire
	want string
} {
	const goAway0 = "ACK, GOAWAY 0 "
	pri := func(on uint32) string { return u32(on) + "\x10" }
	noSettings := func() *wire { w := newWire(); w.b = append(w.b, Preface...); return w }
	badPreface := newWire()
	badPreface.b = append(badPreface.b, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"...)
	return []struct {
		name string
		in   *wire
		want string
	}{
		{"preface and settings", fromClient(), "ACK"},
		{"wrong preface (§3.4)", badPreface, "GOAWAY 0 PROTOCOL_ERROR"},
		{"PING before SETTINGS (§3.4)", noSettings().frame(kindPing, 0, 0, "12345678"), "GOAWAY 0 PROTOCOL_ERROR"},
		{"SETTINGS ack first (§3.4)", noSettings().frame(kindSettings, flagAck, 0, ""), "GOAWAY 0 PROTOCOL_ERROR"},
		{"unknown frame (§5.5)", fromClient().frame(77, 0xff, 0, "x"), "ACK"},
		{"unknown flags (§4.1)", fromClient().frame(kindPing, 0xfe, 0, "12345678"), `ACK, PING ack=true "12345678"`},
		{"reserved bit of the stream id (§4.1)", fromClient().frame(kindPing, 0, 1<<31, "12345678"), `ACK, PING ack=true "12345678"`},
		{"request", fromClient().get(1), "ACK"},

		{"DATA on stream 0 (§6.1)", fromClient().frame(kindData, 0, 0, "x"), goAway0 + "PROTOCOL_ERROR"},
		{"DATA on an idle stream (§5.1)", fromClient().frame(kindData, 0, 1, "x"), goAway0 + "PROTOCOL_ERROR"},
		{"DATA after END_STREAM (§5.1)", fromClient().get(1).frame(kindData, 0, 1, "x"), "ACK, RST 1 STREAM_CLOSED"},
		{"padding longer than DATA (§6.1)", fromClient().post(1).frame(kindData, flagPadded, 1, "\x05abc"), "ACK, GOAWAY 1 PROTOCOL_ERROR"},
		{"padded DATA without a length (§6.1)", fromClient().post(1).frame(kindData, flagPadded, 1, ""), "ACK, GOAWAY 1 FRAME_SIZE_ERROR"},
		{"padded DATA", fromClient().post(1).frame(kindData, flagPadded|flagEndStream, 1, "\x02abc\x00\x00"), "ACK"},
		{"DATA longer than content-length (§8.1.1)", fromClient().post(1, "content-length: 2").frame(kindData, 0, 1, "abc"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"DATA shorter than content-length (§8.1.1)", fromClient().post(1, "content-length: 4").frame(kindData, flagEndStream, 1, "abc"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"content-length without DATA (§8.1.1)", fromClient().get(1, "content-length: 4"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"DATA of its content-length", fromClient().post(1, "content-length: 3").frame(kindData, flagEndStream, 1, "abc"), "ACK"},
		{"DATA after RST_STREAM (§5.1)", fromClient().post(1).frame(kindReset, 0, 1, u32(8)).frame(kindData, 0, 1, "x"), "ACK, RST 1 STREAM_CLOSED"},

		{"HEADERS on stream 0 (§6.2)", fromClient().get(0), goAway0 + "PROTOCOL_ERROR"},
		{"HEADERS on an even stream (§5.1.1)", fromClient().get(2), goAway0 + "PROTOCOL_ERROR"},
		{"stream ids that go backwards (§5.1.1)", fromClient().get(5).get(3), "ACK, GOAWAY 5 PROTOCOL_ERROR"},
		{"HEADERS after END_STREAM (§5.1)", fromClient().get(1).headers(1, flagEndStream, "a: b"), "ACK, RST 1 STREAM_CLOSED"},
		{"HEADERS after RST_STREAM (§5.1)", fromClient().get(1).frame(kindReset, 0, 1, u32(8)).get(1), "ACK, GOAWAY 1 STREAM_CLOSED"},
		{"HEADERS padded beyond its end (§6.2)", fromClient().frame(kindHeaders, flagPadded|flagEndHeaders, 1, "\x09ab"), goAway0 + "PROTOCOL_ERROR"},
		{"HEADERS too short for its priority (§6.2)", fromClient().frame(kindHeaders, flagPriority|flagEndHeaders, 1, "abc"), goAway0 + "FRAME_SIZE_ERROR"},
		{"HEADERS that depends on itself (RFC 7540 §5.3.1)", fromClient().frame(kindHeaders, flagPriority|flagEndHeaders|flagEndStream, 1, pri(1)+newWire().block(get()...)), "ACK, RST 1 PROTOCOL_ERROR"},
		{"HEADERS with a priority", fromClient().frame(kindHeaders, flagPriority|flagEndHeaders|flagEndStream, 1, pri(0)+newWire().block(get()...)), "ACK"},
		{"broken HPACK (§4.3)", fromClient().frame(kindHeaders, flagEndHeaders|flagEndStream, 1, "\xff\xff\xff\xff\xff\xff"), goAway0 + "COMPRESSION_ERROR"},
		{"HPACK cut short (§4.3)", fromClient().frame(kindHeaders, flagEndHeaders|flagEndStream, 1, "\x40\x05ab"), goAway0 + "COMPRESSION_ERROR"},
		{"block split by PING (§4.3)", fromClient().frame(kindHeaders, flagEndStream, 1, "").frame(kindPing, 0, 0, "12345678"), goAway0 + "PROTOCOL_ERROR"},
		{"block split by another stream's (§4.3)", fromClient().frame(kindHeaders, flagEndStream, 1, "").frame(kindContinuation, flagEndHeaders, 3, ""), goAway0 + "PROTOCOL_ERROR"},
		{"block split by an unknown frame (§5.5)", fromClient().frame(kindHeaders, flagEndStream, 1, "").frame(99, 0, 1, ""), goAway0 + "PROTOCOL_ERROR"},
		{"CONTINUATION alone (§6.10)", fromClient().frame(kindContinuation, flagEndHeaders, 1, ""), goAway0 + "PROTOCOL_ERROR"},
		{"CONTINUATION after END_HEADERS (§6.10)", fromClient().get(1).frame(kindContinuation, flagEndHeaders, 1, ""), "ACK, GOAWAY 1 PROTOCOL_ERROR"},

		{"PRIORITY on stream 0 (§6.3)", fromClient().frame(kindPriority, 0, 0, pri(1)), goAway0 + "PROTOCOL_ERROR"},
		{"PRIORITY of a wrong length (§6.3)", fromClient().get(1).frame(kindPriority, 0, 1, "abcd"), "ACK, RST 1 FRAME_SIZE_ERROR"},
		{"PRIORITY that depends on itself (RFC 7540 §5.3.1)", fromClient().get(1).frame(kindPriority, 0, 1, pri(1)), "ACK, RST 1 PROTOCOL_ERROR"},
		{"PRIORITY on an idle stream", fromClient().frame(kindPriority, 0, 5, pri(0)), "ACK"},

		{"RST_STREAM on stream 0 (§6.4)", fromClient().frame(kindReset, 0, 0, u32(0)), goAway0 + "PROTOCOL_ERROR"},
		{"RST_STREAM on an idle stream (§6.4)", fromClient().frame(kindReset, 0, 1, u32(0)), goAway0 + "PROTOCOL_ERROR"},
		{"RST_STREAM of a wrong length (§6.4)", fromClient().get(1).frame(kindReset, 0, 1, "abc"), "ACK, GOAWAY 1 FRAME_SIZE_ERROR"},
		{"RST_STREAM twice (§5.1)", fromClient().get(1).frame(kindReset, 0, 1, u32(8)).frame(kindReset, 0, 1, u32(8)), "ACK"},

		{"SETTINGS on a stream (§6.5)", fromClient().frame(kindSettings, 0, 1, ""), goAway0 + "PROTOCOL_ERROR"},
		{"SETTINGS ack with a payload (§6.5)", fromClient().frame(kindSettings, flagAck, 0, "123456"), goAway0 + "FRAME_SIZE_ERROR"},
		{"SETTINGS of a wrong length (§6.5)", fromClient().frame(kindSettings, 0, 0, "12345"), goAway0 + "FRAME_SIZE_ERROR"},
		{"ENABLE_PUSH 2 (§6.5.2)", fromClient().settings(settingPush, 2), goAway0 + "PROTOCOL_ERROR"},
		{"INITIAL_WINDOW_SIZE 2^31 (§6.5.2)", fromClient().settings(settingWindow, 1<<31), goAway0 + "FLOW_CONTROL_ERROR"},
		{"MAX_FRAME_SIZE 16383 (§6.5.2)", fromClient().settings(settingFrameSize, 16383), goAway0 + "PROTOCOL_ERROR"},
		{"MAX_FRAME_SIZE 2^24 (§6.5.2)", fromClient().settings(settingFrameSize, 1<<24), goAway0 + "PROTOCOL_ERROR"},
		{"ENABLE_CONNECT_PROTOCOL 2 (RFC 8441 §3)", fromClient().settings(settingExtendConnect, 2), goAway0 + "PROTOCOL_ERROR"},
		{"unknown setting (§6.5.2)", fromClient().settings(0xabc, 7), "ACK, ACK"},
		{"INITIAL_WINDOW_SIZE that overflows a window (§6.9.2)",
			fromClient().post(1).frame(kindWindow, 0, 1, u32(windowMax-windowDefault)).settings(settingWindow, windowDefault+1), "ACK, GOAWAY 1 FLOW_CONTROL_ERROR"},

		{"PUSH_PROMISE from a client (§8.4)", fromClient().frame(kindPush, flagEndHeaders, 1, u32(2)), goAway0 + "PROTOCOL_ERROR"},
		{"PING", fromClient().frame(kindPing, 0, 0, "abcdefgh"), `ACK, PING ack=true "abcdefgh"`},
		{"PING ack unasked (§6.7)", fromClient().frame(kindPing, flagAck, 0, "abcdefgh"), "ACK"},
		{"PING on a stream (§6.7)", fromClient().frame(kindPing, 0, 1, "abcdefgh"), goAway0 + "PROTOCOL_ERROR"},
		{"PING of a wrong length (§6.7)", fromClient().frame(kindPing, 0, 0, "abc"), goAway0 + "FRAME_SIZE_ERROR"},
		{"GOAWAY on a stream (§6.8)", fromClient().frame(kindGoAway, 0, 1, u32(0)+u32(0)), goAway0 + "PROTOCOL_ERROR"},
		{"GOAWAY too short (§6.8)", fromClient().frame(kindGoAway, 0, 0, u32(0)), goAway0 + "FRAME_SIZE_ERROR"},
		{"GOAWAY, then PING", fromClient().frame(kindGoAway, 0, 0, u32(0)+u32(0)).frame(kindPing, 0, 0, "abcdefgh"), `ACK, PING ack=true "abcdefgh"`},

		{"WINDOW_UPDATE by 0 on the connection (§6.9)", fromClient().frame(kindWindow, 0, 0, u32(0)), goAway0 + "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE by 0 on a stream (§6.9)", fromClient().post(1).frame(kindWindow, 0, 1, u32(0)), "ACK, RST 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of a wrong length (§6.9)", fromClient().frame(kindWindow, 0, 0, "abc"), goAway0 + "FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE on an idle stream (§5.1)", fromClient().frame(kindWindow, 0, 1, u32(1)), goAway0 + "PROTOCOL_ERROR"},
		{"connection's window overflow (§6.9.1)", fromClient().frame(kindWindow, 0, 0, u32(windowMax)), goAway0 + "FLOW_CONTROL_ERROR"},
		{"stream's window overflow (§6.9.1)", fromClient().post(1).frame(kindWindow, 0, 1, u32(windowMax)), "ACK, RST 1 FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE on a closed stream (§5.1)", fromClient().post(1).frame(kindReset, 0, 1, u32(8)).frame(kindWindow, 0, 1, u32(1)), "ACK"},

		{"upper case in a name (§8.2)", fromClient().get(1, "X-A: b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"space in a name (§8.2.1)", fromClient().get(1, "x a: b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"CR in a value (§8.2.1)", fromClient().get(1, "x: a\rb"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"LF in a value (§8.2.1)", fromClient().get(1, "x: a\nb"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"NUL in a value (§8.2.1)", fromClient().get(1, "x: a\x00b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"space before a value (§8.2.1)", fromClient().get(1, "x:  a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"connection (§8.2.2)", fromClient().get(1, "connection: close"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"transfer-encoding (§8.2.2)", fromClient().post(1, "transfer-encoding: chunked"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"upgrade (§8.2.2)", fromClient().get(1, "upgrade: h2c"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"keep-alive (§8.2.2)", fromClient().get(1, "keep-alive: 5"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"proxy-connection (§8.2.2)", fromClient().get(1, "proxy-connection: close"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"te: gzip (§8.2.2)", fromClient().get(1, "te: gzip"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"te: trailers (§8.2.2)", fromClient().get(1, "te: trailers"), "ACK"},
		{"unknown pseudo-header (§8.3)", fromClient().get(1, ":foo: x"), "ACK, RST 1 PROTOCOL_ERROR"},
		{":protocol (RFC 8441 is off)", fromClient().headers(1, 0, ":protocol: websocket", ":method: CONNECT", ":scheme: http", ":path: /", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{":status in a request (§8.3)", fromClient().headers(1, flagEndStream, append([]string{":status: 200"}, get()...)...), "ACK, RST 1 PROTOCOL_ERROR"},
		{"pseudo-header after a regular one (§8.3)", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", "x: y", ":path: /"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"no :method (§8.3.1)", fromClient().headers(1, flagEndStream, ":scheme: http", ":path: /", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"no :scheme (§8.3.1)", fromClient().headers(1, flagEndStream, ":method: GET", ":path: /", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"no :path (§8.3.1)", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"empty :path (§8.3.1)", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: ", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"repeated :method (§8.3.1)", fromClient().headers(1, flagEndStream, append([]string{":method: GET"}, get()...)...), "ACK, RST 1 PROTOCOL_ERROR"},
		{"repeated :path (§8.3.1)", fromClient().headers(1, flagEndStream, append([]string{":path: /"}, get()...)...), "ACK, RST 1 PROTOCOL_ERROR"},
		{"relative :path", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: a/b", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"space in :path, which would split a request line", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: / HTTP/1.1", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"space in :method", fromClient().headers(1, flagEndStream, ":method: GET /x", ":scheme: http", ":path: /", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"userinfo in :authority (§8.3.1)", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: /", ":authority: me@a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"two ports in :authority, which Host can't have", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: /", ":authority: a:1:2"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"a list in :authority", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: /", ":authority: a,b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"CONNECT without a port (§8.5)", fromClient().headers(1, 0, ":method: CONNECT", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"neither :authority nor host", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: /"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"host instead of :authority", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: /", "host: a"), "ACK"},
		{"host that differs from :authority (§8.3.1)", fromClient().get(1, "host: b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"host twice", fromClient().get(1, "host: a", "host: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"content-length twice (§8.1.1)", fromClient().post(1, "content-length: 1", "content-length: 1"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"content-length that is no number (§8.1.1)", fromClient().post(1, "content-length: +1"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"CONNECT with :path (§8.5)", fromClient().headers(1, 0, ":method: CONNECT", ":path: /", ":scheme: http", ":authority: a:1"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"OPTIONS *", fromClient().headers(1, flagEndStream, ":method: OPTIONS", ":scheme: http", ":path: *", ":authority: a"), "ACK"},
		{"GET *", fromClient().headers(1, flagEndStream, ":method: GET", ":scheme: http", ":path: *", ":authority: a"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"trailers without END_STREAM (§8.1)", fromClient().post(1).headers(1, 0, "a: b"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"pseudo-header in trailers (§8.1)", fromClient().post(1).headers(1, flagEndStream, ":path: /"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"authorization in trailers (RFC 9110 §6.5.1)", fromClient().post(1).headers(1, flagEndStream, "authorization: x"), "ACK, RST 1 PROTOCOL_ERROR"},
		{"trailers", fromClient().post(1).frame(kindData, 0, 1, "abc").headers(1, flagEndStream, "a: b"), "ACK"},
	}
}

// rulesOfResponses are what a server may send to a client whose request is on
// stream 1, and what follows.
func rulesOfResponses() map[string]struct {
	in   *wire
	want string
} {
	return map[string]struct {
		in   *wire
		want string
	}{
		"response":                      {newWire().settings().headers(1, flagEndStream, ":status: 200"), "ACK"},
		"informational, then final":     {newWire().settings().headers(1, 0, ":status: 103").headers(1, flagEndStream, ":status: 200"), "ACK"},
		"no :status":                    {newWire().settings().headers(1, flagEndStream, "a: b"), "ACK, RST 1 PROTOCOL_ERROR"},
		":status 101 (§8.6)":            {newWire().settings().headers(1, 0, ":status: 101"), "ACK, RST 1 PROTOCOL_ERROR"},
		":status of two digits":         {newWire().settings().headers(1, 0, ":status: 20"), "ACK, RST 1 PROTOCOL_ERROR"},
		":path in a response":           {newWire().settings().headers(1, 0, ":status: 200", ":path: /"), "ACK, RST 1 PROTOCOL_ERROR"},
		"informational END_STREAM":      {newWire().settings().headers(1, flagEndStream, ":status: 103"), "ACK, RST 1 PROTOCOL_ERROR"},
		"DATA before the head":          {newWire().settings().frame(kindData, 0, 1, "x"), "ACK, RST 1 PROTOCOL_ERROR"},
		"more than content-length":      {newWire().settings().headers(1, 0, ":status: 200", "content-length: 1").frame(kindData, 0, 1, "xy"), "ACK, RST 1 PROTOCOL_ERROR"},
		"PUSH_PROMISE":                  {newWire().settings().frame(kindPush, flagEndHeaders, 1, u32(2)), "ACK, GOAWAY 0 PROTOCOL_ERROR"},
		"ENABLE_PUSH from a server":     {newWire().settings(settingPush, 1), "GOAWAY 0 PROTOCOL_ERROR"},
		"HEADERS on a stream not begun": {newWire().settings().headers(3, 0, ":status: 200"), "ACK, GOAWAY 0 PROTOCOL_ERROR"},
		"RST_STREAM":                    {newWire().settings().frame(kindReset, 0, 1, u32(7)), "ACK"},
	}
}
