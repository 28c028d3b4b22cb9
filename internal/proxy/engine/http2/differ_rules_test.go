package http2

import (
	"encoding/binary"
	"regexp"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Patterns of what a side did.
const (
	nothing   = ``
	malformed = `resets PROTOCOL_ERROR`
	served    = `.*request .*`
	violated  = `goaway PROTOCOL_ERROR`
)

// because is a rule about the fields of a head or of trailers.
func because(name, why, ours, theirs string, when func(*step) bool) rule {
	return rule{name: name, why: why, ours: ours, theirs: theirs, when: func(d *difference) bool { return d.step.fields != nil && when(d.step) }}
}

var (
	pathBytes   = regexp.MustCompile(`^/[!-"$-~]*$`)
	tokenBytes  = regexp.MustCompile("^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$")
	lengthBytes = regexp.MustCompile(`^[0-9]{1,18}$`)
)

func padded(d *difference) bool { return d.step.has(flagPadded) || d.step.has(flagPriority) }

func selfDependent(d *difference) bool {
	p := d.step.bytes[frameHeadBytes:]
	if d.step.is(kindHeaders) {
		if !d.step.has(flagPriority) {
			return false
		}
		if d.step.has(flagPadded) && len(p) > 0 {
			p = p[1:]
		}
	}
	return len(p) >= 4 && binary.BigEndian.Uint32(p)&streamIDMax == d.step.stream
}

// tooLong reports whether fields are more than a head may have (§6.5.2).
func (s *step) tooLong() bool {
	n := 0
	for _, f := range s.fields {
		n += len(f) - len(": ") + 32
	}
	return n > differHead
}

// twoUpdates reports whether a block begins with two updates of the table's size (RFC 7541 §6.3).
func twoUpdates(d *difference) bool {
	f, _, err := nextFrame(d.step.bytes)
	if err != nil || f.kind != kindHeaders || unpad(&f) != nil {
		return false
	}
	b := f.payload
	if f.has(flagPriority) {
		b = b[min(5, len(b)):]
	}
	n := 0
	for len(b) > 0 && b[0]&0xe0 == 0x20 {
		n++
		for more := b[0]&0x1f == 0x1f; more && len(b) > 1; more = b[0]&0x80 != 0 {
			b = b[1:]
		}
		b = b[1:]
	}
	return n > 1
}

// authority is what a head says of it.
func authority(s *step) string {
	return append(append(s.values(":authority"), s.values("host")...), "")[0]
}

// serverRules are the differences between the servers.
func serverRules() []rule {
	return slices.Concat(streamRules(), headRules(), trailerRules(), frameRules())
}

// wrong reports whether a frame has a wrong length, and whether it is on a stream where it can't be.
func wrong(d *difference) (length, place bool) {
	lengths := map[frameKind]int{kindPriority: 5, kindReset: 4, kindPing: 8, kindWindow: 4}
	n := len(d.step.payload())
	want, fixed := lengths[d.step.kind]
	switch d.step.kind {
	case kindSettings:
		return n%6 != 0 || d.step.has(flagAck) && n > 0, d.step.stream != 0
	case kindGoAway:
		return n < 8, d.step.stream != 0
	case kindPing:
		return n != want, d.step.stream != 0
	}
	return fixed && n != want, d.step.stream == 0 || d.of == stateIdle
}

// trailerRules are about what follows a body.
func trailerRules() []rule {
	return []rule{
		because("undeclared trailers", "RFC 9110 §6.6.2: Trailer is a hint; x/net hands on only what it names", `.*complete .*`, `.*complete .*`,
			func(s *step) bool { return s.has(flagEndStream) && len(s.fields) > 0 }),
		because("bad trailers", "§8.1, RFC 9110 §6.5.1: pseudo-header fields, framing, routing and authentication do not trail; x/net looks at declared ones alone", `fails; `+malformed, `(.*complete .*)?`,
			func(s *step) bool { return s.has(flagEndStream) && len(s.fields) > 0 }),
	}
}

// streamRules are about the states of streams.
func streamRules() []rule {
	return []rule{
		{name: "late frames", ours: nothing, theirs: `resets (STREAM_CLOSED|PROTOCOL_ERROR)`, when: func(d *difference) bool { return d.of == stateClosed && !d.refused },
			why: "§5.1 closed: who sent RST_STREAM ignores what the peer sent before it saw that; x/net resets again"},
		{name: "late heads", ours: nothing, theirs: violated, when: func(d *difference) bool { return d.of == stateClosed && d.step.fields != nil },
			why: "§5.1 closed: so are the HEADERS of a stream that we reset; x/net takes them for ids that go backwards"},
		{name: "refused heads open streams", ours: nothing + `|goaway (STREAM_CLOSED|PROTOCOL_ERROR)`, theirs: `.*`, when: func(d *difference) bool { return d.refused && d.of == stateClosed },
			why: "§5.1, §8.1.1: HEADERS opens a stream, and a malformed head closes it; for x/net it was never opened when its framer found the fault, so that the id may come again and any other frame is one on an idle stream"},
		{name: "closed or backwards", ours: `goaway STREAM_CLOSED`, theirs: violated, when: func(d *difference) bool { return d.step.fields != nil && d.of == stateClosed },
			why: "§5.1 closed says STREAM_CLOSED, §5.1.1 of an id that goes backwards PROTOCOL_ERROR: both hold"},
		{name: "clients that say GOAWAY", ours: `.*`, theirs: nothing + `|closed`, when: func(d *difference) bool { return d.left },
			why: "§6.8: GOAWAY forbids its receiver to open streams, not its sender; x/net takes none any more, and closes without a code when a rule is broken later"},
		{name: "too many streams", ours: `resets (REFUSED_STREAM|PROTOCOL_ERROR)`, theirs: `resets (REFUSED_STREAM|PROTOCOL_ERROR)`, when: func(d *difference) bool { return d.of == stateIdle && !d.others },
			why: "§5.1.2 permits both codes; REFUSED_STREAM says that the request may be sent again, which does not help one that is malformed too"},
		{name: "as many streams as before", ours: `resets REFUSED_STREAM|` + served + `|` + malformed, theirs: `resets (REFUSED_STREAM|PROTOCOL_ERROR)|answers 400.*|` + served, when: func(d *difference) bool { return d.of == stateIdle && d.others },
			why: "streams that have parted count for one side and not for the other (§5.1.2)"},
	}
}

// headRules are about requests' heads.
func headRules() []rule {
	invalid := func(s *step, ok func(string) bool, names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return slices.ContainsFunc(s.values(name), func(v string) bool { return !ok(v) })
		})
	}
	return []rule{
		because("requests without authority", "RFC 9112 §3.2: HTTP/1.1, which may follow, wants Host; a mesh routes by it", malformed, served,
			func(s *step) bool { return authority(s) == "" }),
		because("path's bytes", "RFC 9110 §7.1, §10.3: what can't stand in a request line is refused", malformed, served,
			func(s *step) bool { return invalid(s, pathBytes.MatchString, ":path") && s.field(":path") != "*" }),
		because("asterisk", "RFC 9110 §7.1: * is the form of OPTIONS alone", malformed, served, func(s *step) bool { return s.field(":path") == "*" && s.field(":method") != "OPTIONS" }),
		because("method's bytes", "RFC 9110 §9.1: a method is a token", malformed, served, func(s *step) bool { return invalid(s, tokenBytes.MatchString, ":method") }),
		because("CONNECT with empty fields", "§8.5: :scheme and :path are omitted; x/net takes them when they are empty", malformed, served,
			func(s *step) bool {
				return s.field(":method") == "CONNECT" && len(s.values(":path"))+len(s.values(":scheme")) > 0
			}),
		because("authorities that are no host and port", "RFC 9110 §7.2, §9.3.6: what can't stand in Host is refused, as over HTTP/1.1; x/net looks at single bytes", malformed, served,
			func(s *step) bool {
				return !message.ValidAuthority([]byte(authority(s)), s.field(":method") == "CONNECT")
			}),
		because("connection-specific fields", "§8.2.2: the message is malformed, a stream error by §8.1.1; x/net answers 400 itself", malformed, `answers 400.*`,
			func(s *step) bool {
				return s.any("connection:", "transfer-encoding:", "upgrade:", "keep-alive:", "proxy-connection:", "te:")
			}),
		because("te twice", "RFC 9110 §10.1.4: TE is a list, whose lines may be several", served, `answers 400.*`, func(s *step) bool { return len(s.values("te")) > 1 }),
		because("trailers beyond the limit", "§10.5.1: ours resets, x/net drops what is too much", `fails; resets ENHANCE_YOUR_CALM`, `(.*complete .*)?|fails; resets .*`, (*step).tooLong),
		because("heads beyond the limit", "§10.5.1, RFC 6585 §5: what is behind the limit is not looked at, and what 431 says is left open; x/net counts Trailer by itself", `answers 431.*|`+malformed, `answers 431.*|`+malformed+`|`+served,
			(*step).tooLong),
		because("empty te", "§8.2.2: only trailers", malformed, served, func(s *step) bool { return slices.Contains(s.values("te"), "") }),
		because("space around values", "§8.2.1: a value neither begins nor ends with it", malformed, served,
			func(s *step) bool {
				return slices.ContainsFunc(s.fields, func(f string) bool { _, v := cutField(f); return strings.Trim(v, " \t") != v })
			}),
		because("content-length", "§8.1.1, RFC 9110 §8.6: no number, or two, make a request that means different things to different readers; x/net looks at the first alone", malformed, served,
			func(s *step) bool {
				return len(s.values("content-length")) > 1 || invalid(s, lengthBytes.MatchString, "content-length")
			}),
		because("content-length without a body", "§8.1.1: the lengths differ; x/net does not compare them when there is no DATA", malformed, served,
			func(s *step) bool {
				return s.flags&flagEndStream != 0 && strings.Trim(s.field("content-length"), "0") != ""
			}),
		because("schemes", "§8.3.1: :scheme is not restricted to http and https", served, malformed,
			func(s *step) bool { return s.field(":scheme") != "http" && s.field(":scheme") != "https" }),
		because("percent-encoding of paths", "RFC 9110 §7.1 leaves it to whoever decodes; x/net does and refuses what it can't", served, malformed,
			func(s *step) bool { return strings.Contains(s.field(":path"), "%") }),
		because("host in another case", "RFC 9110 §4.2.3: a host has no case; x/net compares bytes", served, malformed,
			func(s *step) bool { return s.any("host:") && strings.EqualFold(s.field("host"), s.field(":authority")) }),
	}
}

// frameRules are about single frames, whoever sends them.
func frameRules() []rule {
	return []rule{
		{name: "SETTINGS acknowledged twice", ours: nothing, theirs: violated, when: func(d *difference) bool { return d.step.is(kindSettings) && d.step.has(flagAck) },
			why: "§6.5.3 does not say; it is counted as a frame that moves nothing"},
		{name: "settings that repeat", ours: `.*`, theirs: violated, when: func(d *difference) bool {
			ids, _ := d.step.settings()
			n := len(ids)
			slices.Sort(ids)
			return len(slices.Compact(ids)) < n
		}, why: "§6.5.3: values are processed in order, so the last one holds; x/net does not take repeated ones"},
		{name: "several settings out of range", ours: `goaway .*`, theirs: `goaway .*`, when: func(d *difference) bool { return d.step.is(kindSettings) },
			why: "§6.5.2: each has its code; x/net looks for the window first"},
		{name: "DATA beyond the connection's window", ours: `goaway FLOW_CONTROL_ERROR`, theirs: nothing, when: func(d *difference) bool { return d.oursConn && d.step.data > 0 },
			why: "§6.9: a connection error of ours; x/net's server resets the stream, although the connection's account is wrong"},
		{name: "DATA beyond one side's window", ours: `(fails.*; )?resets FLOW_CONTROL_ERROR`, theirs: `.*`, when: func(d *difference) bool { return d.oursStream && !d.theirsStream },
			why: "§6.9.1: each side decides when it gives credit, and holds the peer to what it announced"},
		{name: "windows that SETTINGS make too large", ours: `goaway FLOW_CONTROL_ERROR`, theirs: nothing, when: func(d *difference) bool { return d.step.is(kindSettings) },
			why: "§6.9.2: it ends the connection; x/net notices when it next adds to that window"},
		{name: "windows of streams that have parted", ours: `(goaway FLOW_CONTROL_ERROR)?`, theirs: `(goaway FLOW_CONTROL_ERROR)?`, when: func(d *difference) bool { return d.others && (d.step.is(kindWindow) || d.step.is(kindSettings)) },
			why: "§6.9: what they have been sent differs, and with it the windows that are left"},
		{name: "stream errors of idle streams", ours: violated, theirs: nothing, when: func(d *difference) bool {
			return (d.step.is(kindPriority) && selfDependent(d) || d.step.is(kindWindow)) && strings.HasPrefix(d.theirsBeside, malformed)
		}, why: "RFC 7540 §5.3.1 (self-dependency) and §6.9 (WINDOW_UPDATE by 0) want a stream error, which can't be sent for an idle stream (§6.4, §5.1); x/net sends it all the same"},
		{name: "frames cut short", ours: `goaway (FRAME_SIZE|PROTOCOL)_ERROR`, theirs: `closed`, when: func(d *difference) bool { return padded(d) || d.step.is(kindPush) },
			why: "§4.2: a frame too short for its fields is a FRAME_SIZE_ERROR; x/net closes without a word"},
		{name: "padding of HEADERS", ours: `goaway (PROTOCOL|FRAME_SIZE)_ERROR`, theirs: nothing, when: func(d *difference) bool {
			return d.step.is(kindHeaders) && d.step.has(flagPadded) && strings.Contains(d.theirsBeside, malformed)
		}, why: "§6.2: padding beyond the payload ends the connection; x/net resets the stream, although a block is lost that both tables need"},
		{name: "length and place", ours: `goaway (FRAME_SIZE|PROTOCOL)_ERROR`, theirs: `goaway (FRAME_SIZE|PROTOCOL)_ERROR`, when: func(d *difference) bool {
			length, place := wrong(d)
			return length && place
		}, why: "§6: a frame of a wrong length on a wrong stream breaks two rules"},
		{name: "PRIORITY of a wrong length", ours: nothing, theirs: `goaway FRAME_SIZE_ERROR`, when: func(d *difference) bool {
			return d.step.is(kindPriority) && strings.Contains(d.oursBeside, "resets FRAME_SIZE_ERROR")
		}, why: "§6.3: a stream error; x/net ends the connection"},
		{name: "late size updates", ours: `goaway COMPRESSION_ERROR`, theirs: nothing + `|` + violated, when: func(d *difference) bool { return strings.Contains(d.reason, "late size update") },
			why: "RFC 7541 §4.2: they come first in a block; x/net takes them later while the table is empty"},
		{name: "blocks in too many frames", ours: `goaway ENHANCE_YOUR_CALM`, theirs: `.*`, when: func(d *difference) bool { return d.step.goesOn() },
			why: "§10.5.1: empty or small CONTINUATION is a flood (CVE-2024-27316), whatever it ends with; x/net counts bytes alone"},
		{name: "two size updates", ours: nothing, theirs: `goaway COMPRESSION_ERROR`, when: twoUpdates,
			why: "RFC 7541 §4.2: two may begin a block; x/net takes the second only when its table is empty"},
		{name: "broken blocks behind a bad field", ours: `goaway COMPRESSION_ERROR`, theirs: nothing, when: func(d *difference) bool {
			return regexp.MustCompile(malformed+`|answers 431`).MatchString(d.theirsBeside) || d.of == stateClosed || d.of == stateHalf
		},
			why: "§4.3: a block that can't be decoded ends the connection; x/net leaves strings undecoded once it has found a fault"},
		{name: "blocks that go on behind a bad field", ours: nothing + `|goaway COMPRESSION_ERROR`, theirs: violated, when: func(d *difference) bool { return d.step.goesOn() },
			why: "§8.1.1: a stream error; x/net ends the connection when CONTINUATION follows a bad field"},
		{name: "blocks that do not end", ours: nothing + `|` + violated, theirs: `goaway COMPRESSION_ERROR`, when: func(d *difference) bool { return d.step.goesOn() && !d.step.has(flagEndHeaders) },
			why: "§4.3: a block is decoded as a whole; x/net decodes what has come"},
		{name: "places are judged at once", ours: violated, theirs: nothing, when: func(d *difference) bool {
			return d.step.goesOn() && d.step.stream%2 == 0
		}, why: "§5.1.1: HEADERS on such a stream ends the connection, whatever is in it; x/net waits for the block's end"},
		{name: "bad fields in a wrong place", ours: `goaway (STREAM_CLOSED|PROTOCOL_ERROR)`, theirs: nothing, when: func(d *difference) bool {
			return strings.Contains(d.theirsBeside, malformed) && (d.step.is(kindHeaders) || d.step.is(kindContinuation))
		},
			why: "§5.1, §5.1.1: the place ends the connection; x/net looks into the block first, and resets the stream for a bad field"},
		{name: "broken blocks in a wrong place", ours: violated, theirs: `goaway COMPRESSION_ERROR`, when: func(d *difference) bool {
			return d.step.is(kindHeaders) && d.of == stateIdle || d.step.is(kindContinuation)
		},
			why: "§5.1.1 and §4.3: both end the connection"},
		{name: "bad fields behind the end", ours: `(fails; )?resets STREAM_CLOSED`, theirs: `(fails; )?` + malformed, when: func(d *difference) bool { return d.of == stateHalf && d.step.fields != nil },
			why: "§5.1 half-closed: nothing but WINDOW_UPDATE, PRIORITY and RST_STREAM may come, whatever is in it"},
		{name: "bodies that are too short", ours: `fails; ` + malformed, theirs: `(.*fails; resets INTERNAL_ERROR)?`, when: func(d *difference) bool {
			return d.step.has(flagEndStream) && (d.step.is(kindData) || d.step.fields != nil)
		},
			why: "§8.1.1: a length that differs is a PROTOCOL_ERROR; x/net tells its handler alone, which gives up"},
	}
}
