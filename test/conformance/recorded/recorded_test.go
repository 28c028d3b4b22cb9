//go:build conformance

// Package recorded_test runs what a real istiod sent (recorded streams beside
// the checkout) on stock Envoy and on our proxy: the outbound listeners, at
// ports of this machine, with a stand-in behind every cluster. Both must make
// the same of the same requests; what our proxy refuses, and what had to be
// taken out for stock Envoy, is named.
package recorded_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/app/dataplane"
	_ "github.com/tullemesh/tulle/internal/control/translate" // knows the types of the extensions that stand in recordings
	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/testkit/adsreplay"
	"github.com/tullemesh/tulle/internal/testkit/draw"
	ports "github.com/tullemesh/tulle/internal/testkit/held"
	"github.com/tullemesh/tulle/internal/testkit/program"
	"github.com/tullemesh/tulle/internal/wire"
)

// requests to each listener.
const requests = 60

func recordings(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_ADS_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "istio-ads")
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("recorded streams of istiod: %v", err)
		}
		t.Skipf("recorded streams of istiod are not here: %v", err)
	}
	return dir
}

// held is what a client holds after a recording.
type held struct {
	listeners map[string]*listenerv3.Listener
	routes    map[string]*routev3.RouteConfiguration
	clusters  map[string]*clusterv3.Cluster
}

func load(t *testing.T, path string) *held {
	t.Helper()
	rec, err := adsreplay.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	h := &held{map[string]*listenerv3.Listener{}, map[string]*routev3.RouteConfiguration{}, map[string]*clusterv3.Cluster{}}
	for _, response := range rec.Responses {
		delta, ok := response.(*discoveryv3.DeltaDiscoveryResponse)
		if !ok {
			t.Fatalf("%s holds no delta responses", path)
		}
		for _, r := range delta.GetResources() {
			var err error
			switch delta.GetTypeUrl() {
			case wire.ListenerType:
				h.listeners[r.GetName()] = &listenerv3.Listener{}
				err = r.GetResource().UnmarshalTo(h.listeners[r.GetName()])
			case wire.RouteType:
				h.routes[r.GetName()] = &routev3.RouteConfiguration{}
				err = r.GetResource().UnmarshalTo(h.routes[r.GetName()])
			case wire.ClusterType:
				h.clusters[r.GetName()] = &clusterv3.Cluster{}
				err = r.GetResource().UnmarshalTo(h.clusters[r.GetName()])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// refused is our proxy's verdict of one resource as it came; empty: accepted.
func refused(t *testing.T, typeURL, name string, m proto.Message) string {
	t.Helper()
	r, err := wire.NewResource(name, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, rejection := range compile.NewBuilder(compile.New()).Apply(typeURL, []*wire.Resource{r}, nil, time.Time{}) {
		return rejection.Reason
	}
	return ""
}

// run is one recording at the ports of this machine.
type run struct {
	bootstrap *bootstrapv3.Bootstrap
	taken     map[string]int // what was taken out or changed, and how often
	named     []string       // what our proxy refuses
}

func prepare(t *testing.T, h *held) *run {
	t.Helper()
	out := &run{bootstrap: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{}}, taken: map[string]int{}}
	names := slices.Sorted(maps.Keys(h.clusters))
	places := draw.StandIns(t, names...)
	for _, name := range names {
		if reason := refused(t, wire.ClusterType, name, h.clusters[name]); reason != "" {
			out.named = append(out.named, "cluster "+name+": "+reason)
		}
		out.bootstrap.StaticResources.Clusters = append(out.bootstrap.StaticResources.Clusters, out.here(h.clusters[name], places[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(h.routes)) {
		if reason := refused(t, wire.RouteType, name, h.routes[name]); reason != "" {
			out.named = append(out.named, "route configuration "+name+": "+reason)
			out.without(t, name, h.routes)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.listeners)) {
		l := h.listeners[name]
		if reason := refused(t, wire.ListenerType, name, l); reason != "" {
			out.named = append(out.named, "listener "+name+": "+reason)
			continue
		}
		if name == wire.VirtualInbound || name == wire.VirtualOutbound {
			out.taken["listener "+name+", which needs redirected connections"]++
			continue
		}
		if out.move(t, l, h.routes) {
			out.bootstrap.StaticResources.Listeners = append(out.bootstrap.StaticResources.Listeners, l)
		}
	}
	return out
}

// compare runs both proxies on a run and asks them the same.
func (r *run) compare(t *testing.T, h *held, seed uint64) (asked, different int) {
	t.Helper()
	envoy, tulle := r.start(t)
	g, seen := draw.New(seed), map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(envoy)) {
		hosts := hostsOf(h, name)
		for range requests {
			asked++
			var what, want, got string
			if g.IntN(10) == 0 {
				what, want, got = "bytes", sent(t, envoy[name]), sent(t, tulle[name])
			} else {
				q := request(g, h, name, hosts)
				what, want, got = q.String(), answered(t, envoy[name], q), answered(t, tulle[name], q)
			}
			if seen[want] = true; want == got {
				continue
			}
			if different++; different <= 5 {
				t.Errorf("%s: %s\n  envoy %s\n  tulle %s", name, what, want, got)
			}
		}
	}
	if t.Logf("%d different answers", len(seen)); len(seen) < 30 {
		t.Error("the requests prove little")
	}
	return asked, different
}

// start writes both bootstraps, which differ in ports alone, and runs both.
func (r *run) start(t *testing.T) (envoy, tulle map[string]string) {
	t.Helper()
	dir := t.TempDir()
	envoy, tulle = map[string]string{}, map[string]string{}
	// Each proxy has an address of its own, whose ports no client's connection
	// takes meanwhile.
	write := func(name, ip string, places map[string]string) string {
		ports := freePorts(t, ip, len(r.bootstrap.StaticResources.Listeners))
		for i, l := range r.bootstrap.StaticResources.Listeners {
			l.Address = address(ip, ports[i])
			places[l.GetName()] = net.JoinHostPort(ip, strconv.Itoa(ports[i]))
		}
		data, err := protojson.Marshal(r.bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	startEnvoy(t, write("envoy.json", "127.0.0.2", envoy))
	proxy, err := dataplane.New(t.Context(), dataplane.Options{Bootstrap: write("tulle.json", "127.0.0.3", tulle), Stdout: io.Discard, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, places := range []map[string]string{envoy, tulle} {
		for name, place := range places {
			waitFor(t, name, place)
		}
	}
	return envoy, tulle
}

func startEnvoy(t *testing.T, path string) {
	t.Helper()
	binary, err := program.Find(t.Context(), "ENVOY", filepath.Join("..", "..", "envoy.sh"))
	if err != nil {
		t.Fatal(err)
	}
	program.Start(t, binary, "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error", "--service-node", "sidecar~127.0.0.1~recorded.test~test.svc.cluster.local", "--service-cluster", "recorded")
}

func waitFor(t *testing.T, name, place string) {
	t.Helper()
	deadline, tick := time.NewTimer(20*time.Second), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", place)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("listener %s: %v", name, err)
		case <-tick.C:
		}
	}
}

// freePorts asks the kernel for n ports of an address, all different.
func freePorts(t *testing.T, ip string, n int) []int {
	t.Helper()
	var out []int
	for range n {
		out = append(out, ports.Port(t, ip))
	}
	return out
}

// answered is what a client sees of a request.
func answered(t *testing.T, place string, r draw.Request) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, "http://"+place+r.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = r.Host
	for _, h := range r.Headers {
		req.Header.Set(h[0], h[1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "no answer"
	}
	_, here, _ := net.SplitHostPort(place)
	return fmt.Sprintf("%d location=%q %s", resp.StatusCode, strings.ReplaceAll(resp.Header.Get("Location"), here, "PORT"), string(body))
}

// sent is what a client sees that speaks no HTTP.
func sent(t *testing.T, place string) string {
	t.Helper()
	c, err := net.Dial("tcp", place)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "helo, who is there?\n") // a refusal shows in what comes
	var got bytes.Buffer
	_, _ = io.Copy(&got, c)
	text, _, _ := strings.Cut(got.String(), "\r\n")
	return text
}

func TestRecordedResourcesDecideAsOnStockEnvoy(t *testing.T) {
	for i, scenario := range []string{"s1-plain", "s2-routing", "s5-tcp"} {
		for j, client := range []string{"sidecar", "sidecar2"} {
			t.Run(scenario+"/"+client, func(t *testing.T) {
				h := load(t, filepath.Join(recordings(t), scenario, client+"-delta.bin"))
				r := prepare(t, h)
				for _, what := range slices.Sorted(maps.Keys(r.taken)) {
					t.Logf("changed for both: %s (%d×)", what, r.taken[what])
				}
				for _, what := range r.named {
					t.Logf("refused by our proxy: %s", what)
				}
				if len(r.bootstrap.StaticResources.Listeners) < 3 {
					t.Error("hardly a listener is left: the comparison proves little")
				}
				asked, different := r.compare(t, h, uint64(10*i+j))
				t.Logf("%d requests at %d listeners, %d different", asked, len(r.bootstrap.StaticResources.Listeners), different)
			})
		}
	}
}
