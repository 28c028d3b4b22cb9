package xds

import (
	"log/slog"
	"slices"
	"unique"

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

	warm map[name]struct{}        // clusters that were sent in this pass
	gone map[*subscription][]name // what removals tells

	// Of the type at hand.
	names         []string // content of its wildcard, once namesKnown
	namesKnown    bool
	evaluated     []item
	evaluatedGone []name
}

// item is a resource to send under the name that the client knows.
type item struct {
	asked string
	r     *wire.Resource
}

func (p *pass) run() error {
	p.gone = map[*subscription][]name{}
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
		for n := range p.warm {
			if sub.held[n].named() {
				sub.want(n, true)
			}
		}
	}
	changes := p.dirty.Types[sub.typeURL]
	if !sub.owes() && !p.dirty.All && !changes.All && len(changes.Names) == 0 {
		return nil
	}
	p.evaluate(sub, changes)
	reply, warm := sub.reply, sub.typeURL == wire.ClusterType
	sub.check, sub.full, sub.resend, sub.reply = nil, false, false, false
	if warm && len(p.evaluated) > 0 {
		p.warm = make(map[name]struct{}, len(p.evaluated))
		for _, it := range p.evaluated {
			p.warm[unique.Make(it.asked)] = struct{}{}
		}
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
	list := make([]string, 0, len(changes.Names)+len(sub.check))
	for text := range changes.Names {
		n := unique.Make(text)
		if _, ok := sub.check[n]; ok {
			continue
		}
		if _, ok := sub.held[n]; ok || sub.covers(text, p.wildcardNames(sub)) {
			list = append(list, text)
		}
	}
	for n := range sub.check {
		list = append(list, n.Value())
	}
	slices.Sort(list)
	for _, text := range list {
		p.look(sub, text, sub.covers(text, p.wildcardNames(sub)))
	}
}

// evaluateAll looks at the content of the wildcards, then at what the client
// holds beside it.
func (p *pass) evaluateAll(sub *subscription) {
	looked := 0
	if sub.wildcard {
		names := p.wildcardNames(sub)
		if len(sub.held) == 0 { // the first time: all will be sent
			sub.held = make(map[name]held, len(names))
			p.evaluated = make([]item, 0, len(names))
		}
		for _, text := range names {
			p.look(sub, text, true)
		}
		looked = len(names)
	} else {
		for _, o := range sub.owners {
			names := below(p.wildcardNames(sub), o)
			for _, text := range names {
				p.look(sub, text, true)
			}
			looked += len(names)
		}
	}
	if looked == len(sub.held) {
		return
	}
	var rest []string
	for n := range sub.held {
		if looked == 0 || !sub.covers(n.Value(), p.wildcardNames(sub)) {
			rest = append(rest, n.Value())
		}
	}
	slices.Sort(rest)
	for _, text := range rest {
		p.look(sub, text, false)
	}
}

// look compares one resource with what the client holds. covered says that a
// wildcard includes it.
func (p *pass) look(sub *subscription, text string, covered bool) {
	n := unique.Make(text)
	h := sub.held[n]
	force, asked := sub.check[n]
	var r *wire.Resource
	if h.named() || covered {
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
		if h.version() != 0 || asked && p.delta {
			p.evaluatedGone = append(p.evaluatedGone, n)
		}
		return
	}
	v := versionOf(r.Version)
	if v == h.version() && !force && !sub.resend {
		return
	}
	sub.held[n] = h&namedBit | v
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
		over[n.Value()] = true
	}
	sub.settle(func(x wire.Rejection) bool { return x.Name != "" && over[x.Name] })
}

// sendDelta sends the changed resources, split by size.
func (p *pass) sendDelta(sub *subscription, reply bool) error {
	resp := &response{typeURL: sub.typeURL}
	for _, it := range p.evaluated {
		var chunks [][]byte
		if it.r.Name == it.asked {
			chunks = [][]byte{it.r.DeltaEntry()}
		} else {
			chunks = [][]byte{it.r.AliasHead(it.asked), it.r.SotwEntry()}
		}
		size := 0
		for _, c := range chunks {
			size += len(c)
		}
		if !resp.empty() && resp.bytes+size > p.server.opts.Limits.ResponseBytes {
			if err := p.transmit(p.conn, sub, resp); err != nil {
				return err
			}
			resp = &response{typeURL: sub.typeURL}
		}
		resp.add(chunks...)
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
func (p *pass) sendEverything(sub *subscription, gone []name) error {
	texts := make([]string, 0, len(sub.held))
	for n := range sub.held {
		texts = append(texts, n.Value())
	}
	slices.Sort(texts)
	items := make([]item, 0, len(texts))
	for _, text := range texts {
		r, err := p.gen.Build(p.view, sub.typeURL, text)
		if r == nil && err == nil && p.oldGen != nil && slices.Contains(gone, unique.Make(text)) {
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
	resp := &response{typeURL: sub.typeURL}
	for _, it := range items {
		resp.add(it.r.SotwEntry())
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
		resp.remove(n.Value())
	}
	return p.transmit(p.conn, sub, resp)
}

// drop notes that the client no longer holds the resource; a name that it
// asked for stays subscribed.
func (s *subscription) drop(n name) {
	if s.held[n].named() {
		s.held[n] = namedBit
		return
	}
	delete(s.held, n)
	s.recount = true
}
