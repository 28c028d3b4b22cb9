package http1

import (
	"math"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// BodyKind is how a body's end is known (RFC 9112 §6.3).
type BodyKind uint8

// The kinds of body.
const (
	NoBody BodyKind = iota
	LengthBody
	ChunkedBody
	CloseBody // ends when the peer closes; responses only
)

// Body reads one message body out of a connection's bytes.
type Body struct {
	kind     BodyKind
	state    chunkState
	done     bool
	response bool
	left     int64 // of the length or of the current chunk

	digits     int
	extension  int // bytes of the current chunk's extension
	extensions int // bytes of all extensions
	escaped    bool
	token      int    // bytes of the current extension token
	trailers   []byte // collected trailer section
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtName
	chunkExtValue
	chunkExtQuoted
	chunkExtAfter
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
)

// Kind returns how the body's end is known.
func (b *Body) Kind() BodyKind { return b.kind }

// Done reports whether the body is complete.
func (b *Body) Done() bool { return b.done }

// StartRequest begins the body of a request.
func (b *Body) StartRequest(f *Framing) {
	switch {
	case f.Chunked:
		b.start(ChunkedBody, 0)
	case f.Length > 0:
		b.start(LengthBody, f.Length)
	default:
		b.start(NoBody, 0)
	}
}

// StartResponse begins the body of a final response to a request with this
// method (RFC 9112 §6.3).
func (b *Body) StartResponse(h *message.Head, f *Framing, method []byte) {
	switch {
	case h.Status < 200 || h.Status == 204 || h.Status == 304 || string(method) == "HEAD",
		string(method) == "CONNECT" && h.Status < 300:
		b.start(NoBody, 0)
	case f.Chunked:
		b.start(ChunkedBody, 0)
	case f.Length == 0:
		b.start(NoBody, 0)
	case f.Length > 0:
		b.start(LengthBody, f.Length)
	default:
		b.start(CloseBody, 0)
	}
	b.response = true
}

func (b *Body) start(k BodyKind, length int64) {
	*b = Body{kind: k, left: length, done: k == NoBody, trailers: b.trailers[:0]}
}

// Close tells that the peer ended the connection; it reports whether the body
// may end there.
func (b *Body) Close() bool {
	if b.kind == CloseBody {
		b.done = true
	}
	return b.done
}

// Trailers parses the trailer section of a chunked body that is done; h is
// empty when there is none.
func (b *Body) Trailers(l Limits, h *message.Head) error {
	h.Reset()
	if len(b.trailers) <= 2 {
		return nil
	}
	return ParseTrailers(b.trailers, l, h, b.response)
}

// Next takes the next part of the body from in: data is a slice of in, n is
// how many bytes of in are used up. When nothing of in is left and the body is
// not done, more bytes are needed.
func (b *Body) Next(in []byte) (data []byte, n int, err error) {
	switch b.kind {
	case NoBody:
		return nil, 0, nil
	case CloseBody:
		return in, len(in), nil
	case LengthBody:
		n = int(min(int64(len(in)), b.left))
		b.left -= int64(n)
		b.done = b.left == 0
		return in[:n], n, nil
	}
	for n < len(in) && !b.done {
		if b.state == chunkData {
			take := int(min(int64(len(in)-n), b.left))
			b.left -= int64(take)
			if b.left == 0 {
				b.state = chunkDataCR
			}
			return in[n : n+take], n + take, nil
		}
		if err := b.step(in[n]); err != nil {
			return nil, n, err
		}
		n++
	}
	return nil, n, nil
}

// step takes one byte of the chunked coding's own grammar (RFC 9112 §7.1):
// 1*HEXDIG *( ";" token [ "=" ( token / quoted-string ) ] ) CRLF, without the
// "bad whitespace" that the RFC lets recipients tolerate.
func (b *Body) step(c byte) error {
	switch b.state {
	case chunkSize:
		return b.sizeByte(c)
	case chunkExtName, chunkExtValue, chunkExtQuoted, chunkExtAfter:
		b.extension++
		b.extensions++
		if b.extension > limit.ChunkExtensionBytesMax || b.extensions > limit.ExtensionsBytesMax {
			return ErrChunkLong
		}
		return b.extensionByte(c)
	case chunkSizeLF:
		if c != '\n' {
			return ErrChunk
		}
		b.digits = 0
		b.state = chunkData
		if b.left == 0 {
			b.state = chunkTrailer
		}
	case chunkDataCR:
		if c != '\r' {
			return ErrChunk
		}
		b.state = chunkDataLF
	case chunkDataLF:
		if c != '\n' {
			return ErrChunk
		}
		b.state = chunkSize
	case chunkTrailer:
		return b.trailerByte(c)
	case chunkData: // taken by Next as a whole
	}
	return nil
}

func (b *Body) sizeByte(c byte) error {
	digit := int64(-1)
	switch l := lowers[c]; {
	case c >= '0' && c <= '9':
		digit = int64(c - '0')
	case l >= 'a' && l <= 'f':
		digit = int64(l-'a') + 10
	}
	switch {
	case digit >= 0:
		if b.digits++; b.digits > limit.ChunkDigitsMax || b.left > math.MaxInt64>>4 {
			return ErrChunkLong
		}
		b.left = b.left<<4 | digit
	case b.digits == 0:
		return ErrChunk
	case c == '\r':
		b.state = chunkSizeLF
	case c == ';':
		b.state, b.token, b.extension = chunkExtName, 0, 0
	default:
		return ErrChunk
	}
	return nil
}

func (b *Body) extensionByte(c byte) error {
	if b.state == chunkExtQuoted {
		switch {
		case classes[c]&isValue == 0:
			return ErrChunk
		case b.escaped:
			b.escaped = false
		case c == '\\':
			b.escaped = true
		case c == '"':
			b.state = chunkExtAfter
		}
		return nil
	}
	if b.state != chunkExtAfter && classes[c]&isToken != 0 {
		b.token++
		return nil
	}
	if b.state == chunkExtValue && b.token == 0 && c == '"' {
		b.state = chunkExtQuoted
		return nil
	}
	if b.state != chunkExtAfter && b.token == 0 {
		return ErrChunk
	}
	switch {
	case c == '=' && b.state == chunkExtName:
		b.state, b.token = chunkExtValue, 0
	case c == ';':
		b.state, b.token = chunkExtName, 0
	case c == '\r':
		b.state = chunkSizeLF
	default:
		return ErrChunk
	}
	return nil
}

func (b *Body) trailerByte(c byte) error {
	if len(b.trailers) >= limit.TrailerBytesMax {
		return ErrHeadLarge
	}
	b.trailers = append(b.trailers, c)
	if c != '\n' {
		return nil
	}
	t := b.trailers
	if len(t) < 2 || t[len(t)-2] != '\r' {
		return ErrBareLF
	}
	b.done = len(t) == 2 || len(t) >= 4 && t[len(t)-4] == '\r' && t[len(t)-3] == '\n'
	return nil
}
