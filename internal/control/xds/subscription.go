package xds

import (
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/wire"
)

// wildcard is the name that stands for all resources of a type.
const wildcard = "*"

// subscription is one type's state on one stream. It is owned by the sender.
type subscription struct {
	kind
	rank    int
	started bool

	// What the client asked for, apart from the named entries of held.
	wildcard bool
	owners   []string
	// listedNames: in state of the world an empty list means "all" until names
	// were listed once, then "none".
	listedNames bool

	held holdings

	// What the next pass owes the client, beside what changed and the names
	// that held says to look at.
	// full looks at everything; resend sends it although it is unchanged;
	// reply answers even when there is nothing to send.
	full, resend, reply bool

	// recount says that held has changed since status counted it.
	recount bool

	// Responses that were sent and not yet answered, oldest first.
	outstanding []sent
	status      TypeStatus
}

type sent struct {
	seq     uint64
	nonce   string
	version string
}

// outstandingMax bounds the record of unanswered responses; what falls out is
// acknowledged without a version.
const outstandingMax = 256

func newSubscription(typeURL string) *subscription {
	k, rank := kindOf(typeURL)
	return &subscription{kind: k, rank: rank, status: TypeStatus{TypeURL: typeURL}}
}

// owes reports whether a pass has something to do even if nothing changed.
func (s *subscription) owes() bool { return s.full || s.reply || s.held.marked > 0 }

// listShare is how much of the generation's list a client must name for that
// list to pay: 8 bytes for each of its names against 100 for one in a map.
const listShare = 8

// expect prepares for n names of the client's, most of which are in names.
func (s *subscription) expect(n int, names []string) {
	if s.held.count == 0 && n > len(names)/listShare {
		s.held.on(names)
	}
}

// subscribe adds a name of the client's. force sends the resource although the
// client has it: a client that asks again has lost it.
func (s *subscription) subscribe(text string, force bool) {
	s.recount = true
	switch {
	case text == wildcard:
		s.wildcard, s.full, s.reply = true, true, true
	case s.owned && !strings.Contains(text, "/"):
		if !slices.Contains(s.owners, text) {
			s.owners = append(s.owners, text)
		}
		s.full, s.reply = true, true
	default:
		s.held.want(text, force)
		s.held.set(text, s.held.get(text)|namedBit)
	}
}

// unsubscribe forgets a name. What a wildcard still covers stays held, and is
// sent again, so that the client learns which of both it is.
func (s *subscription) unsubscribe(text string, names func() []string) {
	s.recount = true
	switch {
	case text == wildcard:
		s.wildcard = false
	case s.owned && !strings.Contains(text, "/"):
		s.owners = slices.DeleteFunc(s.owners, func(o string) bool { return o == text })
	default:
		h := s.held.get(text)
		switch {
		case h == 0:
		case s.wildcard || len(s.owners) > 0:
			s.held.set(text, h&^namedBit)
			s.held.want(text, true)
		default:
			s.held.set(text, 0)
		}
		return
	}
	// A wildcard ended: the client drops what it did not name, unasked.
	for _, n := range s.held.sorted(func(n string, h held) bool { return !h.named() && !s.covers(n, names()) }) {
		s.held.set(n, 0)
	}
}

// covers reports whether a wildcard or owner subscription includes the name.
func (s *subscription) covers(text string, names []string) bool {
	if !s.wildcard && !s.ownerOf(text) {
		return false
	}
	_, ok := slices.BinarySearch(names, text)
	return ok
}

func (s *subscription) ownerOf(text string) bool {
	for _, o := range s.owners {
		if len(text) > len(o) && text[len(o)] == '/' && strings.HasPrefix(text, o) {
			return true
		}
	}
	return false
}

// startDelta takes the first delta request of the type on this stream. Names
// and versions that the client has from an earlier stream are not sent again.
func (s *subscription) startDelta(subscribe []string, initial map[string]string, names []string) {
	s.recount = true
	s.started = true
	s.expect(len(subscribe), names)
	if len(subscribe) == 0 && !s.needsNames {
		s.wildcard, s.full, s.reply = true, true, true
	}
	for _, text := range subscribe {
		_, has := initial[text]
		s.subscribe(text, !has)
	}
	for text, version := range initial {
		if h := s.held.get(text); h.named() || s.wildcard || s.ownerOf(text) {
			s.held.set(text, h&^versionMask|versionOf(version))
		}
	}
}

// listNames takes a state-of-the-world request: the whole set of names.
func (s *subscription) listNames(list []string, again bool, names []string) {
	s.recount = true
	all := slices.Contains(list, wildcard) || len(list) == 0 && !s.listedNames && !s.needsNames
	if len(list) > 0 {
		s.listedNames = true
	}
	if all && !s.wildcard {
		s.wildcard, s.full, s.reply = true, true, true
	}
	s.wildcard = all
	s.expect(len(list), names)
	listed := make(map[string]struct{}, len(list))
	for _, text := range list {
		if text == wildcard {
			continue
		}
		listed[text] = struct{}{}
		if h := s.held.get(text); !h.named() || again {
			s.held.set(text, h|namedBit|lookBit|askedBit|forceBit)
			s.reply = true
		}
	}
	for _, n := range s.held.sorted(func(n string, _ held) bool { _, ok := listed[n]; return !ok }) {
		if s.wildcard {
			s.held.set(n, s.held.get(n)&^namedBit)
		} else {
			s.held.set(n, 0)
		}
	}
	if again {
		s.full, s.resend, s.reply = true, true, true
	}
}

// noteSent records a response that left.
func (s *subscription) noteSent(seq uint64, nonce, version string, now time.Time) {
	if len(s.outstanding) == outstandingMax {
		s.outstanding = slices.Delete(s.outstanding, 0, 1)
	}
	s.outstanding = append(s.outstanding, sent{seq, nonce, version})
	s.status.SentNonce, s.status.SentVersion, s.status.SentAt = nonce, version, now
}

// answered takes the client's ACK or NACK of a response. A nonce that waits for
// no answer changes nothing: it comes with changes of the subscription.
func (s *subscription) answered(nonce string, nack *NACK, now time.Time) {
	i := slices.IndexFunc(s.outstanding, func(o sent) bool { return o.nonce == nonce })
	if i < 0 {
		return
	}
	o := s.outstanding[i]
	s.outstanding = slices.Delete(s.outstanding, 0, i+1)
	if nack != nil {
		nack.Nonce, nack.Version, nack.At, nack.seq = nonce, o.version, now, o.seq
		s.status.Rejected = nack
		return
	}
	s.status.AckedNonce, s.status.AckedVersion, s.status.AckedAt = nonce, o.version, now
	// Rejections that name a resource end when it is sent again or removed;
	// others with the next response that the client takes.
	if r := s.status.Rejected; r != nil && o.seq > r.seq {
		s.settle(func(x wire.Rejection) bool { return x.Name == "" || s.complete && s.status.sotw })
	}
}

// count brings status up to date with held.
func (s *subscription) count() {
	s.status.Wildcard = s.wildcard || len(s.owners) > 0
	if !s.recount {
		return
	}
	s.recount = false
	s.status.Held, s.status.Missing = 0, 0
	for _, h := range s.held.all {
		if h.version() != 0 {
			s.status.Held++
		} else {
			s.status.Missing++
		}
	}
}

// settle drops the rejections that done says are over.
func (s *subscription) settle(done func(wire.Rejection) bool) {
	r := s.status.Rejected
	if r == nil {
		return
	}
	left := slices.DeleteFunc(slices.Clone(r.Resources), done)
	if len(left) == 0 {
		s.status.Rejected = nil
		return
	}
	next := *r
	next.Resources = left
	s.status.Rejected = &next
}
