package http2

import "github.com/tullemesh/tulle/internal/limit"

// Limits of what a peer can make grow, with their reasons in package limit.
// Those that a configuration knows are in Options.
const (
	// FrameBytesMax is the largest frame payload that we take: RFC 9113's
	// smallest permitted SETTINGS_MAX_FRAME_SIZE, which bounds read buffers.
	FrameBytesMax = frameBytesMin

	outBytesMax             = limit.HTTP2OutBytesMax
	controlBytesMax         = limit.HTTP2ControlBytesMax
	blockBytesSlack         = limit.HTTP2BlockBytesSlack
	continuationsMax        = limit.HTTP2ContinuationsMax
	informationalMax        = limit.InformationalMax
	closedMax               = limit.HTTP2ClosedMax
	latePerReset, lateMax   = limit.HTTP2LatePerReset, limit.HTTP2LateMax
	tableBytesMax           = limit.HTTP2TableBytesMax
	resetBurst, resetRate   = limit.HTTP2ResetBurst, limit.HTTP2ResetRate
	answerBurst, answerRate = limit.HTTP2AnswerBurst, limit.HTTP2AnswerRate
	idleBurst, idleRate     = limit.HTTP2IdleBurst, limit.HTTP2IdleRate
	windowBurst, windowRate = limit.HTTP2WindowBurst, limit.HTTP2WindowRate
	windowsPerData          = limit.HTTP2WindowsPerData
	errorBurst, errorRate   = limit.HTTP2ErrorBurst, limit.HTTP2ErrorRate
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
