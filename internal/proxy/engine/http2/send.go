package http2

import (
	"strconv"

	"golang.org/x/net/http2/hpack"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// open takes a place for a stream of ours (Client); nil: the connection takes
// no more. The stream gets its id with its head, because ids must go out in
// order (RFC 9113 §5.1.1).
func (s *Session) open() *Stream {
	if s.ended() || uint32(len(s.streams)+len(s.waiting)) >= min(s.peerMax, s.opts.StreamsMax) {
		return nil
	}
	st := newStream(s, 0)
	s.waiting[st] = struct{}{}
	return st
}

// begin gives a stream its id.
func (s *Session) begin(st *Stream) {
	delete(s.waiting, st)
	st.ID = s.nextID
	st.sendWindow = s.peerWindow
	s.nextID += 2
	s.streams[st.ID] = st
}

// used is how many streams there are.
func (s *Session) used() int { return len(s.streams) + len(s.waiting) }

// ended reports whether no stream will ever begin again.
func (s *Session) ended() bool {
	return s.failed != nil || s.away || s.draining || s.nextID > streamIDMax-2
}

// sendRequest sends a request's head; wantsTrailers adds te.
func (s *Session) sendRequest(st *Stream, h *message.Head, wantsTrailers, end bool) {
	s.begin(st)
	st.isHead = string(h.Method) == "HEAD"
	s.field(":method", h.Method)
	if string(h.Method) != "CONNECT" {
		s.field(":scheme", h.Scheme)
		s.field(":path", h.Path)
	}
	s.field(":authority", h.Authority)
	if wantsTrailers {
		s.fieldString("te", "trailers")
	}
	s.sendFields(st, h, end)
}

// sendResponse sends a response's head.
func (s *Session) sendResponse(st *Stream, h *message.Head, end bool) {
	if h.Status == 200 {
		s.fieldString(":status", "200")
	} else {
		s.fieldString(":status", strconv.Itoa(h.Status))
	}
	s.sendFields(st, h, end)
}

func (s *Session) field(name string, value []byte) { s.fieldString(name, string(value)) }

func (s *Session) fieldString(name, value string) {
	// Writing into a bytes.Buffer can't fail.
	_ = s.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive(name, value)})
}

// sensitive keeps secrets out of the compression table (RFC 7541 §7.1).
func sensitive(name, value string) bool {
	return name == "authorization" || name == "proxy-authorization" || (name == "cookie" || name == "set-cookie") && len(value) < 20
}

// sendFields sends the fields of a head or of trailers, and the block.
func (s *Session) sendFields(st *Stream, h *message.Head, end bool) {
	fields := h.Fields()
	for i := range fields {
		switch name := string(fields[i].Name); name {
		case "", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		default:
			s.field(name, fields[i].Value)
		}
	}
	b := s.encoded.Bytes()
	before := len(s.out)
	for first := true; first || len(b) > 0; first = false {
		part := b[:min(len(b), s.peerFrame)]
		b = b[len(part):]
		kind, flags := kindContinuation, uint8(0)
		if first {
			kind = kindHeaders
			if end {
				flags |= flagEndStream
			}
		}
		if len(b) == 0 {
			flags |= flagEndHeaders
		}
		s.out = append(appendFrameHead(s.out, len(part), kind, flags, st.ID), part...)
	}
	s.encoded.Reset()
	st.wireOut += int64(len(s.out) - before)
	if end {
		s.localEnd(st)
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
		s.sendWindow -= int64(len(part))
		st.sendWindow -= int64(len(part))
		flags := uint8(0)
		if end && len(p) == 0 {
			flags = flagEndStream
		}
		s.out = append(appendFrameHead(s.out, len(part), kindData, flags, st.ID), part...)
		st.wireOut += int64(len(part)) + frameHeadBytes
		if len(p) == 0 {
			if end {
				s.localEnd(st)
			}
			return n
		}
	}
}

func (s *Session) localEnd(st *Stream) { st.localEnd = true }

// reset ends a stream at once.
func (s *Session) reset(st *Stream, code Code) {
	if st.gone || st.ID == 0 {
		return
	}
	s.out = appendReset(s.out, st.ID, code)
	s.forget(st, true)
}

// close ends a stream whose user is done with it: what is not complete is
// reset.
func (s *Session) close(st *Stream) {
	switch {
	case st.gone:
	case st.ID == 0: // its head never went out
		delete(s.waiting, st)
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
