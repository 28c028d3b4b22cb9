package http2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// These tests hold our sessions to golang.org/x/net/http2, which is another reading of the same RFC: both get the same frames, one step
// after the other, and after each the same must have happened. Where not, a rule has to say why, with its section (judge); a stream that a
// rule explains is left alone from then on, because its states differ. Read this file first, then differ_script_test.go (what is sent),
// differ_server_test.go and differ_client_test.go.

// event is something that a side did or told its user: on a stream, or on the connection (0).
type event struct {
	stream uint32
	what   string
}

// endings are the events that end a connection.
func (e event) ends() bool {
	return e.stream == 0 && (strings.HasPrefix(e.what, "goaway") || e.what == "closed")
}

// subject is one implementation.
type subject interface {
	// step takes bytes of the peer, which are about one stream, and returns what happened.
	step(stream uint32, b []byte) []event
	// beyond reports whether n bytes of DATA exceed a window as this side announced it: the stream's, the connection's.
	beyond(stream uint32, n int) (ofStream, ofConn bool)
	close()
}

// speech reads what a side sends, as its peer does.
type speech struct {
	rest   []byte
	dec    *hpack.Decoder
	block  []byte
	flags  uint8
	conn   int64            // window for DATA of the peer
	first  int64            // a stream's before any update
	grown  map[uint32]int64 // by updates less what was sent
	fields []hpack.HeaderField
}

// ours is a Session of ours that is fed what its peer sends.
type ours struct {
	*speech
	s      *Session
	rest   []byte // of what was fed, not used yet
	failed bool
}

func newOurs(o Options) ours { return ours{speech: newSpeech(), s: NewSession(o)} }

func (u *ours) feed(b []byte) {
	u.sent(b)
	u.rest = append(u.rest, b...)
	used, err := u.s.Feed(u.rest, 1)
	u.rest = u.rest[used:]
	u.failed = err != nil
}

func (u *ours) close() {}

type body struct {
	n   int
	sum uint32
}

func (b *body) add(p []byte) { b.n, b.sum = b.n+len(p), crc32.Update(b.sum, crc32.IEEETable, p) }

func newSpeech() *speech {
	s := &speech{conn: windowDefault, first: windowDefault, grown: map[uint32]int64{}}
	s.dec = hpack.NewDecoder(1<<20, func(f hpack.HeaderField) { s.fields = append(s.fields, f) })
	return s
}

func (s *speech) beyond(stream uint32, n int) (ofStream, ofConn bool) {
	return int64(n) > s.first+s.grown[stream], int64(n) > s.conn
}

// sent counts DATA of the peer.
func (s *speech) sent(b []byte) {
	for len(b) > 0 {
		f, n, err := nextFrame(b)
		if n == 0 || err != nil {
			return
		}
		if f.kind == kindData {
			s.conn -= int64(len(f.payload))
			s.grown[f.stream] -= int64(len(f.payload))
		}
		b = b[n:]
	}
}

// take returns what bytes say. Body bytes of a stream are one event, however they are framed.
func (s *speech) take(b []byte) (out []event) {
	s.rest = append(s.rest, b...)
	bodies := map[uint32]*body{}
	for len(s.rest) >= frameHeadBytes {
		length := int(s.rest[0])<<16 | int(s.rest[1])<<8 | int(s.rest[2])
		if len(s.rest) < frameHeadBytes+length {
			break
		}
		f := frame{frameKind(s.rest[3]), s.rest[4], binary.BigEndian.Uint32(s.rest[5:]) & streamIDMax, s.rest[frameHeadBytes : frameHeadBytes+length]}
		s.rest = s.rest[frameHeadBytes+length:]
		if f.kind == kindData {
			if bodies[f.stream] == nil {
				bodies[f.stream] = &body{}
			}
			bodies[f.stream].add(f.payload)
		}
		out = append(out, s.frame(&f)...)
	}
	for id, b := range bodies {
		if b.n > 0 {
			out = append(out, event{id, fmt.Sprintf("sends %d %x", b.n, b.sum)})
		}
	}
	return out
}

func (s *speech) frame(f *frame) (out []event) {
	say := func(format string, args ...any) { out = append(out, event{f.stream, fmt.Sprintf(format, args...)}) }
	switch f.kind {
	case kindHeaders, kindContinuation:
		if f.kind == kindHeaders {
			s.flags, s.block = f.flags, nil
		}
		if s.block = append(s.block, f.payload...); f.has(flagEndHeaders) {
			s.fields = nil
			if _, err := s.dec.Write(s.block); err != nil {
				say("unreadable block: %v", err)
			}
			_ = s.dec.Close()
			if len(s.fields) > 0 && s.fields[0].Name == ":status" {
				if s.fields[0].Value == "100" { // theirs says so by itself, ours when the proxy wants
					break
				}
				say("answers %s", s.fields[0].Value)
			}
		}
		if f.kind == kindHeaders && f.has(flagEndStream) {
			say("ends")
		}
	case kindData:
		if f.has(flagEndStream) {
			say("ends")
		}
	case kindReset:
		say("resets %s", Code(binary.BigEndian.Uint32(f.payload)))
	case kindGoAway:
		if code := Code(binary.BigEndian.Uint32(f.payload[4:])); code != NoError {
			say("goaway %s", code)
		}
	case kindPing:
		if f.has(flagAck) { // theirs asks by itself whether the peer is there
			say("pong %q", f.payload)
		}
	case kindSettings:
		if f.has(flagAck) {
			say("ack")
			break
		}
		for p := f.payload; len(p) > 0; p = p[6:] {
			if binary.BigEndian.Uint16(p) == settingWindow {
				s.first = int64(binary.BigEndian.Uint32(p[2:]))
			}
		}
	case kindWindow:
		if n := int64(binary.BigEndian.Uint32(f.payload)); f.stream == 0 {
			s.conn += n
		} else {
			s.grown[f.stream] += n
		}
	}
	return out
}

// difference is what one step did to one stream, or to the connection, on one side only.
type difference struct {
	step         *step
	stream       uint32
	ours, theirs []string
	// Whether DATA exceeds the windows that each side announced.
	oursStream, oursConn, theirsStream, theirsConn bool
	// of is the state of the step's stream before it, as we see it.
	of state
	// left: the client has said GOAWAY. refused: theirs does not know the stream or a later one, because its head was
	// refused.
	left, refused bool
	// bodiless: the stream's response is 204 or 304.
	bodiless bool
	// others: there are streams that have parted, whose states differ.
	others bool
	// oursBeside and theirsBeside are what happened to streams in a step that ended the connection for one.
	oursBeside, theirsBeside string
	// reason is why our connection ended.
	reason string
}

func (d *difference) String() string {
	return fmt.Sprintf("stream %d after %s (%v, left %v, refused %v, others %v): ours %v (%s), theirs %v (%s); %s", d.stream, d.step, d.of, d.left, d.refused, d.others, d.ours, d.oursBeside, d.theirs, d.theirsBeside, d.reason)
}

// state is a stream's in RFC 9113 §5.1.
type state string

const (
	stateIdle   state = "idle"
	stateOpen   state = "open"
	stateHalf   state = "half-closed by the peer"
	stateClosed state = "closed"
)

func stateOf(s *Session, id uint32) state {
	st := s.streams[id]
	switch {
	case st != nil && st.remoteEnd:
		return stateHalf
	case st != nil:
		return stateOpen
	case id == 0 || s.isIdle(id):
		return stateIdle
	}
	return stateClosed
}

// rule explains differences: after a step of which when holds, one side does ours, the other theirs.
type rule struct {
	name, why    string
	ours, theirs string // the whole of the events, joined by "; ", as regular expressions
	when         func(*difference) bool
}

// judge finds the rule of a difference.
func judge(rules []rule, d *difference) (name string, ok bool) {
	matches := func(pattern string, events []string) bool {
		return regexp.MustCompile(`^(` + pattern + `)$`).MatchString(strings.Join(events, "; "))
	}
	for i := range rules {
		if r := &rules[i]; matches(r.ours, d.ours) && matches(r.theirs, d.theirs) && (r.when == nil || r.when(d)) {
			return r.name, true
		}
	}
	return "", false
}

// differ is a script's run over both.
type differ struct {
	session      *Session
	ours, theirs subject
	rules        []rule
	used         map[string]int // rules by name
	parted       map[uint32]bool
	left         bool
	refused      map[uint32]bool
	bodiless     map[uint32]bool
}

// run takes a script through both, and stops where they part for good.
func (d *differ) run(t *testing.T, s *script) {
	t.Helper()
	defer d.ours.close()
	defer d.theirs.close()
	var history []string
	for {
		st, ok := s.next(d.parted)
		if !ok {
			return
		}
		history = append(history, st.String())
		at := &difference{step: st, stream: st.stream, of: stateOf(d.session, st.stream)}
		if status := st.field(":status"); status == "204" || status == "304" {
			d.bodiless[st.stream] = true
		}
		at.bodiless = d.bodiless[st.stream]
		at.oursStream, at.oursConn = d.ours.beyond(st.stream, st.data)
		at.theirsStream, at.theirsConn = d.theirs.beyond(st.stream, st.data)
		ours, theirs := d.ours.step(st.stream, st.bytes), d.theirs.step(st.stream, st.bytes)
		at.left, at.others = d.left, len(d.parted) > 0
		for id := range d.refused {
			at.refused = at.refused || id >= st.stream
		}
		d.left = d.left || st.is(kindGoAway)
		if at.of == stateIdle && slices.Contains(theirs, event{st.stream, "resets PROTOCOL_ERROR"}) {
			d.refused[st.stream] = true
		}
		over := slices.ContainsFunc(ours, event.ends) || slices.ContainsFunc(theirs, event.ends)
		for _, diff := range d.compare(at, ours, theirs, over) {
			name, ok := judge(d.rules, diff)
			if !ok {
				t.Fatalf("no rule explains %s\nscript:\n%s", diff, strings.Join(history, "\n"))
			}
			d.used[name]++
			d.parted[diff.stream] = true
		}
		if over || d.parted[0] {
			return
		}
	}
}

// compare returns the differences of a step, by stream. When a connection ends, that alone counts.
func (d *differ) compare(at *difference, ours, theirs []event, over bool) (out []*difference) {
	by := map[uint32]*difference{}
	var ids []uint32
	add := func(events []event, beside *string, to func(*difference) *[]string) {
		for _, e := range events {
			if over && !e.ends() {
				*beside += e.what + "; "
				continue
			}
			if d.parted[e.stream] {
				continue
			}
			if by[e.stream] == nil {
				one := *at
				one.stream = e.stream
				by[e.stream] = &one
				ids = append(ids, e.stream)
			}
			list := to(by[e.stream])
			*list = append(*list, e.what)
		}
	}
	add(ours, &at.oursBeside, func(d *difference) *[]string { return &d.ours })
	add(theirs, &at.theirsBeside, func(d *difference) *[]string { return &d.theirs })
	slices.Sort(ids)
	for _, id := range ids {
		one := by[id]
		if d.session.failed != nil {
			one.reason = d.session.failed.Error()
		}
		one.oursBeside, one.theirsBeside = at.oursBeside, at.theirsBeside
		sort.Strings(one.ours)
		sort.Strings(one.theirs)
		if !slices.Equal(one.ours, one.theirs) {
			out = append(out, one)
		}
	}
	return out
}

// table is a run of both over random scripts, and over some that are needed to see every rule at work.
type table struct {
	run   func(*testing.T, *script) (used map[string]int)
	role  Role
	rules []rule
	// shared are rules that another table needs.
	shared []rule
	// seeds are the numbers of scripts, behind the first ones, and stories scripts that chance does not find.
	seeds   []int
	stories [][]*step
}

// first is how many random scripts are run.
const first = 1000

func (c *table) test(t *testing.T) {
	t.Helper()
	used := map[string]int{}
	count := func(s *script) {
		for name, n := range c.run(t, s) {
			used[name] += n
		}
	}
	for _, story := range c.stories {
		s := newScript(nil, c.role)
		s.first = append(s.first, story...)
		count(s)
	}
	i := 0
	for b := range scripts(slices.Max(append(c.seeds, first)) + 1) {
		if i < first || slices.Contains(c.seeds, i) {
			count(newScript(b, c.role))
		}
		i++
	}
	for _, r := range c.rules {
		t.Logf("%5d × %s: %s", used[r.name], r.name, r.why)
		if used[r.name] == 0 && !slices.ContainsFunc(c.shared, func(s rule) bool { return s.name == r.name }) {
			t.Errorf("nothing needs the rule %q", r.name)
		}
	}
}

// scripts are n random ones, always the same.
func scripts(n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		r := rand.New(rand.NewPCG(9113, 7540))
		for range n {
			b := make([]byte, 10+r.IntN(200))
			for i := range b {
				b[i] = byte(r.Uint32())
				if r.IntN(3) == 0 {
					b[i] = 0 // the plain choice
				}
			}
			if !yield(b) {
				return
			}
		}
	}
}

// fieldsSaid are fields in one form, whoever read them.
func fieldsSaid(fields map[string][]string) string {
	var out []string
	for name, values := range fields {
		switch strings.ToLower(name) {
		case "": // of ours, whose places of fields that were taken out are empty
			continue
		case "te", "host", "expect", "trailer": // read by one side, kept by the other: their effect is compared
			continue
		}
		out = append(out, fmt.Sprintf("%s=%q", strings.ToLower(name), values))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// drained empties a buffer.
func drained(b *bytes.Buffer) []byte {
	out := bytes.Clone(b.Bytes())
	b.Reset()
	return out
}
