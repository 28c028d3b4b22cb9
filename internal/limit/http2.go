package limit

// What peers of HTTP/2 can make grow, where no configuration says otherwise. A burst is how many frames of a kind may come at once, a rate
// how many more in each second; beyond, the connection ends with ENHANCE_YOUR_CALM and is counted (tulle_http2_floods_total).
const (
	// HTTP2StreamsMax bounds concurrent streams (Istio leaves Envoy's 2^31-1; RFC 9113 §6.5.2 recommends at least 100).
	HTTP2StreamsMax = 1024
	// HTTP2StreamWindow is how many body bytes of a stream may wait to be read, when its reader keeps up; HTTP2StreamWindowFirst is where
	// it begins.
	HTTP2StreamWindow      = 256 << 10
	HTTP2StreamWindowFirst = 64 << 10
	// HTTP2WaitingBytes is how many body bytes of a connection's streams may wait before streams begin with HTTP2StreamWindowNarrow, one
	// frame, and no window grows: a thousand streams whose readers stall hold 20 MiB, not 64 to 256.
	HTTP2WaitingBytes       = 4 << 20
	HTTP2StreamWindowNarrow = 16 << 10
	// HTTP2ConnWindow is how many body bytes of all streams of a client's connection may wait: enough that some slow streams don't stop
	// the others.
	HTTP2ConnWindow = 16 << 20
	// HTTP2BlockBytesSlack is by how much a compressed block may exceed the head's limit before the connection ends: then even refusing it
	// costs too much.
	HTTP2BlockBytesSlack = 16 << 10
	// HTTP2ContinuationsMax bounds the CONTINUATION frames of a block (CVE-2024-27316).
	HTTP2ContinuationsMax = 32
	// HTTP2OutBytesMax is how many bytes of a connection may wait to be written before body bytes wait too; HTTP2ControlBytesMax is how
	// many may wait because a peer makes us answer and does not read, before the connection ends.
	HTTP2OutBytesMax     = 64 << 10
	HTTP2ControlBytesMax = 1 << 20
	// HTTP2ClosedMax is how many closed streams are remembered, to tell late frames from wrong ones.
	HTTP2ClosedMax = 128
	// HTTP2LatePerReset is how many late frames of a server a reset of ours excuses: a window of small ones. HTTP2LateMax bounds what
	// comes together.
	HTTP2LatePerReset = 256
	HTTP2LateMax      = 1 << 16
	// HTTP2TableBytesMax is the largest HPACK table that we use for sending.
	HTTP2TableBytesMax = 4096

	// Resets of streams in progress (CVE-2023-44487).
	HTTP2ResetBurst = 200
	HTTP2ResetRate  = 50
	// PING and SETTINGS, which we must answer (CVE-2019-9512, CVE-2019-9515).
	HTTP2AnswerBurst = 500
	HTTP2AnswerRate  = 100
	// Frames without content: DATA and CONTINUATION without bytes, PRIORITY and unknown kinds (CVE-2019-9518).
	HTTP2IdleBurst = 1000
	HTTP2IdleRate  = 200
	// WINDOW_UPDATE, beside some for each DATA frame that we sent (Envoy: max_inbound_window_update_frames_per_data_frame_sent, 10).
	HTTP2WindowBurst    = 20000
	HTTP2WindowRate     = 20000
	HTTP2WindowsPerData = 10
	// Stream errors that the peer causes (CVE-2025-8671).
	HTTP2ErrorBurst = 200
	HTTP2ErrorRate  = 50
)
