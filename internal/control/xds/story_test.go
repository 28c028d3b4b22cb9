package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/testkit/xdsworld"
	"github.com/tullemesh/tulle/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStories plays testdata/*.story: a world is edited and published, proxies
// connect and send requests, and every response is told. Virtual time makes
// "nothing more comes" (quiet, and the end of each story) exact.
//
//	set TYPE name=content ...    unset TYPE name ...    break|mend TYPE name
//	alias TYPE asked name=content
//	publish [all]
//	connect PROXY delta|sotw     close PROXY
//	PROXY > TYPE [+name] [-name] [have:name=content] [list:a,b|list:] [ack|ack:N|nack reason...]
//	PROXY < TYPE [name=content] [-name] [(empty)]
//	PROXY quiet     PROXY ended CODE     wait DURATION
//	status PROXY TYPE [synced|waiting|rejected NAME] held=N missing=N
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.story")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".story"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, file, string(text)) })
		})
	}
}

func shortTypes() map[string]string {
	return map[string]string{
		"cds": wire.ClusterType, "eds": wire.EndpointType, "lds": wire.ListenerType, "rds": wire.RouteType,
		"vhds": wire.VirtualHostType, "sds": wire.SecretType, "ecds": wire.ExtensionType, "nds": wire.NameTableType,
	}
}

// stage is a server with its world, and the proxies of a story.
type stage struct {
	t       *testing.T
	world   *xdsworld.World
	server  *xds.Server
	lis     *bufconn.Listener
	proxies map[string]*fakeProxy
	stop    func() // ends the server and waits for it
}

func newStage(t *testing.T, opts xds.Options) *stage {
	s := &stage{t: t, world: xdsworld.New(), server: xds.New(opts), lis: bufconn.Listen(64 << 10), proxies: map[string]*fakeProxy{}}
	g := grpc.NewServer(xds.ServerOptions()...)
	s.server.Register(g)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := xds.Serve(ctx, g, s.lis, time.Second); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.server.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	s.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(func() {
		for _, p := range s.proxies {
			p.close()
		}
		s.stop()
	})
	return s
}

func play(t *testing.T, file, text string) {
	s := newStage(t, xds.Options{Limits: xds.Limits{ResponseBytes: 4096, NamesPerStream: 20, StreamsPerNode: 2}})
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		synctest.Wait()
		if err := s.do(words); err != nil {
			t.Fatalf("%s:%d: %s: %v", file, i+1, strings.TrimSpace(line), err)
		}
	}
	synctest.Wait()
	for _, name := range slices.Sorted(maps.Keys(s.proxies)) {
		if err := s.proxies[name].quiet(); err != nil {
			t.Fatalf("%s: at the end, %s: %v", file, name, err)
		}
	}
}

func (s *stage) do(words []string) error {
	typeURL := ""
	if len(words) > 1 {
		typeURL = shortTypes()[words[1]]
	}
	switch words[0] {
	case "set":
		for _, w := range words[2:] {
			n, content, _ := strings.Cut(w, "=")
			s.world.Put(n, resource(typeURL, n, content))
		}
		return nil
	case "alias":
		n, content, _ := strings.Cut(words[3], "=")
		s.world.Put(words[2], resource(typeURL, n, content))
		return nil
	case "unset":
		for _, n := range words[2:] {
			s.world.Unset(typeURL, n)
		}
		return nil
	case "break", "mend":
		s.world.Break(typeURL, words[2], words[0] == "break")
		return nil
	case "publish":
		if len(words) > 1 {
			s.world.PublishAll(s.server)
		} else {
			s.world.Publish(s.server)
		}
		return nil
	case "connect":
		s.proxies[words[1]] = connect(s.t, s.lis, words[1], words[2] == "delta")
		return nil
	case "close":
		s.proxies[words[1]].close()
		delete(s.proxies, words[1])
		return nil
	case "wait":
		d, err := time.ParseDuration(words[1])
		<-time.After(d) // virtual
		return err
	case "status":
		return s.status(words[1], shortTypes()[words[2]], strings.Join(words[3:], " "))
	}
	p, ok := s.proxies[words[0]]
	if !ok {
		return fmt.Errorf("no proxy %q", words[0])
	}
	switch words[1] {
	case ">":
		return p.send(shortTypes()[words[2]], words[3:])
	case "<":
		return p.expect(shortTypes()[words[2]], words[3:])
	case "quiet":
		return p.quiet()
	case "ended":
		if got := status.Code(p.err()).String(); got != words[2] {
			return fmt.Errorf("the stream ended with %s: %w", got, p.err())
		}
		return nil
	}
	return errors.New("unknown line")
}

// resource is a resource of any type whose bytes are the content. "N*text"
// repeats the text, to make it large.
func resource(typeURL, name, content string) *wire.Resource {
	return wire.PackResource(name, typeURL, []byte(expand(content)))
}

func expand(content string) string {
	var n int
	var text string
	if _, err := fmt.Sscanf(content, "%d*%s", &n, &text); err == nil {
		return strings.Repeat(text, n)
	}
	return content
}

func (s *stage) status(proxy, typeURL, want string) error {
	for _, p := range s.server.Status() {
		if p.Node.Name != proxy {
			continue
		}
		for _, ty := range p.Types {
			if ty.TypeURL != typeURL {
				continue
			}
			state := "waiting"
			if ty.Synced() {
				state = "synced"
			}
			if ty.Rejected != nil {
				state = "rejected"
				for _, r := range ty.Rejected.Resources {
					state += " " + r.Name + "(" + r.Reason + ")"
				}
			}
			if got := fmt.Sprintf("%s held=%d missing=%d", state, ty.Held, ty.Missing); got != want {
				return fmt.Errorf("got %s", got)
			}
			return nil
		}
	}
	return errors.New("no such subscription")
}

// fakeProxy speaks raw ADS and keeps what comes, unanswered until told.
type fakeProxy struct {
	name  string
	delta bool
	conn  *grpc.ClientConn
	ads   grpc.ClientStream
	stop  context.CancelFunc
	done  chan struct{}

	nodeSent bool
	nonces   map[string][]string // by type, in order of arrival

	mu   sync.Mutex
	got  []arrived
	fail error
}

type arrived struct {
	typeURL, nonce string
	content        []string // sorted as the story tells it
}

func nodeID(name string) string { return "sidecar~127.0.0.1~" + name + ".shop~shop.svc.cluster.local" }

func newNode(id string) *corev3.Node { return &corev3.Node{Id: id} }

func connect(t *testing.T, lis *bufconn.Listener, name string, delta bool) *fakeProxy {
	p := dial(t, lis, name, delta)
	go p.read()
	return p
}

// dial is connect without a reader.
func dial(t *testing.T, lis *bufconn.Listener, name string, delta bool) *fakeProxy {
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p := &fakeProxy{name: name, delta: delta, conn: conn, stop: stop, done: make(chan struct{}), nonces: map[string][]string{}}
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	if delta {
		p.ads, err = client.DeltaAggregatedResources(ctx)
	} else {
		p.ads, err = client.StreamAggregatedResources(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *fakeProxy) read() {
	defer close(p.done)
	for {
		var a arrived
		var err error
		if p.delta {
			var m discoveryv3.DeltaDiscoveryResponse
			if err = p.ads.RecvMsg(&m); err == nil {
				a = arrived{typeURL: m.TypeUrl, nonce: m.Nonce, content: deltaContent(&m)}
			}
		} else {
			var m discoveryv3.DiscoveryResponse
			if err = p.ads.RecvMsg(&m); err == nil {
				a = arrived{typeURL: m.TypeUrl, nonce: m.Nonce}
				for _, r := range m.Resources {
					a.content = append(a.content, summary(r))
				}
			}
		}
		p.mu.Lock()
		if err != nil {
			p.fail = err
			p.mu.Unlock()
			return
		}
		p.got = append(p.got, a)
		p.mu.Unlock()
	}
}

func deltaContent(m *discoveryv3.DeltaDiscoveryResponse) []string {
	var out []string
	for _, r := range m.Resources {
		out = append(out, strings.Join(append([]string{r.Name}, r.Aliases...), "~")+"="+summary(r.Resource))
	}
	for _, n := range m.RemovedResources {
		out = append(out, "-"+n)
	}
	return out
}

func summary(a *anypb.Any) string {
	if len(a.Value) > 40 {
		return fmt.Sprintf("%d*%s", len(a.Value), a.Value[:1])
	}
	return string(a.Value)
}

func (p *fakeProxy) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fail
}

func (p *fakeProxy) close() {
	p.stop()
	<-p.done
	_ = p.conn.Close()
}

func (p *fakeProxy) quiet() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.got) > 0 {
		return fmt.Errorf("%d unexpected responses, first %s %v", len(p.got), p.got[0].typeURL, p.got[0].content)
	}
	return nil
}

func (p *fakeProxy) expect(typeURL string, want []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.got) == 0 {
		return fmt.Errorf("nothing came (stream error: %w)", p.fail)
	}
	a := p.got[0]
	p.got = p.got[1:]
	p.nonces[a.typeURL] = append(p.nonces[a.typeURL], a.nonce)
	if len(want) == 1 && want[0] == "(empty)" {
		want = nil
	}
	if a.typeURL != typeURL || !slices.Equal(a.content, want) {
		return fmt.Errorf("got %s %v", a.typeURL, a.content)
	}
	return nil
}

func (p *fakeProxy) send(typeURL string, words []string) error {
	var node *corev3.Node
	if !p.nodeSent {
		node, p.nodeSent = newNode(nodeID(p.name)), true
	}
	r := discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL}
	var list []string
	for i, w := range words {
		switch {
		case strings.HasPrefix(w, "+"):
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, w[1:])
		case strings.HasPrefix(w, "-"):
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, w[1:])
		case strings.HasPrefix(w, "have:"):
			n, content, _ := strings.Cut(w[5:], "=")
			if r.InitialResourceVersions == nil {
				r.InitialResourceVersions = map[string]string{}
			}
			r.InitialResourceVersions[n] = resource(typeURL, n, content).Version
		case strings.HasPrefix(w, "list:"):
			list = strings.FieldsFunc(w[5:], func(c rune) bool { return c == ',' })
		case strings.HasPrefix(w, "ack"), w == "nack", w == "nonce":
			nonces := p.nonces[typeURL]
			at := len(nonces) - 1
			if _, back, ok := strings.Cut(w, ":"); ok {
				fmt.Sscan(back, &at)
			}
			r.ResponseNonce = nonces[at]
			if w == "nack" {
				r.ErrorDetail = &rpcstatus.Status{Code: 3, Message: strings.Join(words[i+1:], " ")}
				words = nil
			}
		default:
			return fmt.Errorf("unknown word %q", w)
		}
		if words == nil {
			break
		}
	}
	if p.delta {
		return p.sent(p.ads.SendMsg(&r))
	}
	return p.sent(p.ads.SendMsg(&discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: typeURL, ResourceNames: list, ResponseNonce: r.ResponseNonce, ErrorDetail: r.ErrorDetail,
	}))
}

// sent leaves the end of a stream to "ended".
func (p *fakeProxy) sent(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
