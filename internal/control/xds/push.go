package xds

import (
	"log/slog"
	"maps"
	"slices"

	"google.golang.org/grpc"

	"github.com/tullemesh/tulle/internal/wire"
)

// pass brings one stream to the newest generation. Additions and changes go
// out in the order of kinds, then removals in the order of removalRank.
type pass struct {
	*stream
	conn  grpc.ServerStream
	dirty Dirty
	// What the stream served before, to keep what is gone until removals.
	oldGen  Generation
	oldView View

	warm []item                     // clusters that were sent in this pass
	gone map[*subscription][]string // what removals tells

	// Of the type at hand.
	names         []string // content of its wildcard, once namesKnown
	namesKnown    bool
	evaluated     []item
	evaluatedGone []string
}

// item is a resource to send under the name that the client knows.
type item struct {
	asked string
	r     *wire.Resource
}

func (p *pass) run() error {
	p.gone = map[*subscription][]string{}
	for _, sub := range p.order {
		if err := p.additions(sub); err != nil {
			return err
		}
	}
	if len(p.gone) == 0 {
		return nil
	}
	order := slices.Clone(p.order)
	slices.SortStableFunc(order, func(a, b *subscription) int {
		return removalRank(a.typeURL) - removalRank(b.typeURL)
	})
	for _, sub := range order {
		if len(p.gone[sub]) == 0 {
			continue
		}
		if err := p.removals(sub); err != nil {
			return err
		}
	}
	return nil
}

// additions sends what is new or changed of one type and notes what is gone.
func (p *pass) additions(sub *subscription) error {
	if !sub.started {
		return nil
	}
	if sub.typeURL == wire.EndpointType {
		// A cluster that was sent warms until its endpoints come, also when
		// they are unchanged (Envoy documentation, "Warming"). Istio names an
		// endpoint resource as its cluster.
		for _, it := range p.warm {
			if sub.held.count > 0 && sub.held.get(it.asked).named() {
				sub.held.want(it.asked, true)
			}
		}
	}
	changes := p.dirty.Types[sub.typeURL]
	if !sub.owes() && !p.dirty.All && !changes.All && len(changes.Names) == 0 {
		return nil
	}
	p.evaluate(sub, changes)
	reply, warm := sub.reply, sub.typeURL == wire.ClusterType
	sub.full, sub.resend, sub.reply = false, false, false
	if warm {
		p.warm = p.evaluated
	}
	if len(p.evaluatedGone) > 0 {
		p.gone[sub] = p.evaluatedGone
	}
	if sub.status.Rejected != nil {
		p.settle(sub)
	}
	if p.delta {
		return p.sendDelta(sub, reply && len(p.evaluatedGone) == 0)
	}
	return p.sendSotw(sub, reply)
}

// evaluate fills evaluated and evaluatedGone with what differs between the
// generation and what the client holds.
func (p *pass) evaluate(sub *subscription, changes NameSet) {
	p.evaluated, p.evaluatedGone = nil, nil
	p.names, p.namesKnown = nil, false
	if p.dirty.All || changes.All || sub.full {
		p.evaluateAll(sub)
		return
	}
	for text := range changes.Names {
		if h := sub.held.get(text); h != 0 || sub.covers(text, p.wildcardNames(sub)) {
			sub.held.set(text, h|lookBit)
		}
	}
	if sub.owned && len(changes.Names) > 0 {
		// A name that is in no list is a host for which another virtual host
		// answers, or none: any change of its siblings may be one of it.
		for text, h := range sub.held.extra {
			if h.named() {
				sub.held.put(-1, text, h|lookBit)
			}
		}
	}
	p.lookAtMarked(sub)
}

// manyMarked is how many names make a whole list of resources worth asking for.
const manyMarked = 64

// lookAtMarked looks at the names that held marks.
func (p *pass) lookAtMarked(sub *subscription) {
	if sub.held.marked >= manyMarked {
		p.evaluated = make([]item, 0, sub.held.marked)
		resources := p.resources(sub)
		for i, h := range sub.held.slots {
			if h.marked() {
				p.look(sub, i, sub.held.names[i], at(resources, i), true)
			}
		}
	}
	if sub.held.marked == 0 {
		return
	}
	for _, text := range sub.held.sorted(func(_ string, h held) bool { return h.marked() }) {
		p.look(sub, sub.held.find(text), text, nil, sub.covers(text, p.wildcardNames(sub)))
	}
}

// resources lists those of held's names, if the generation has them prepared.
func (p *pass) resources(sub *subscription) []*wire.Resource {
	names := p.gen.Names(p.view, sub.typeURL)
	sub.held.on(names)
	if list := p.gen.Resources(p.view, sub.typeURL); len(list) == len(names) {
		return list
	}
	return nil
}

func at(list []*wire.Resource, i int) *wire.Resource {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// evaluateAll looks at the content of the wildcards, then at what the client
// holds beside it.
func (p *pass) evaluateAll(sub *subscription) {
	if !sub.wildcard && len(sub.owners) == 0 {
		for _, text := range sub.held.sorted(func(_ string, h held) bool { return !h.marked() }) {
			sub.held.set(text, sub.held.get(text)|lookBit)
		}
		p.lookAtMarked(sub)
		return
	}
	resources := p.resources(sub)
	covered := make([]span, 0, 1)
	if sub.wildcard {
		covered = append(covered, span{0, len(sub.held.names)})
	} else {
		for _, o := range sub.owners {
			covered = append(covered, below(sub.held.names, o))
		}
	}
	if sub.held.count == 0 && len(covered) == 1 { // the first time: all will be sent
		p.evaluated = make([]item, 0, covered[0].to-covered[0].from)
	}
	for i := range sub.held.names {
		if slices.ContainsFunc(covered, func(c span) bool { return c.from <= i && i < c.to }) {
			p.look(sub, i, sub.held.names[i], at(resources, i), true)
		} else if sub.held.slots[i] != 0 {
			p.look(sub, i, sub.held.names[i], nil, false)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(sub.held.extra)) {
		p.look(sub, -1, text, nil, false)
	}
}

// look compares one resource with what the client holds. i is its place in
// held, or -1; r is the resource, nil when it is to be built; covered says that
// a wildcard includes it.
func (p *pass) look(sub *subscription, i int, text string, r *wire.Resource, covered bool) {
	h := sub.held.at(i, text)
	if h&passMask != 0 {
		sub.held.put(i, text, h&^passMask)
	}
	if r == nil && (h.named() || covered) {
		var err error
		if r, err = p.gen.Build(p.view, sub.typeURL, text); err != nil {
			// The client keeps what it has; whoever builds has told the owner.
			p.server.metrics.buildErrors.Inc()
			p.server.opts.Log.Error("cannot build resource", slog.String("node", p.client.Node.ID), slog.String("type", sub.short), slog.String("resource", text), slog.Any("error", err))
			return
		}
	}
	if r == nil {
		// What never existed is answered in delta; state of the world has no
		// words for it but the absence from a response.
		if h.version() != 0 || h.asked() && p.delta {
			p.evaluatedGone = append(p.evaluatedGone, text)
		}
		return
	}
	v := versionOf(r.Version)
	if v == h.version() && !h.forced() && !sub.resend {
		return
	}
	sub.held.put(i, text, h&namedBit|v)
	p.evaluated = append(p.evaluated, item{text, r})
}

// wildcardNames is the generation's list of the type, asked for once a pass.
func (p *pass) wildcardNames(sub *subscription) []string {
	if !p.namesKnown && (sub.wildcard || len(sub.owners) > 0) {
		p.names, p.namesKnown = p.gen.Names(p.view, sub.typeURL), true
	}
	return p.names
}

// settle ends the rejections of resources that are sent anew or removed.
func (p *pass) settle(sub *subscription) {
	over := map[string]bool{}
	for _, it := range p.evaluated {
		over[it.asked], over[it.r.Name] = true, true
	}
	for _, n := range p.evaluatedGone {
		over[n] = true
	}
	sub.settle(func(x wire.Rejection) bool { return x.Name != "" && over[x.Name] })
}

// sendDelta sends the changed resources, split by size.
func (p *pass) sendDelta(sub *subscription, reply bool) error {
	resp := newResponse(sub.typeURL, len(p.evaluated))
	for i, it := range p.evaluated {
		head, body := []byte(nil), it.r.DeltaEntry()
		if it.r.Name != it.asked {
			head, body = it.r.AliasHead(it.asked), it.r.SotwEntry()
		}
		if !resp.empty() && resp.bytes+len(head)+len(body) > p.server.opts.Limits.ResponseBytes {
			if err := p.transmit(p.conn, sub, resp); err != nil {
				return err
			}
			resp = newResponse(sub.typeURL, len(p.evaluated)-i)
		}
		resp.add(head, body)
	}
	p.evaluated = nil
	if resp.empty() && !reply {
		return nil
	}
	return p.transmit(p.conn, sub, resp)
}

// sendSotw sends the changed resources, or all of a complete type. What is
// gone stays in a complete response until removals, as the old generation had
// it: make before break.
func (p *pass) sendSotw(sub *subscription, reply bool) error {
	items := p.evaluated
	p.evaluated = nil
	if !sub.complete {
		for _, n := range p.gone[sub] { // can't be told: the client asks or waits
			sub.drop(n)
		}
		delete(p.gone, sub)
		if len(items) == 0 && !reply {
			return nil
		}
		return p.transmit(p.conn, sub, sotwResponse(sub, items))
	}
	if len(items) == 0 && !reply {
		return nil
	}
	return p.sendEverything(sub, p.gone[sub])
}

// sendEverything sends the complete content of the subscription, with what is
// gone as the old generation had it. When a resource can't be built nothing is
// sent, because its absence would remove it; the next pass tries again.
func (p *pass) sendEverything(sub *subscription, gone []string) error {
	texts := sub.held.sorted(func(string, held) bool { return true })
	items := make([]item, 0, len(texts))
	for _, text := range texts {
		r, err := p.gen.Build(p.view, sub.typeURL, text)
		if r == nil && err == nil && p.oldGen != nil && slices.Contains(gone, text) {
			r, err = p.oldGen.Build(p.oldView, sub.typeURL, text)
		}
		if err != nil {
			sub.full, sub.resend = true, true
			return nil
		}
		if r != nil {
			items = append(items, item{text, r})
		}
	}
	return p.transmit(p.conn, sub, sotwResponse(sub, items))
}

func sotwResponse(sub *subscription, items []item) *response {
	resp := newResponse(sub.typeURL, len(items))
	for _, it := range items {
		resp.add(nil, it.r.SotwEntry())
	}
	return resp
}

// removals tells the client what is gone.
func (p *pass) removals(sub *subscription) error {
	gone := p.gone[sub]
	for _, n := range gone {
		sub.drop(n)
	}
	if !p.delta {
		return p.sendEverything(sub, nil)
	}
	resp := &response{typeURL: sub.typeURL}
	for _, n := range gone {
		if resp.bytes > p.server.opts.Limits.ResponseBytes {
			if err := p.transmit(p.conn, sub, resp); err != nil {
				return err
			}
			resp = &response{typeURL: sub.typeURL}
		}
		resp.remove(n)
	}
	return p.transmit(p.conn, sub, resp)
}

// drop notes that the client no longer holds the resource; a name that it
// asked for stays subscribed.
func (s *subscription) drop(n string) {
	s.held.set(n, s.held.get(n)&namedBit)
	s.recount = true
}
