package http1

import (
	"bytes"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// fieldParser reads field lines into a head and notes what they say about
// framing. It lives on the stack of one call.
type fieldParser struct {
	head    *message.Head
	framing *Framing
	request bool
	max     int

	count      int
	host       []byte
	hosts      int
	connection [limit.ConnectionFieldsMax][]byte
	nConn      int
	upgrade    []byte
	te         bool
	codings    int
	lengths    int
	keepAlive  bool
}

// parse reads lines up to the empty one, which must be the last.
func (p *fieldParser) parse(buf []byte) error {
	for len(buf) > 2 {
		end := bytes.IndexByte(buf, '\n')
		if end < 1 || buf[end-1] != '\r' {
			return ErrBareLF
		}
		colon := 0
		for colon < end && classes[buf[colon]]&isToken != 0 {
			buf[colon] = lowers[buf[colon]]
			colon++
		}
		if colon == 0 && (buf[0] == ' ' || buf[0] == '\t') {
			return ErrFold
		}
		if colon == 0 || buf[colon] != ':' {
			return ErrName
		}
		value := trim(buf[colon+1 : end-1])
		if !all(value, isValue) {
			return ErrValue
		}
		if p.count++; p.count > p.max {
			return ErrFieldCount
		}
		if err := p.field(buf[:colon], value); err != nil {
			return err
		}
		buf = buf[end+1:]
	}
	if string(buf) != "\r\n" {
		return ErrLine
	}
	return nil
}

// field stores a field, or takes it as framing. The switch is by length
// because most names are decided by it.
func (p *fieldParser) field(name, value []byte) error {
	switch len(name) {
	case 2:
		if string(name) == "te" {
			p.te = true
			p.framing.WantsTrailers = p.framing.WantsTrailers || hasToken(value, "trailers")
			return nil
		}
	case 4:
		if p.request && string(name) == "host" {
			p.hosts++
			p.host = value
			return nil
		}
	case 6:
		if p.request && string(name) == "expect" {
			if !equalFold(value, "100-continue") {
				return ErrExpect
			}
			p.framing.Expect100 = true
			return nil
		}
	case 7:
		if string(name) == "upgrade" {
			if p.upgrade != nil {
				value = p.head.Keep(bytes.Join([][]byte{p.upgrade, value}, []byte(", ")))
			}
			p.upgrade = value
			return nil
		}
	case 10:
		switch string(name) {
		case "connection":
			return p.connectionField(value)
		case "keep-alive":
			p.framing.KeepAlive = value
			return nil
		}
	case 14:
		if string(name) == "content-length" {
			return p.lengthField(name, value)
		}
	case 16:
		if string(name) == "proxy-connection" {
			return nil
		}
	case 17:
		if string(name) == "transfer-encoding" {
			return p.codingField(value)
		}
	}
	p.head.Append(name, value)
	return nil
}

func (p *fieldParser) connectionField(value []byte) error {
	if p.nConn == len(p.connection) {
		return ErrFieldCount
	}
	p.connection[p.nConn] = value
	p.nConn++
	p.framing.Close = p.framing.Close || hasToken(value, "close")
	p.keepAlive = p.keepAlive || hasToken(value, "keep-alive")
	return nil
}

func (p *fieldParser) lengthField(name, value []byte) error {
	if p.lengths++; p.lengths > 1 {
		return ErrLengthTwice
	}
	if p.codings > 0 {
		return ErrBothLengths
	}
	n, ok := parseLength(value)
	if !ok {
		return ErrLength
	}
	p.framing.Length = n
	p.head.Append(name, value)
	return nil
}

func (p *fieldParser) codingField(value []byte) error {
	if p.codings++; p.codings > 1 {
		return ErrCodingTwice
	}
	if p.lengths > 0 {
		return ErrBothLengths
	}
	if equalFold(value, "chunked") {
		p.framing.Chunked = true
		return nil
	}
	last := value
	if i := bytes.LastIndexByte(value, ','); i >= 0 {
		last = trim(value[i+1:])
	}
	if !equalFold(last, "chunked") || hasToken(value[:len(value)-len(last)], "chunked") {
		return ErrCoding
	}
	return ErrCodingOther
}

func (p *fieldParser) finishRequest(form targetForm) error {
	h, f := p.head, p.framing
	if p.hosts > 1 {
		return ErrHostTwice
	}
	// HTTP/1.0 may leave Host out, but then there is nothing to route by.
	if p.hosts == 0 && (h.Protocol == fact.HTTP11 || h.Authority == nil) {
		return ErrHostMissing
	}
	if p.hosts == 1 && !message.ValidAuthority(p.host, false) {
		return ErrHost
	}
	switch form {
	case originForm, asteriskForm:
		h.Authority = p.host
	case absoluteForm, authorityForm: // the target's authority replaces Host (RFC 9112 §3.2.2)
	}
	if f.Chunked && h.Protocol == fact.HTTP10 {
		return ErrCodingOld
	}
	if form == authorityForm && (f.Chunked || f.Length > 0) {
		return ErrUpgradeBody
	}
	if h.Protocol == fact.HTTP10 {
		f.Expect100 = false // RFC 9110 §10.1.1
	}
	return nil
}

// dropHopByHop decides persistence, keeps an upgrade's own fields and removes
// what Connection nominates (RFC 9110 §7.6.1).
func (p *fieldParser) dropHopByHop() error {
	f := p.framing
	f.Close = f.Close || p.head.Protocol == fact.HTTP10 && !p.keepAlive
	wantsUpgrade := false
	for _, list := range p.connection[:p.nConn] {
		var token []byte
		for len(list) > 0 {
			token, list = cutList(list)
			switch {
			case len(token) == 0 || equalFold(token, "close") || equalFold(token, "keep-alive"):
			case equalFold(token, "upgrade"):
				wantsUpgrade = true
			case !all(token, isToken):
				return ErrValue
			default:
				if err := p.nominated(token); err != nil {
					return err
				}
			}
		}
	}
	switching := p.request || p.head.Status == 101
	if wantsUpgrade && switching && len(p.upgrade) > 0 && p.head.Protocol == fact.HTTP11 && !equalFold(p.upgrade, "h2c") {
		if p.request && (f.Chunked || f.Length > 0) {
			// Where the body ends and the other protocol begins, two parsers may differ.
			return ErrUpgradeBody
		}
		f.Upgrade = p.head.Keep(p.upgrade)
		toLower(f.Upgrade)
		p.head.Append(p.head.KeepString("connection"), p.head.KeepString("upgrade"))
		p.head.Append(p.head.KeepString("upgrade"), p.upgrade)
	}
	return nil
}

// nominated removes a field that Connection names. Fields that decide framing
// or that peers trust are not hop-by-hop: to drop them at a client's wish
// would let it hide them from the next hop.
func (p *fieldParser) nominated(token []byte) error {
	var buf [64]byte
	if len(token) > len(buf) {
		return ErrNominated
	}
	name := buf[:copy(buf[:], token)]
	toLower(name)
	switch string(name) {
	case "host", "content-length", "transfer-encoding", "authorization", "cookie", "x-request-id",
		"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-client-cert", "forwarded":
		return ErrNominated
	}
	fields := p.head.Fields()
	for i := range fields {
		if bytes.Equal(fields[i].Name, name) {
			p.head.Remove(string(name))
			return nil
		}
	}
	return nil
}

// ParseTrailers parses a trailer section, its last empty line included, into
// h. Fields that decide framing are refused. Others that may not trail (RFC 9110
// §6.5.1), such as those for routing or authentication, are refused too, or left
// out where drop says so.
func ParseTrailers(buf []byte, l Limits, h *message.Head, drop bool) error {
	h.Reset()
	var f Framing
	p := fieldParser{head: h, framing: &f, max: l.fields()}
	if err := p.parse(buf); err != nil {
		return err
	}
	if p.nConn > 0 || p.lengths > 0 || p.codings > 0 || p.upgrade != nil || p.te {
		return ErrTrailer
	}
	for _, field := range h.Fields() {
		switch {
		case message.MayTrail(string(field.Name)):
		case !drop:
			return ErrTrailer
		default:
			h.Remove(string(field.Name))
		}
	}
	return nil
}
