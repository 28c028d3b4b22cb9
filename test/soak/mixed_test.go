//go:build soak

package soak_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// mixedGrace is how long all may take to be as before when the load is over.
const mixedGrace = 30 * time.Second

// mixedLog is the log's format: besides what became of a request, when it was, and its last connection to a server.
const mixedLog = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %START_TIME(%s.%9f)% %DURATION% %UPSTREAM_LOCAL_ADDRESS%>%UPSTREAM_HOST% %RESPONSE_CODE_DETAILS%\n"

// routeServer serves one route configuration by ADS, and a new one with each edit.
type routeServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	routes []proxyrun.Object

	mu      sync.Mutex
	version int
	changed chan struct{} // closed by the next edit
	taken   int           // the newest version that the proxy acknowledged
	refused string
}

const routesType = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

func (s *routeServer) edit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// now is the configuration: each version says its number in responses, and every other has one route more in front.
func (s *routeServer) now() (*discoveryv3.DiscoveryResponse, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	routes := s.routes
	if s.version%2 == 1 {
		routes = append([]proxyrun.Object{proxyrun.Forward("/nobody-asks-this", "streams", nil)}, routes...)
	}
	text, err := json.Marshal(proxyrun.Object{"name": "mixed", "virtual_hosts": []proxyrun.Object{{"name": "all", "domains": []string{"*"}, "routes": routes,
		"response_headers_to_add": []proxyrun.Object{{"header": proxyrun.Object{"key": "x-generation", "value": strconv.Itoa(s.version)}}}}}})
	if err != nil {
		return nil, nil, err
	}
	var m routev3.RouteConfiguration
	if err := protojson.Unmarshal(text, &m); err != nil {
		return nil, nil, err
	}
	r, err := anypb.New(&m)
	version := strconv.Itoa(s.version)
	return &discoveryv3.DiscoveryResponse{VersionInfo: version, Nonce: version, TypeUrl: routesType, Resources: []*anypb.Any{r}}, s.changed, err
}

// StreamAggregatedResources implements the state-of-the-world service.
func (s *routeServer) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	asked, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if req.GetTypeUrl() != routesType {
				continue
			}
			s.mu.Lock()
			if req.GetErrorDetail() != nil {
				s.refused = req.GetErrorDetail().GetMessage()
			} else if n, err := strconv.Atoi(req.GetVersionInfo()); err == nil {
				s.taken = max(s.taken, n)
			}
			s.mu.Unlock()
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}()
	select {
	case <-asked:
	case err := <-ended:
		return err
	}
	for {
		r, changed, err := s.now()
		if err != nil {
			return err
		}
		if err := stream.Send(r); err != nil {
			return err
		}
		select {
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

// serveRoutes runs the server until the test ends.
func serveRoutes(t *testing.T, routes []proxyrun.Object) (*routeServer, string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &routeServer{routes: routes, changed: make(chan struct{})}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return s, l.Addr().String()
}

// mesh is the two sidecars: clients ask either near, which leads to far by mTLS and HTTP/2, or far itself, which leads to the servers and
// gets its routes by ADS.
type mixedMesh struct {
	near, far *proxyrun.Proxy
	edits     *routeServer
	at        []string // where to ask
}

func newMixedMesh(t *testing.T, causes []*cause) *mixedMesh {
	t.Helper()
	var routes []proxyrun.Object
	var clusters []proxyrun.Cluster
	for _, c := range causes {
		more := c.metadata()
		maps.Copy(more, c.more)
		clusters = append(clusters, proxyrun.Cluster{Name: c.name, To: c.to, HTTP2: c.http2, More: more})
		routes = append(routes, proxyrun.Forward("/"+c.name+"/", c.name, c.act))
	}
	m := &mixedMesh{}
	edits, xds := serveRoutes(t, routes)
	m.edits = edits
	authority := proxyrun.NewAuthority(t)
	upgrades := []proxyrun.Object{{"upgrade_type": "websocket"}}
	manager := func() proxyrun.Object {
		return proxyrun.Object{"upgrade_configs": upgrades, "http2_protocol_options": proxyrun.Object{"allow_connect": true}, "access_log": []proxyrun.Object{{
			"name": "stdout", "typed_config": proxyrun.Object{"@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
				"log_format": proxyrun.Object{"text_format_source": proxyrun.Object{"inline_string": mixedLog}}}}}}
	}
	boot := proxyrun.Bootstrap([]proxyrun.Listener{
		{Name: "plain", Manager: manager()},
		{Name: "mtls", TLS: authority.Issue(t, "far"), Mutual: true, Manager: manager()},
	}, append(clusters, proxyrun.Cluster{Name: "xds", To: []string{xds}, HTTP2: true}))
	for _, l := range boot["static_resources"].(proxyrun.Object)["listeners"].([]proxyrun.Object) {
		hcm := l["filter_chains"].([]proxyrun.Object)[0]["filters"].([]proxyrun.Object)[0]["typed_config"].(proxyrun.Object)
		delete(hcm, "route_config")
		hcm["rds"] = proxyrun.Object{"route_config_name": "mixed", "config_source": proxyrun.Object{"ads": proxyrun.Object{}, "resource_api_version": "V3"}}
	}
	boot["node"] = proxyrun.Object{"id": "far", "cluster": "soak"}
	boot["dynamic_resources"] = proxyrun.Object{"ads_config": proxyrun.Object{"api_type": "GRPC", "transport_api_version": "V3",
		"grpc_services": []proxyrun.Object{{"envoy_grpc": proxyrun.Object{"cluster_name": "xds"}}}}}
	m.far = proxyrun.Start(t, binary, boot)
	m.near = proxyrun.Start(t, binary, proxyrun.Bootstrap(
		[]proxyrun.Listener{{Name: "in", Manager: manager(), Routes: []proxyrun.Object{proxyrun.Forward("/", "far", proxyrun.Object{"timeout": "0s"})}}},
		[]proxyrun.Cluster{{Name: "far", To: []string{m.far.At(t, "mtls")}, HTTP2: true, TLS: authority.Issue(t, "near")}}))
	m.at = []string{m.far.At(t, "plain"), m.near.At(t, "in")}
	return m
}

// mixedCauses are the servers.
func mixedCauses(t *testing.T, r *record, m *mixedClient) ([]*cause, []*chaos) {
	t.Helper()
	streams, conns := newChaos(t, r, streamDeeds()), newChaos(t, r, connDeeds())
	mortal := newChaos(t, r, streamDeeds()[:3])
	revive(t, mortal)
	narrow := newChaos(t, r, streamDeeds()[:1],
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	echo := newFaultBackend(t, func(c net.Conn, req *http.Request) bool {
		key := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 §4.2.2
		if !say(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(key[:])+"\r\n\r\n") {
			return false
		}
		_, _ = io.Copy(c, c)
		return false
	})
	short := proxyrun.Object{"timeout": "1s"}
	turn := func(kinds []func(*asker) int) func(*asker) int {
		return func(a *asker) int { a.turn++; return kinds[a.turn%len(kinds)](a) }
	}
	return []*cause{
		{name: "streams", http2: true, to: []string{streams.at}, act: short, ask: turn(m.kinds()), clients: 16, pause: 30 * time.Millisecond},
		{name: "mortal", http2: true, to: []string{mortal.at}, act: proxyrun.Object{"timeout": "5s"}, ask: turn(m.kinds()), clients: 8, pause: 30 * time.Millisecond},
		{name: "conns", http2: true, to: []string{conns.at}, act: proxyrun.Object{"timeout": "5s"}, ask: turn(m.kinds()), clients: 16, pause: 30 * time.Millisecond},
		{name: "narrow", http2: true, to: []string{narrow.at}, act: proxyrun.Object{"timeout": "10s"}, ask: turn(m.kinds()), clients: 8, pause: 30 * time.Millisecond},
		{name: "sockets", to: []string{echo.at}, act: proxyrun.Object{"timeout": "0s"}, ask: turn([]func(*asker) int{m.socket, m.socket2}), clients: 4, pause: 50 * time.Millisecond,
			may: []string{"101 -", "101 DC", "101 DR", "101 UC", "200 -", "200 DC", "200 DR"}},
	}, []*chaos{streams, conns, mortal, narrow}
}

// Faults of all kinds beside one another, by HTTP/1.1, HTTP/2, gRPC and WebSocket, through one sidecar and two, while routes change: each
// request ends as a deed of a server or its client explains, both sidecars say the same of it, and afterwards nothing is left.
func TestMixedFaultsUnderLoadAreExplained(t *testing.T) {
	r, clients := newRecord(), newMixedClient()
	causes, servers := mixedCauses(t, r, clients)
	m := newMixedMesh(t, causes)
	length := faultTime(t)
	run := func(length time.Duration) (sent int) {
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					m.edits.edit()
				}
			}
		})
		tallies := make([]*tally, len(causes))
		for i, c := range causes {
			all.Go(func() { tallies[i] = c.load(ctx, &seen{}, m.at...) })
		}
		all.Wait()
		for _, c := range tallies {
			sent += c.sum()
		}
		return sent
	}
	sent := run(length / 10) // what stays after the first requests is not a leak
	before := m.rest(t, servers, clients)
	sent += run(length - length/10)
	after := m.rest(t, servers, clients)
	t.Logf("goroutines, resident MiB of near, far: before %v, after %v", before, after)
	for i := range after { // idle workers are kept, 64 for each shard at most
		if slack := []int{20, 30}[i%2]; after[i] > before[i]+slack {
			t.Errorf("figure %d grew from %d to %d", i, before[i], after[i])
		}
	}
	m.judge(t, causes, r, clients, sent)
}

// rest waits until nothing is in flight, and returns goroutines, but for those of idle connections, and resident MiB of both sidecars.
func (m *mixedMesh) rest(t *testing.T, servers []*chaos, clients *mixedClient) (out []int) {
	t.Helper()
	clients.h2.CloseIdleConnections()
	for _, p := range []*proxyrun.Proxy{m.near, m.far} {
		p.Await(t, mixedGrace, "no stream is left", func() bool {
			active := 0
			for _, s := range servers {
				active += s.active()
			}
			return active == 0 && p.Metric(t, "envoy_cluster_upstream_rq_active") == 0 && p.Metric(t, "envoy_cluster_upstream_rq_pending_active") == 0
		})
	}
	for _, p := range []*proxyrun.Proxy{m.near, m.far} {
		least := 1 << 30
		for range 20 { // what ends takes its time
			least = min(least, int(p.Metric(t, "go_goroutines")))
			wait(200 * time.Millisecond)
		}
		// A connection that is kept for the next requests is not a leak.
		out = append(out, least-int(p.Metric(t, "envoy_cluster_upstream_cx_active")), int(p.RSS(t)>>20))
	}
	return out
}

// awaitLog waits until a sidecar logs nothing more.
func awaitLog(p *proxyrun.Proxy) {
	for was := -1; was != len(p.AccessLog()); wait(2 * time.Second) {
		was = len(p.AccessLog())
	}
}

// judge holds each request's outcome at the client to those in the logs and to the deeds, and the metrics to the log.
func (m *mixedMesh) judge(t *testing.T, causes []*cause, r *record, clients *mixedClient, sent int) {
	t.Helper()
	awaitLog(m.far)
	awaitLog(m.near)
	far, near := outcomes(t, m.far.AccessLog()), outcomes(t, m.near.AccessLog())
	dropped := int(m.far.Metric(t, "tulle_access_log_lines_dropped_total"))
	wrong := map[string]int{}
	complain := func(what, path string, args ...any) {
		if wrong[what]++; wrong[what] <= 40 {
			t.Errorf("%s: %s %v", what, path, args)
		}
	}
	counts, missing, early := map[string]map[string]int{}, 0, 0
	for path, told := range clients.told {
		at := "/" + path
		name, _, _ := strings.Cut(path, "/")
		logged, behind := far[at], near[at]
		if logged == nil && told == "left" && behind != nil && behind.status == "0" && behind.left() {
			early++ // it left before the request went on
			continue
		}
		if logged == nil {
			if missing++; missing > dropped {
				complain("not in the log", path, told)
			}
			continue
		}
		if counts[name] == nil {
			counts[name] = map[string]int{}
		}
		counts[name][logged.outcome()]++
		c := causes[slices.IndexFunc(causes, func(c *cause) bool { return c.name == name })]
		had, left := strings.CutPrefix(told, "left")
		if !(left && logged.left()) && !r.explains(logged) && !slices.Contains(c.may, logged.outcome()) {
			complain("no deed explains this", path, told, r.about(logged))
		}
		if !logged.told(told) || left && had != "" && " "+logged.status != had {
			complain("the client was told something else", path, logged.outcome(), told)
		}
		if behind != nil && !left && behind.status != logged.status {
			complain("the sidecars differ", path, logged.outcome(), behind.outcome(), told)
		}
	}
	if len(far) > len(clients.told) {
		t.Errorf("%d requests are logged, %d were sent", len(far), len(clients.told))
	}
	if sent != len(clients.told) {
		t.Errorf("%d requests were sent, %d ended", sent, len(clients.told))
	}
	for _, c := range causes {
		t.Logf("%-8s %v", c.name, counts[c.name])
		for outcome, n := range counts[c.name] {
			status, flags, _ := strings.Cut(outcome, " ")
			got := int(m.far.Metric(t, "istio_requests_total", fmt.Sprintf("destination_service_name=%q", c.name), fmt.Sprintf("response_code=%q", status), fmt.Sprintf("response_flags=%q", flags)))
			if got < n || got > n+dropped {
				t.Errorf("%s: the metric counts %d of %q, the log %d", c.name, got, outcome, n)
			}
		}
	}
	m.edits.mu.Lock()
	defer m.edits.mu.Unlock()
	if m.edits.refused != "" || m.edits.taken < m.edits.version-1 {
		t.Errorf("of %d edits %d were taken; %s", m.edits.version, m.edits.taken, m.edits.refused)
	}
	t.Logf("%d requests, %d through two sidecars, %d edits, %d lines dropped, %d left before the second sidecar; deeds: %v; complaints: %v", sent, len(near), m.edits.version, dropped, early, r.did, wrong)
}
