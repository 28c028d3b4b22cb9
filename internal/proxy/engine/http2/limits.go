package http2

// Limits of what a peer can make grow. Those that a configuration knows are in
// Options.
const (
	// FrameBytesMax is the largest frame payload that we take: RFC 9113's
	// smallest permitted SETTINGS_MAX_FRAME_SIZE, which bounds read buffers.
	FrameBytesMax = frameBytesMin
	// StreamsMax bounds concurrent streams when the configuration does not
	// (Istio leaves Envoy's 2^31-1; RFC 9113 §6.5.2 recommends at least 100).
	StreamsMax = 1024
	// StreamWindow is how many body bytes of a stream may wait to be read, when
	// its reader keeps up; streamWindowFirst is where it begins.
	StreamWindow      = 256 << 10
	streamWindowFirst = 64 << 10
	// ConnWindow is how many body bytes of all streams of a connection may
	// wait: enough that some slow streams don't stop the others.
	ConnWindow = 16 << 20
	// HeadBytesMax and HeadFieldsMax bound a head as the peer wrote it
	// (RFC 9113 §10.5.1), as Envoy's defaults do.
	HeadBytesMax  = 60 << 10
	HeadFieldsMax = 100
	// blockBytesSlack is by how much a compressed block may exceed the head's
	// limit before the connection ends: then even refusing it costs too much.
	blockBytesSlack = 16 << 10
	// continuationsMax bounds the CONTINUATION frames of a block.
	continuationsMax = 32
	// informationalMax bounds the 1xx heads that nobody has read yet.
	informationalMax = 16
	// outBytesMax is how many bytes may wait to be written before body bytes
	// wait too; controlBytesMax is how many may wait because a peer makes us
	// answer and does not read, before the connection ends.
	outBytesMax     = 64 << 10
	controlBytesMax = 1 << 20
	// closedMax is how many closed streams are remembered, to tell late frames
	// from wrong ones.
	closedMax = 128
	// latePerReset is how many late frames of a server a reset of ours excuses:
	// a window of small ones. lateMax bounds what comes together.
	latePerReset, lateMax = 256, 1 << 16
	// tableBytesMax is the largest HPACK table that we use for sending.
	tableBytesMax = 4096
)

// The floods: how many frames of a kind a peer may send at once, and how many
// more in each second.
const (
	// resets of streams in progress (CVE-2023-44487).
	resetBurst, resetRate = 200, 50
	// pings and settings, which we must answer (CVE-2019-9512, -9515).
	answerBurst, answerRate = 500, 100
	// frames without content: DATA and CONTINUATION without bytes, PRIORITY
	// and unknown kinds (CVE-2019-9518).
	idleBurst, idleRate = 1000, 200
	// window updates, beside some for each DATA frame that we sent (Envoy:
	// max_inbound_window_update_frames_per_data_frame_sent, 10).
	windowBurst, windowRate, windowsPerData = 20000, 20000, 10
	// stream errors that the peer causes (CVE-2025-8671).
	errorBurst, errorRate = 200, 50
)

// bucket counts frames of a flood: a token bucket.
type bucket struct {
	used int64
	at   int64
}

// earn lets the peer send so many more.
func (b *bucket) earn(n int64) { b.used = max(0, b.used-n) }

// take counts one; false: there were too many. now is in nanoseconds.
func (b *bucket) take(burst, rate, now int64) bool {
	if back := (now - b.at) / 1e6 * rate / 1000; back > 0 {
		b.used = max(0, b.used-back)
		b.at = now
	}
	b.used++
	return b.used <= burst
}
