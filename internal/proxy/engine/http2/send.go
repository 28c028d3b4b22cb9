package http2

import (
	"bytes"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// open takes a place for a stream of ours (Client); nil: the connection takes
// no more. The stream gets its id with its head, because ids must go out in
// order (RFC 9113 §5.1.1).
func (s *Session) open() *Stream {
	if s.ended() || uint32(s.used()) >= min(s.peerMax, s.opts.StreamsMax) {
		return nil
	}
	s.waiting++
	return s.opts.Memory.stream(s, 0)
}

// begin gives a stream its id.
func (s *Session) begin(st *Stream) {
	s.waiting--
	st.ID = s.nextID
	st.sendWindow = s.peerWindow
	s.beginWindow(st)
	s.nextID += 2
	s.streams[st.ID] = st
}

// used is how many streams there are.
func (s *Session) used() int { return len(s.streams) + s.waiting }

// ended reports whether no stream will ever begin again.
func (s *Session) ended() bool {
	return s.failed != nil || s.away || s.draining || s.nextID > streamIDMax-2
}

// sendRequest sends a request's head: with a protocol as an extended CONNECT.
func (s *Session) sendRequest(st *Stream, p *Part, end bool) {
	h := p.Head
	s.begin(st)
	st.isHead = string(h.Method) == "HEAD"
	from := s.beginBlock()
	e := s.enc
	if st.extended = len(p.Protocol) > 0; st.extended {
		s.out = e.Append(s.out, []byte(":method"), []byte("CONNECT"))
		s.out = e.Append(s.out, []byte(":protocol"), p.Protocol)
	} else {
		s.out = e.Append(s.out, []byte(":method"), h.Method)
	}
	if string(h.Method) != "CONNECT" {
		s.out = e.Append(s.out, []byte(":scheme"), h.Scheme)
		s.out = e.Append(s.out, []byte(":path"), h.Path)
	}
	s.out = e.Append(s.out, []byte(":authority"), h.Authority)
	if p.WantsTrailers {
		s.out = e.Append(s.out, []byte("te"), []byte("trailers"))
	}
	s.endBlock(st, from, h, end)
}

// switchingProtocols is 101, which HTTP/2 itself does not have (RFC 9113 §8.6).
const switchingProtocols = 101

// sendResponse sends a response's head. 101 is said as 200: on an extended
// CONNECT both mean that the protocol follows (RFC 8441 §5).
func (s *Session) sendResponse(st *Stream, h *message.Head, end bool) {
	from := s.beginBlock()
	status := h.Status
	if status == switchingProtocols {
		status = 200
		h.Remove("content-length")
	}
	var digits [20]byte
	s.out = s.enc.Append(s.out, []byte(":status"), strconv.AppendInt(digits[:0], int64(status), 10))
	s.endBlock(st, from, h, end)
}

// sendFields sends trailers.
func (s *Session) sendFields(st *Stream, h *message.Head, end bool) {
	s.endBlock(st, s.beginBlock(), h, end)
}

// beginBlock leaves room for a frame's head and begins a block behind it.
func (s *Session) beginBlock() (from int) {
	from = len(s.out)
	s.out = appendFrameHead(s.out, 0, kindHeaders, 0, 0)
	s.out = s.enc.Begin(s.out)
	return from
}

// endBlock adds the fields of a head to the block that began at from, and puts
// it into frames.
func (s *Session) endBlock(st *Stream, from int, h *message.Head, end bool) {
	fields := h.Fields()
	for i := range fields {
		name, value := fields[i].Name, fields[i].Value
		switch string(name) {
		case "", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		case "authorization", "proxy-authorization":
			s.out = s.enc.AppendNever(s.out, name, value)
		case "cookie", "set-cookie":
			if len(value) < secretBytesMin { // RFC 7541 §7.1: short enough to be guessed
				s.out = s.enc.AppendNever(s.out, name, value)
				continue
			}
			s.out = s.enc.Append(s.out, name, value)
		default:
			s.out = s.enc.Append(s.out, name, value)
		}
	}
	flags := uint8(0)
	if end {
		flags = flagEndStream
		st.localEnd = true
	}
	if length := len(s.out) - from - frameHeadBytes; length <= s.peerFrame {
		putFrameHead(s.out[from:], length, kindHeaders, flags|flagEndHeaders, st.ID)
	} else {
		s.splitBlock(st, from, flags)
	}
	st.wireOut += int64(len(s.out) - from)
}

// secretBytesMin is how long a cookie must be to enter a compression table.
const secretBytesMin = 20

// splitBlock puts a long block into several frames (RFC 9113 §6.10).
func (s *Session) splitBlock(st *Stream, from int, flags uint8) {
	block := bytes.Clone(s.out[from+frameHeadBytes:])
	s.out = s.out[:from]
	for kind := kindHeaders; len(block) > 0; kind, flags = kindContinuation, 0 {
		part := block[:min(len(block), s.peerFrame)]
		if block = block[len(part):]; len(block) == 0 {
			flags |= flagEndHeaders
		}
		s.out = append(appendFrameHead(s.out, len(part), kind, flags, st.ID), part...)
	}
}

// sendData sends as much of p as the windows and the buffer allow; end ends the
// stream when all of p went out.
func (s *Session) sendData(st *Stream, p []byte, end bool) (n int) {
	for {
		room := min(int64(s.peerFrame), s.sendWindow, st.sendWindow, int64(max(0, outBytesMax-len(s.out))))
		if room <= 0 && len(p) > 0 {
			return n
		}
		part := p[:min(int64(len(p)), max(room, 0))]
		p = p[len(part):]
		n += len(part)
		s.windows.earn(windowsPerData)
		s.sendWindow -= int64(len(part))
		st.sendWindow -= int64(len(part))
		flags := uint8(0)
		if end && len(p) == 0 {
			flags = flagEndStream
		}
		s.out = s.opts.Memory.lender.grow(s.out, frameHeadBytes+len(part), lentWide)
		s.out = append(appendFrameHead(s.out, len(part), kindData, flags, st.ID), part...)
		st.wireOut += int64(len(part)) + frameHeadBytes
		if len(p) == 0 {
			if end {
				st.localEnd = true
			}
			return n
		}
	}
}

// reset ends a stream at once.
func (s *Session) reset(st *Stream, code Code) {
	if st.gone || st.ID == 0 {
		return
	}
	s.out = appendReset(s.out, st.ID, code)
	if s.opts.Role == Client {
		s.lateOwed = min(s.lateOwed+latePerReset, lateMax)
	}
	s.forget(st, true)
}

// close ends a stream whose user is done with it: what is not complete is
// reset.
func (s *Session) close(st *Stream) {
	switch {
	case st.gone:
	case st.ID == 0: // its head never went out
		s.waiting--
		st.gone = true
	case st.localEnd && st.remoteEnd:
		s.forget(st, false)
	case st.localEnd && s.opts.Role == Server:
		s.reset(st, NoError) // RFC 9113 §8.1: the response needs no more of the request
	case s.opts.Role == Server:
		s.reset(st, InternalError)
	default:
		s.reset(st, Cancel)
	}
}

// drain says that no new streams should begin. A server first gives notice, so
// that requests under way are not lost, and says the last stream when the peer
// has seen the notice (RFC 9113 §6.8).
func (s *Session) drain() {
	if s.draining {
		return
	}
	s.draining = true
	if s.opts.Role == Client {
		s.finalGoAway()
		return
	}
	s.out = appendGoAway(s.out, streamIDMax, NoError, "")
	s.out = appendPing(s.out, 0, []byte(drainPing))
}

func (s *Session) finalGoAway() {
	if s.final {
		return
	}
	s.draining, s.final, s.lastTaken = true, true, s.lastPeer
	s.out = appendGoAway(s.out, s.lastPeer, NoError, "")
}

// over reports whether a draining connection has nothing left to do.
func (s *Session) over() bool {
	if s.opts.Role == Client {
		return (s.away || s.draining) && s.used() == 0
	}
	return (s.final || s.away && s.draining) && s.used() == 0
}
