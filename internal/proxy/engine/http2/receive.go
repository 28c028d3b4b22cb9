package http2

import (
	"encoding/binary"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// data takes body bytes (RFC 9113 §6.1).
func (s *Session) data(f *frame) error {
	if f.stream == 0 {
		return connError(ProtocolError, "DATA on stream 0")
	}
	whole := int64(len(f.payload)) // padding counts (RFC 9113 §6.9.1)
	if s.recvWindow -= whole; s.recvWindow < 0 {
		return connError(FlowControlError, "DATA beyond the connection's window")
	}
	if s.opts.Role == Client {
		// Clients that share the connection must not stop one another, so only
		// the streams' windows bound what waits (RFC 9113 §5.2.2).
		s.give(whole)
	}
	if err := unpad(f); err != nil {
		return err
	}
	st := s.streams[f.stream]
	if st == nil {
		return s.lateData(f.stream, whole)
	}
	switch {
	case st.remoteEnd:
		s.credit(whole)
		return &StreamError{f.stream, StreamClosed, "DATA after END_STREAM"}
	case s.opts.Role == Client && !st.gotFinal:
		s.credit(whole)
		return &StreamError{f.stream, ProtocolError, "DATA before the response's head"}
	}
	// A stream may end without bytes whatever its window (RFC 9113 §6.9.1).
	if st.recvWindow -= whole; st.recvWindow < -s.slack && whole > 0 {
		s.credit(whole)
		return &StreamError{f.stream, FlowControlError, "DATA beyond the stream's window"}
	}
	n := int64(len(f.payload))
	if n == 0 && !f.has(flagEndStream) {
		if err := s.idle(); err != nil {
			return err
		}
	}
	if st.declared >= 0 && st.received+n > st.declared {
		s.credit(whole)
		return &StreamError{f.stream, ProtocolError, "more DATA than content-length says"}
	}
	st.received += n
	s.held += whole
	st.wireIn += whole + frameHeadBytes
	st.body = append(s.opts.Memory.lender.grow(st.body, int(n), int(st.recvMax)), f.payload...)
	if whole > n {
		s.consumed(st, whole-n)
	}
	if f.has(flagEndStream) {
		return s.remoteEnd(st)
	}
	s.touch(st)
	return nil
}

// lateData takes DATA for a stream that is no more.
func (s *Session) lateData(id uint32, n int64) error {
	if s.isIdle(id) {
		return connError(ProtocolError, "DATA on an idle stream")
	}
	// It counts against the connection's window all the same, or that would
	// shrink for good (RFC 9113 §5.1).
	s.credit(n)
	if known, local := s.remembered(id); s.opts.Role == Client || local || !known {
		return s.lateFrame()
	}
	return &StreamError{id, StreamClosed, "DATA on a closed stream"}
}

// lateFrame counts a frame of a stream that is no more. What we reset made some
// late by itself: a client of ours that leaves must not cost the connection
// that it shares with others.
func (s *Session) lateFrame() error {
	if s.lateOwed > 0 {
		s.lateOwed--
		return nil
	}
	return s.idle()
}

// stands reports whether the response is complete: whatever follows does not
// take it back (RFC 9113 §8.1).
func (s *Session) stands(st *Stream) bool { return s.opts.Role == Client && st.remoteEnd }

// remoteEnd ends the peer's direction (RFC 9113 §8.1.1: the length must be
// what was declared).
func (s *Session) remoteEnd(st *Stream) error {
	if st.declared >= 0 && st.received != st.declared {
		return &StreamError{st.ID, ProtocolError, "less DATA than content-length says"}
	}
	st.remoteEnd = true
	s.touch(st)
	return nil
}

// headers begins a header block (RFC 9113 §6.2).
func (s *Session) headers(f *frame) error {
	if f.stream == 0 {
		return connError(ProtocolError, "HEADERS on stream 0")
	}
	if s.opts.Role == Server && f.stream%2 == 0 {
		return connError(ProtocolError, "HEADERS on an even stream")
	}
	if err := unpad(f); err != nil {
		return err
	}
	b := &s.block
	b.stream, b.end, b.self, b.frames, b.buf = f.stream, f.has(flagEndStream), false, 0, b.buf[:0]
	if f.has(flagPriority) {
		if len(f.payload) < 5 {
			return connError(FrameSizeError, "HEADERS too short for its priority")
		}
		b.self = binary.BigEndian.Uint32(f.payload)&streamIDMax == f.stream
		f.payload = f.payload[5:]
	}
	return s.fragment(f)
}

// continuation goes on with it (RFC 9113 §6.10).
func (s *Session) continuation(f *frame) error {
	if s.block.stream == 0 {
		return connError(ProtocolError, "CONTINUATION without HEADERS")
	}
	if s.block.frames++; s.block.frames > continuationsMax {
		return flood("continuations", "too many CONTINUATIONs") // CVE-2024-27316
	}
	return s.fragment(f)
}

func (s *Session) fragment(f *frame) error {
	b := &s.block
	if len(b.buf)+len(f.payload) > s.opts.HeadBytesMax+blockBytesSlack {
		return flood("header_blocks", "header block too long")
	}
	if !f.has(flagEndHeaders) {
		b.buf = append(b.buf, f.payload...)
		return nil
	}
	payload := f.payload
	if len(b.buf) > 0 {
		b.buf = append(b.buf, payload...)
		payload = b.buf
	}
	id := b.stream
	b.stream = 0
	if s.opts.Role == Server {
		return s.requestBlock(id, payload)
	}
	return s.responseBlock(id, payload)
}

// decode decompresses a whole block into a head. It must run for every block,
// wanted or not, because the table is the connection's.
func (s *Session) decode(payload []byte, h *message.Head, what section) (*fieldReader, error) {
	r := &s.fields
	*r = fieldReader{head: h, section: what, bytesMax: s.opts.HeadBytesMax, countMax: s.opts.HeadFieldsMax, length: -1,
		extended: s.opts.ExtendedConnect && what == requestSection, drops: s.opts.Role == Client}
	if err := s.dec.Decode(payload, r); err != nil {
		return nil, connError(CompressionError, err.Error())
	}
	r.finish()
	return r, nil
}

// requestBlock takes a request's head or trailers.
func (s *Session) requestBlock(id uint32, payload []byte) error {
	if st := s.streams[id]; st != nil {
		return s.trailerBlock(st, payload)
	}
	st := s.opts.Memory.stream(s, id)
	err := s.request(st, id, payload)
	if s.streams[id] != st && st.Malformed == "" {
		s.opts.Memory.streams.Put(st)
	}
	return err
}

// request takes a request's head into st, and st among the streams.
func (s *Session) request(st *Stream, id uint32, payload []byte) error {
	r, err := s.decode(payload, &st.Head, requestSection)
	if err != nil {
		return err
	}
	if id <= s.lastPeer {
		switch known, local := s.remembered(id); {
		case local:
			return s.idle()
		case known:
			return connError(StreamClosed, "HEADERS on a closed stream")
		}
		return connError(ProtocolError, "stream ids go backwards") // RFC 9113 §5.1.1
	}
	s.lastPeer = id
	if s.block.end && r.length > 0 && r.malformed == "" { // RFC 9113 §8.1.1
		r.malformed = "no DATA although content-length says some"
	}
	switch {
	case s.final && id > s.lastTaken:
		return s.idle() // RFC 9113 §6.8: the peer knows that we ignore these
	case s.block.self:
		return &StreamError{id, ProtocolError, "a stream depends on itself"}
	case uint32(len(s.streams)) >= s.opts.StreamsMax:
		return &StreamError{id, RefusedStream, "too many concurrent streams"}
	case r.malformed != "":
		st.Malformed, st.gone = r.malformed, true
		st.wireIn = int64(len(payload)) + frameHeadBytes
		s.rejected = append(s.rejected, st)
		return &StreamError{id, ProtocolError, r.malformed}
	}
	st.TooLarge, st.declared, st.WantsTrailers, st.Expect100 = r.large, r.length, r.trailers, r.expect
	st.Protocol = r.protocol
	st.wireIn = int64(len(payload)) + frameHeadBytes
	s.streams[id] = st
	s.opened = append(s.opened, st)
	if s.block.end {
		return s.remoteEnd(st)
	}
	return nil
}

// trailerBlock takes what follows a body.
func (s *Session) trailerBlock(st *Stream, payload []byte) error {
	into := &st.trail
	if st.remoteEnd { // they may be in use
		s.late.Reset()
		into = &s.late
	}
	r, err := s.decode(payload, into, trailerSection)
	switch {
	case err != nil:
		return err
	case st.remoteEnd:
		return &StreamError{st.ID, StreamClosed, "HEADERS after END_STREAM"}
	case !s.block.end:
		return &StreamError{st.ID, ProtocolError, "trailers without END_STREAM"}
	case r.malformed != "":
		return &StreamError{st.ID, ProtocolError, r.malformed}
	case r.large:
		return &StreamError{st.ID, EnhanceYourCalm, "trailers too large"}
	}
	st.wireIn += int64(len(payload)) + frameHeadBytes
	st.hasTrail = into.Len() > 0
	return s.remoteEnd(st)
}

// responseBlock takes a response's head, an informational one, or trailers.
func (s *Session) responseBlock(id uint32, payload []byte) error {
	st := s.streams[id]
	switch {
	case st == nil:
		if s.isIdle(id) {
			return connError(ProtocolError, "HEADERS on an idle stream")
		}
		s.late.Reset()
		if _, err := s.decode(payload, &s.late, responseSection); err != nil {
			return err
		}
		return s.lateFrame()
	case st.gotFinal:
		return s.trailerBlock(st, payload)
	}
	h := &st.Head
	if st.hasHead {
		h = &message.Head{}
	} else {
		h.Reset()
	}
	r, err := s.decode(payload, h, responseSection)
	switch {
	case err != nil:
		return err
	case r.malformed != "":
		return &StreamError{id, ProtocolError, r.malformed}
	case r.large:
		return &StreamError{id, EnhanceYourCalm, "response head too large"}
	case h.Status < 200 && s.block.end:
		return &StreamError{id, ProtocolError, "informational response with END_STREAM"}
	case h.Status < 200 && len(st.more) >= informationalMax-1:
		return &StreamError{id, EnhanceYourCalm, "too many informational responses"}
	}
	if st.switched(h.Status) {
		h.Remove("content-length") // RFC 9110 §9.3.6
		r.length = -1
	} else if st.isHead || h.Status == 204 || h.Status == 304 {
		r.length = 0 // RFC 9110 §6.4.1: nothing may follow, whatever the head says
	}
	if s.block.end && r.length > 0 {
		return &StreamError{id, ProtocolError, "no DATA although content-length says some"}
	}
	st.wireIn += int64(len(payload)) + frameHeadBytes
	if st.hasHead {
		st.more = append(st.more, h)
	}
	st.hasHead = true
	s.touch(st)
	if h.Status < 200 {
		return nil
	}
	st.gotFinal, st.declared = true, r.length
	if s.block.end {
		return s.remoteEnd(st)
	}
	return nil
}

// peerReset takes RST_STREAM (RFC 9113 §6.4).
func (s *Session) peerReset(f *frame) error {
	switch {
	case f.stream == 0:
		return connError(ProtocolError, "RST_STREAM on stream 0")
	case len(f.payload) != 4:
		return connError(FrameSizeError, "RST_STREAM of a wrong length")
	}
	st := s.streams[f.stream]
	if st == nil {
		if s.isIdle(f.stream) {
			return connError(ProtocolError, "RST_STREAM on an idle stream")
		}
		return s.lateFrame()
	}
	if !s.stands(st) {
		st.fail(&ResetError{Code: Code(binary.BigEndian.Uint32(f.payload)), Complete: st.remoteEnd})
	}
	s.touch(st)
	s.forget(st, false)
	if s.opts.Role == Server && !s.resets.take(resetBurst, resetRate, s.now) {
		return flood("resets", "too many streams reset")
	}
	return nil
}

// forget removes a stream; bytes of it that nobody read give their credit back.
func (s *Session) forget(st *Stream, local bool) {
	if s.streams[st.ID] != st {
		return
	}
	delete(s.streams, st.ID)
	s.remember(st.ID, local)
	if n := int64(len(st.body)-st.read) + st.taken; n > 0 {
		s.held -= n
		s.credit(n)
	}
	st.gone = true
}

func (s *Session) remember(id uint32, local bool) {
	s.closed[s.closedAt%closedMax] = closedStream{id, local}
	s.closedAt++
}

func (s *Session) remembered(id uint32) (known, local bool) {
	for i := range s.closed {
		if s.closed[i].id == id {
			return true, s.closed[i].local
		}
	}
	return false, false
}
