package http1

import (
	"net/http"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// AppendRequest appends a request head for an HTTP/1.1 peer. The Host field
// comes from Authority. chunked adds Transfer-Encoding; a Content-Length is
// among h's fields.
func AppendRequest(dst []byte, h *message.Head, chunked bool) []byte {
	dst = append(dst, h.Method...)
	dst = append(dst, ' ')
	if string(h.Method) == "CONNECT" {
		dst = append(dst, h.Authority...)
	} else {
		dst = append(dst, h.Path...)
	}
	dst = append(dst, " HTTP/1.1\r\nhost: "...)
	dst = append(dst, h.Authority...)
	dst = append(dst, "\r\n"...)
	dst = appendFields(dst, h)
	if chunked {
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// Persistence is what a response says about the connection.
type Persistence uint8

// Values of Persistence.
const (
	Keep       Persistence = iota // nothing: HTTP/1.1's default
	KeepOld                       // "keep-alive" for an HTTP/1.0 client
	CloseAfter                    // "close"
)

// AppendResponse appends a response head in HTTP/1.1's form. chunked adds
// Transfer-Encoding; a Content-Length is among h's fields.
func AppendResponse(dst []byte, h *message.Head, chunked bool, p Persistence) []byte {
	dst = AppendStatusLine(dst, h.Status)
	dst = appendFields(dst, h)
	if chunked {
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	}
	switch p {
	case KeepOld:
		dst = append(dst, "connection: keep-alive\r\n"...)
	case CloseAfter:
		dst = append(dst, "connection: close\r\n"...)
	case Keep:
	}
	return append(dst, "\r\n"...)
}

// AppendStatusLine appends a status line with the standard reason phrase.
func AppendStatusLine(dst []byte, status int) []byte {
	if status == http.StatusOK {
		return append(dst, "HTTP/1.1 200 OK\r\n"...)
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	return append(dst, "\r\n"...)
}

func appendFields(dst []byte, h *message.Head) []byte {
	fields := h.Fields()
	for i := range fields {
		f := &fields[i]
		if len(f.Name) == 0 {
			continue
		}
		dst = append(dst, f.Name...)
		dst = append(dst, ": "...)
		dst = append(dst, f.Value...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// ChunkRoom is the room that a chunk's size line takes at most in front of its
// data, and ChunkTail what follows the data.
const (
	ChunkRoom = 10
	ChunkTail = 2
)

// PutChunk writes a chunk's size line into the room before its data and CR LF
// after it, and returns the whole. data is buf[ChunkRoom:ChunkRoom+n] and
// buf has ChunkTail bytes behind it.
func PutChunk(buf []byte, n int) []byte {
	at := ChunkRoom
	put := func(c byte) { at--; buf[at] = c }
	put('\n')
	put('\r')
	for v := n; ; v >>= 4 {
		put("0123456789abcdef"[v&15])
		if v < 16 {
			break
		}
	}
	end := ChunkRoom + n
	buf[end], buf[end+1] = '\r', '\n'
	return buf[at : end+2]
}

// AppendChunk appends data as a chunk; empty data appends nothing, because an
// empty chunk would end the body.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = strconv.AppendUint(dst, uint64(len(data)), 16)
	dst = append(dst, "\r\n"...)
	dst = append(dst, data...)
	return append(dst, "\r\n"...)
}

// AppendLastChunk ends a chunked body, with trailers when there are any.
func AppendLastChunk(dst []byte, trailers *message.Head) []byte {
	dst = append(dst, "0\r\n"...)
	if trailers != nil {
		dst = appendFields(dst, trailers)
	}
	return append(dst, "\r\n"...)
}
