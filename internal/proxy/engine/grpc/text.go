package grpc

import (
	"encoding/base64"
	"errors"
)

// Errors of a request in base64.
var (
	// ErrText: a character, a padding or a last character that base64 does not
	// have there.
	ErrText = errors.New("invalid base64 data")
	// ErrTextCut: the data end within a group of four characters.
	ErrTextCut = errors.New("base64 data end within a group of four characters")
)

// textDecoder decodes base64 (RFC 4648 §4) as gRPC-Web sends it: any number of
// encodings one after the other, each padded (PROTOCOL-WEB.md: "in-stream
// base64 padding when delimiting messages"). Line breaks are not base64, and the
// bits that padding leaves over must be 0: else several texts would be one
// request.
type textDecoder struct {
	bits   uint32 // of the group's characters so far
	have   uint8  // characters of the group, padding included
	padded bool
}

// decode decodes p in place.
func (d *textDecoder) decode(p []byte) ([]byte, error) {
	w := 0 // each character completes one byte at most, so this never overtakes
	for _, c := range p {
		if c == '=' {
			if !d.pad() {
				return nil, ErrText
			}
			continue
		}
		v := sextet(c)
		if v < 0 || d.padded {
			return nil, ErrText
		}
		d.bits = d.bits<<6 | uint32(v)
		d.have++
		switch d.have {
		case 2:
			p[w] = byte(d.bits >> 4)
		case 3:
			p[w] = byte(d.bits >> 2)
		case 4:
			p[w] = byte(d.bits)
			d.bits, d.have = 0, 0
		default:
			continue
		}
		w++
	}
	return p[:w], nil
}

// pad takes one padding character.
func (d *textDecoder) pad() bool {
	switch {
	case d.padded: // the second one
		*d = textDecoder{}
		return true
	case d.have == 2:
		d.padded = true
		return d.bits&15 == 0
	case d.have == 3:
		ok := d.bits&3 == 0
		*d = textDecoder{}
		return ok
	}
	return false
}

// end says whether the data may end here.
func (d *textDecoder) end() error {
	if d.have > 0 {
		return ErrTextCut
	}
	return nil
}

// sextet is a character's value; -1: it has none.
func sextet(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

// textEncoder encodes messages in base64, each padded for itself, so that
// nothing of a message that is there waits for the next one.
type textEncoder struct {
	frames frames
	carry  [3]byte // what does not fill a group yet
	have   int
}

// append encodes what came of messages.
func (e *textEncoder) append(dst, p []byte) []byte {
	for len(p) > 0 {
		n, _, ended := e.frames.next(p)
		dst = e.put(dst, p[:n])
		if ended {
			dst = e.flush(dst)
		}
		p = p[n:]
	}
	return dst
}

func (e *textEncoder) put(dst, p []byte) []byte {
	if e.have > 0 {
		n := copy(e.carry[e.have:], p)
		e.have += n
		p = p[n:]
		if e.have < len(e.carry) {
			return dst
		}
		dst = e.flush(dst)
	}
	whole := len(p) - len(p)%len(e.carry)
	dst = base64.StdEncoding.AppendEncode(dst, p[:whole])
	e.have = copy(e.carry[:], p[whole:])
	return dst
}

// flush encodes what is carried, with padding where that is less than a group.
func (e *textEncoder) flush(dst []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(dst, e.carry[:e.have])
	e.have = 0
	return dst
}
