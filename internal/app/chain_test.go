package app

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/wire"
)

// chain is the way of a text to a decision: decode, validate, build the model,
// translate, compile, decide.
type chain struct {
	decoder *apis.Decoder
	base    registry.Input // objects that every text meets
	nodes   []*wire.Node
}

// ground is what random texts find there: services that they may name.
const ground = `{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
{apiVersion: v1, kind: Service, metadata: {name: reviews, namespace: default}, spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp, port: 7000}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: reviews-v1, namespace: default}, spec: {address: 10.1.0.1, labels: {app: reviews, version: v1}}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: all, namespace: default}, spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: any, namespace: default}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}}
`

func newChain(t testing.TB) *chain {
	t.Helper()
	c := &chain{decoder: apis.NewDecoder()}
	r := c.decoder.Decode("ground.yaml", []byte(ground), apis.Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	c.base = registry.Input{Source: "ground", Objects: r.Objects}
	for _, q := range []Question{
		{Namespace: "default", Labels: map[string]string{"app": "reviews"}, ProxyIPs: []netip.Addr{netip.MustParseAddr("10.1.0.1")}},
		{Gateway: true, Namespace: "default", Labels: map[string]string{"istio": "ingressgateway"}},
		{Namespace: "default", Labels: map[string]string{"app": "productpage"}, Metadata: map[string]string{"INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": "15080"}},
	} {
		n, err := q.node()
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

// run takes a text through the chain for one proxy and tells all that came out
// of it. An error is a defect: our own proxy refuses what our own control plane
// sends.
func (c *chain) run(text []byte, node *wire.Node) (string, error) {
	r := c.decoder.Decode("mutant.yaml", text, apis.Options{})
	store := registry.NewStore(registry.Options{})
	store.Put(c.base)
	store.Put(registry.Input{Source: "mutant", Objects: r.Objects, Problems: r.Problems})
	set := store.Set()
	g, _ := publish(set, model.MeshFrom(set.MeshConfig), nil)
	var out strings.Builder
	for _, p := range g.problems {
		fmt.Fprintln(&out, p.Code, p.Level, p.Key, p.Path, p.Position, p.Message)
	}
	view, err := view.New(g.snapshot, node, "")
	if err != nil {
		return "", err
	}
	cfg, err := compileView(g.translator, view, func(typeURL, _ string) bool { return typeURL != wire.SecretType })
	if err != nil {
		return "", err
	}
	for _, typeURL := range []string{wire.ClusterType, wire.ListenerType, wire.RouteType} {
		for _, name := range g.translator.Names(view, typeURL) {
			if res, err := g.translator.Build(view, typeURL, name); err == nil && res != nil {
				fmt.Fprintln(&out, name, res.Version)
			}
		}
	}
	c.decide(&out, cfg)
	return out.String(), nil
}

// least leaves out the documents without which the chain fails as well.
func (c *chain) least(text string, node *wire.Node) string {
	docs := strings.Split(text, "\n---\n")
	for i := 0; i < len(docs); {
		without := slices.Delete(slices.Clone(docs), i, i+1)
		if _, err := c.run([]byte(strings.Join(without, "\n---\n")), node); err != nil {
			docs = without
		} else {
			i++
		}
	}
	return strings.Join(docs, "\n---\n")
}

func (c *chain) decide(out *strings.Builder, cfg *generation.Config) {
	for i, l := range cfg.Listeners() {
		if i == 8 {
			return // some are enough: each text makes others
		}
		conn := &fact.Conn{Local: netip.MustParseAddrPort("10.0.0.1:9080"), Remote: netip.MustParseAddrPort("203.0.113.2:40000"), ALPN: []string{"http/1.1"}}
		request := &fact.Request{Conn: conn, Protocol: fact.HTTP11, Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("reviews:9080"), Path: []byte("/a?b=c"), Headers: headers{{"end-user", "jason"}}}
		d := generation.DecideAt(cfg, l, conn, request, nil)
		fmt.Fprintln(out, d.Outcome, d.Status, d.Error, d.Cluster, d.Weights)
	}
}

// seeds are texts of every accepted kind: our own, and Istio's samples when
// they are beside the checkout.
func seeds(t testing.TB) []string {
	t.Helper()
	roots := []string{filepath.Join("..", "demo", "istio"), filepath.Join("..", "apis", "testdata", "sound")}
	samples := os.Getenv("TULLE_ISTIO_DATA")
	if samples == "" {
		samples = filepath.Join("..", "..", "..", "shared", "data", "istio")
	}
	if _, err := os.Stat(samples); err == nil {
		roots = append(roots, filepath.Join(samples, "samples"))
	} else if os.Getenv("CI") == "true" {
		t.Fatalf("Istio's samples: %v", err)
	}
	var out []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
				return err
			}
			data, err := os.ReadFile(path)
			for _, doc := range strings.Split(string(data), "\n---") {
				if len(doc) < 6<<10 && strings.Contains(doc, "kind:") {
					out = append(out, doc)
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if len(out) == 0 {
		t.Fatal("there are no seeds")
	}
	return out
}

// mutator makes texts that are nearly sound.
type mutator struct {
	*rand.Rand
	seeds []string
}

func (m *mutator) seed() string { return m.seeds[m.IntN(len(m.seeds))] }

// text is a file of many documents, each mostly with a few things wrong: that
// what is built per file and per mesh is built for many of them at once.
func (m *mutator) text() (text string, documents int) {
	documents = 1 + m.IntN(2*documentsMean)
	all := make([]string, documents)
	for i := range all {
		all[i] = m.document(i)
	}
	return strings.Join(all, "\n---\n"), documents
}

const documentsMean = 20

func (m *mutator) document(i int) string {
	text := m.seed()
	if m.IntN(2) == 0 { // a name of its own, or it would only meet the others of its name
		text = strings.Replace(text, "\n  name: ", "\n  name: x"+strconv.Itoa(i)+"-", 1)
	}
	lines := strings.Split(text, "\n")
	for range m.IntN(4) {
		lines = m.edit(lines)
	}
	text = strings.Join(lines, "\n")
	if m.IntN(16) == 0 {
		text = m.bytes(text)
	}
	return text
}

// edit changes one line, or its place.
func (m *mutator) edit(lines []string) []string {
	i, j := m.IntN(len(lines)), m.IntN(len(lines))
	switch m.IntN(8) {
	case 0:
		return append(lines[:i:i], lines[i+1:]...)[:max(1, len(lines)-1)]
	case 1:
		return append(lines[:i+1:i+1], lines[i:]...)
	case 2:
		lines[i], lines[j] = lines[j], lines[i]
	case 3:
		lines[i] = strings.Repeat(" ", m.IntN(8)) + strings.TrimLeft(lines[i], " ")
	case 4: // a piece of another document in place of one's own
		other := strings.Split(m.seed(), "\n")
		k := m.IntN(len(other))
		return append(append(lines[:i:i], other[k:min(len(other), k+1+m.IntN(6))]...), lines[i:]...)
	default:
		if key, _, ok := strings.Cut(lines[i], ":"); ok {
			lines[i] = key + ": " + m.scalar()
		} else if dash := strings.Index(lines[i], "- "); dash >= 0 {
			lines[i] = lines[i][:dash+2] + m.scalar()
		}
	}
	return lines
}

func (m *mutator) scalar() string {
	values := []string{"", `""`, "null", "{}", "[]", "[{}]", "true", "0", "-1", "65535", "65536", "4294967296", "1e400", "9080", "80", "0s", "-5s", "1h", "1000000h", "5", "100",
		"reviews", "reviews.default.svc.cluster.local", `"*"`, `"*.default.svc.cluster.local"`, "mesh", "v1", ".", "a/b", "10.0.0.1", "0.0.0.0/0", "::1", "fe80::/10", "unix:///x",
		`"%00"`, `"(((("`, `"a{1000}"`, `"\\U0001F600"`, "default", "HTTP", "TCP", "TLS", "STRICT", "{exact: a}", "{prefix: /}", `{regex: ".*"}`, "{number: 9080}", "{seconds: 1}", "&a [*a]", "!!binary aGk="}
	if m.IntN(20) == 0 {
		return strings.Repeat("x", m.IntN(3000))
	}
	return values[m.IntN(len(values))]
}

func (m *mutator) bytes(text string) string {
	b := []byte(text)
	for range 1 + m.IntN(4) {
		b[m.IntN(len(b))] = byte(m.IntN(256))
	}
	return string(b)
}

// TestMangledFilesNeverPanic runs the chain over mangled samples for
// FUZZ_SECONDS (2 by default); one in eight runs twice, and equal input must
// give equal output.
func TestMangledFilesNeverPanic(t *testing.T) {
	limit, seed := 2*time.Second, uint64(1)
	if s := os.Getenv("FUZZ_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		limit, seed = time.Duration(n)*time.Second, uint64(time.Now().UnixNano())
	}
	c, m := newChain(t), &mutator{Rand: rand.New(rand.NewPCG(seed, 7)), seeds: seeds(t)}
	var text string
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("seed %d: panic over\n%s", seed, text)
			panic(p)
		}
	}()
	runs, refused, documents, began := 0, 0, 0, time.Now()
	for ; time.Since(began) < limit; runs++ {
		var n int
		text, n = m.text()
		documents += n
		node := c.nodes[runs%len(c.nodes)]
		out, err := c.run([]byte(text), node)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, c.least(text, node))
		}
		refused += strings.Count(out, " error ") + strings.Count(out, " unsupported ")
		if runs%8 == 0 {
			if again, err := c.run([]byte(text), node); err != nil || again != out {
				t.Fatalf("equal input, other output:\n%s\nfirst\n%s\nthen\n%s", text, out, again)
			}
		}
	}
	if refused == 0 {
		t.Errorf("%d documents had no error: the mutations prove nothing", documents)
	}
	t.Logf("%d documents in %d files in %v (%.0f/s), %d problems, seed %d", documents, runs, time.Since(began).Round(time.Millisecond), float64(documents)/time.Since(began).Seconds(), refused, seed)
}

// FuzzChain is the same chain under the fuzzer's own mutations.
func FuzzChain(f *testing.F) {
	c := newChain(f)
	for _, s := range seeds(f) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, node := range c.nodes {
			a, err := c.run(text, node)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := c.run(text, node); err != nil || a != b {
				t.Fatal("equal input, other output")
			}
		}
	})
}
