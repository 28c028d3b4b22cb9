package http2

import (
	"slices"
	"strings"
)

// What a client does with a stream whose response breaks a rule; who does not read it any more (askedHold) is not told.
const (
	broken = `(body .*; )?(fails by our PROTOCOL_ERROR; )?resets PROTOCOL_ERROR`
	goesOn = `(body |complete |gets ).*`
)

// clientRules are the differences between the clients.
func clientRules() []rule {
	return slices.Concat(responseRules(), clientStreamRules(), clientFrameRules(), frameRules())
}

// responseRules are about responses' heads and trailers.
func responseRules() []rule {
	return []rule{
		because("heads and trailers beyond the limit", "§10.5.1: ours says why, x/net that it is wrong, or drops what is too much", `(fails by our ENHANCE_YOUR_CALM; )?resets ENHANCE_YOUR_CALM`, `.*`, (*step).tooLong),
		{name: "content-length of 204 and 304", ours: `complete .*`, theirs: `fails: unexpected EOF(; gets .*)?(; resets (CANCEL|NO_ERROR))?`, when: func(d *difference) bool { return d.bodiless && d.step.has(flagEndStream) },
			why: "RFC 9110 §8.6: it says what another response would have; x/net takes it for this one's"},
		because("status", "§8.3.2, RFC 9110 §15: three digits from 100, and §8.6: not 101; x/net hands on every number", broken, goesOn, func(s *step) bool {
			v := s.field(":status")
			return len(v) != 3 || v < "100" || v > "999" || v == "101" || strings.Trim(v, "0123456789") != ""
		}),
		because("connection-specific fields in responses", "§8.2.2: malformed; x/net takes the fields out", broken, goesOn,
			func(s *step) bool {
				return s.any("connection:", "transfer-encoding:", "upgrade:", "keep-alive:", "proxy-connection:", "te:")
			}),
		because("space around values of responses", "§8.2.1: a value neither begins nor ends with it", broken, goesOn,
			func(s *step) bool {
				return slices.ContainsFunc(s.fields, func(f string) bool { _, v := cutField(f); return strings.Trim(v, " \t") != v })
			}),
		because("content-length of responses", "§8.1.1, RFC 9110 §8.6: no number, or two, are malformed; x/net takes the field out", broken, goesOn,
			func(s *step) bool {
				all := s.values("content-length")
				return len(all) > 1 || len(all) == 1 && !lengthBytes.MatchString(all[0])
			}),
		because("content-length without DATA in responses", "§8.1.1: the lengths differ; x/net tells whoever reads", broken, `fails: unexpected EOF; gets .*|`+goesOn,
			func(s *step) bool { return s.has(flagEndStream) && strings.Trim(s.field("content-length"), "0") != "" }),
		because("bad trailers of responses", "§8.1.1: bodies that are too short, and RFC 9110 §6.5.1: framing, routing and authentication do not trail; x/net hands them on", broken, nothing+`|fails: unexpected EOF.*|`+goesOn,
			func(s *step) bool { return s.has(flagEndStream) && !s.any(":status") }),
	}
}

// clientStreamRules are about the states of streams.
func clientStreamRules() []rule {
	return []rule{
		{name: "frames on idle streams", ours: violated, theirs: nothing, when: func(d *difference) bool { return d.of == stateIdle && d.step.stream > 0 },
			why: "§5.1: they end the connection; x/net ignores them on even streams and, but for DATA, on those to come"},
		{name: "streams beyond GOAWAY", ours: `(was not processed)?`, theirs: `resets CANCEL(; was not processed)?`, when: func(d *difference) bool { return d.left || d.step.is(kindGoAway) },
			why: "§6.8: the server ignores them, there is nothing to reset"},
		{name: "GOAWAY with the last stream", ours: nothing, theirs: `closed`, when: func(d *difference) bool { return d.left || d.step.is(kindGoAway) },
			why: "§6.8: nothing goes on; our connection closes too, which is not the session's to do (TestDrainedConnectionsEndAfterTheirStreams)"},
		{name: "requests that are not needed any more", ours: `(body .*; )?complete .*resets CANCEL`, theirs: `(body .*; )?complete .*`,
			why: "§8.1: a whole response before the request's end; ours stops that, x/net when its body is closed"},
		{name: "what follows a whole response", ours: `resets (STREAM_CLOSED|PROTOCOL_ERROR|FLOW_CONTROL_ERROR)|` + nothing, theirs: nothing + `|` + broken, when: func(d *difference) bool { return d.of == stateHalf || d.of == stateClosed },
			why: "§5.1: a stream error either way, which takes nothing back; the side that has forgotten the stream ignores it"},
		{name: "second heads", ours: nothing, theirs: violated, when: func(d *difference) bool { return d.step.fields != nil || d.step.goesOn() },
			why: "§8.1: HEADERS behind the final head end the stream, or else it is malformed: a stream error; x/net ends the connection"},
	}
}

// clientFrameRules are about single frames.
func clientFrameRules() []rule {
	return []rule{
		{name: "too large frames", ours: `goaway FRAME_SIZE_ERROR`, theirs: `closed`, when: func(d *difference) bool { return true },
			why: "§4.2: FRAME_SIZE_ERROR; x/net closes without a word"},
		{name: "frames of servers cut short", ours: violated, theirs: `closed`, when: func(d *difference) bool { return padded(d) || d.step.is(kindPush) },
			why: "§4.2: a frame too short for its fields; x/net closes without a word"},
		{name: "DATA that does not fit content-length", ours: broken, theirs: nothing + `|(body .*; )?fails: .*(truncated|unexpected EOF).*|` + goesOn, when: func(d *difference) bool { return d.step.is(kindData) },
			why: "§8.1.1: malformed; x/net tells whoever reads"},
		{name: "DATA beyond the stream's window", ours: nothing, theirs: `goaway FLOW_CONTROL_ERROR`, when: func(d *difference) bool { return d.oursStream && d.step.data > 0 },
			why: "§6.9: a stream error of ours; x/net's client ends the connection"},
		{name: "ENABLE_PUSH of servers", ours: violated, theirs: nothing, when: func(d *difference) bool { ids, _ := d.step.settings(); return slices.Contains(ids, settingPush) },
			why: "§6.5.2: a server that says 1 breaks a rule; x/net takes it"},
		{name: "PRIORITY of servers", ours: broken, theirs: nothing, when: func(d *difference) bool { return d.step.is(kindPriority) || selfDependent(d) },
			why: "RFC 7540 §5.3.1: a stream that depends on itself is an error; x/net's client does not look"},
		{name: "PRIORITY of servers of a wrong length", ours: nothing, theirs: `goaway FRAME_SIZE_ERROR`, when: func(d *difference) bool { return d.step.is(kindPriority) },
			why: "§6.3: a stream error; x/net ends the connection"},
		{name: "padding of servers' HEADERS", ours: `goaway (PROTOCOL|FRAME_SIZE)_ERROR`, theirs: nothing, when: func(d *difference) bool { return d.step.is(kindHeaders) && d.step.has(flagPadded) },
			why: "§6.2: padding beyond the payload ends the connection; x/net resets the stream, although a block is lost that both tables need"},
	}
}
