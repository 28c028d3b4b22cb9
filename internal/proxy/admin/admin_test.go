package admin_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/proxy/admin"
	"github.com/tullemesh/tulle/internal/wire"
)

// stage is a proxy whose state a test sets.
type stage struct {
	state     admin.State
	level     slog.Level
	drained   []admin.Drain
	quit      int
	unhealthy int // set and taken back
	resources map[string][]admin.Resource
	rejected  []admin.Rejection
	clusters  []admin.Cluster
	secrets   []admin.Secret
}

func (s *stage) State() admin.State { return s.state }
func (s *stage) Started() time.Time { return time.Unix(1000, 0) }
func (s *stage) Node() (string, string, json.RawMessage) {
	return "sidecar~127.0.0.1~a.b~b.svc.cluster.local", "a.b", json.RawMessage(`{"NAMESPACE":"b"}`)
}
func (s *stage) Resources(t string) []admin.Resource { return s.resources[t] }
func (s *stage) Rejected() []admin.Rejection         { return s.rejected }
func (s *stage) Clusters() []admin.Cluster           { return s.clusters }
func (s *stage) Listeners() []admin.Listener {
	return []admin.Listener{{Name: "virtualOutbound", Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15001")}}}
}
func (s *stage) Secrets() []admin.Secret { return s.secrets }
func (s *stage) WriteMetrics(w io.Writer) error {
	_, err := io.WriteString(w, "istio_requests_total 7\n")
	return err
}
func (s *stage) Drain(d admin.Drain) { s.drained = append(s.drained, d) }
func (s *stage) Quit()               { s.quit++ }
func (s *stage) FailHealth(fails bool) {
	if s.unhealthy++; fails {
		s.state = admin.Draining
	} else {
		s.state = admin.Live
	}
}
func (s *stage) Level() slog.Level     { return s.level }
func (s *stage) SetLevel(l slog.Level) { s.level = l }

func pack(t *testing.T, name string, m proto.Message) admin.Resource {
	t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return admin.Resource{Resource: &wire.Resource{Name: name, Version: "v-" + name, Body: body}, Updated: time.Unix(2000, 0)}
}

func call(s *stage, method, target, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	w := httptest.NewRecorder()
	admin.Handler(s, "test").ServeHTTP(w, r)
	return w
}

func TestReadyTellsTheState(t *testing.T) {
	for state, code := range map[admin.State]int{admin.Initializing: 503, admin.Live: 200, admin.Draining: 503} {
		w := call(&stage{state: state}, "GET", "/ready", "localhost:15000")
		if w.Code != code || strings.TrimSpace(w.Body.String()) != string(state) {
			t.Errorf("%s: %d %q, want %d", state, w.Code, w.Body, code)
		}
	}
}

func TestMemoryIsToldInEnvoysWords(t *testing.T) {
	w := call(&stage{}, "GET", "/memory", "localhost")
	var got adminv3.Memory
	if err := protojson.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if got.GetAllocated() == 0 || got.GetHeapSize() < got.GetAllocated() || got.GetTotalPhysicalBytes() < got.GetAllocated() {
		t.Errorf("%s", w.Body)
	}
}

func TestForeignHostIsRefused(t *testing.T) {
	for host, code := range map[string]int{"127.0.0.1:15000": 200, "[::1]:15000": 200, "localhost": 200, "evil.example:15000": 403, "": 403} {
		if w := call(&stage{state: admin.Live}, "GET", "/ready", host); w.Code != code {
			t.Errorf("host %q: %d, want %d", host, w.Code, code)
		}
	}
}

func TestMethodsAndPathsThatAreNotServedAreRefused(t *testing.T) {
	for _, c := range []struct {
		situation, method, path string
		code                    int
		allow                   string
	}{
		{"the index", "GET", "/", 200, ""},
		{"a page without its content", "HEAD", "/ready", 200, ""},
		{"no such page", "GET", "/nothing", 404, ""},
		{"below a page", "GET", "/ready/", 404, ""},
		{"a path that is not clean", "GET", "//ready", 404, ""},
		{"a change of a page that only tells", "POST", "/ready", 405, "GET, HEAD"},
		{"a look at a page that only changes", "GET", "/quitquitquit", 405, "POST"},
		{"HEAD of a page that only changes", "HEAD", "/quitquitquit", 405, "POST"},
		{"a method of neither kind", "DELETE", "/logging", 405, "GET, HEAD, POST"},
	} {
		t.Run(c.situation, func(t *testing.T) {
			s := &stage{state: admin.Live}
			w := call(s, c.method, c.path, "localhost")
			if w.Code != c.code || w.Header().Get("Allow") != c.allow || s.quit > 0 {
				t.Errorf("%s %s: %d, Allow %q, want %d and %q", c.method, c.path, w.Code, w.Header().Get("Allow"), c.code, c.allow)
			}
		})
	}
}

func TestChangesNeedPost(t *testing.T) {
	s := &stage{state: admin.Live}
	for _, path := range []string{"/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/healthcheck/ok"} {
		if w := call(s, "GET", path, "localhost"); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
	if s.quit+len(s.drained)+s.unhealthy != 0 {
		t.Fatal("a GET changed something")
	}
	call(s, "POST", "/drain_listeners", "localhost")
	call(s, "POST", "/quitquitquit", "localhost")
	if s.quit != 1 || len(s.drained) != 1 {
		t.Errorf("quit %d, drained %v, want 1 each", s.quit, s.drained)
	}
	call(s, "GET", "/logging?level=debug", "localhost")
	if s.level != slog.LevelInfo {
		t.Error("GET changed the log level")
	}
	if w := call(s, "POST", "/logging?level=debug", "localhost"); s.level != slog.LevelDebug || !strings.Contains(w.Body.String(), "debug") {
		t.Errorf("POST /logging left %s: %s", s.level, w.Body)
	}
	if w := call(s, "POST", "/logging?level=loud", "localhost"); w.Code != http.StatusBadRequest {
		t.Errorf("unknown level: %d", w.Code)
	}
}

func TestDrainsAreAsTold(t *testing.T) {
	for _, c := range []struct {
		query string
		code  int
		want  []admin.Drain
	}{
		{"", http.StatusOK, []admin.Drain{{}}},
		{"?inboundonly", http.StatusOK, []admin.Drain{{InboundOnly: true}}},
		{"?graceful", http.StatusOK, []admin.Drain{{Graceful: true}}},
		{"?graceful=anything", http.StatusOK, []admin.Drain{{Graceful: true}}},
		{"?inboundonly&graceful", http.StatusOK, []admin.Drain{{InboundOnly: true, Graceful: true}}},
		{"?graceful&skip_exit", http.StatusOK, []admin.Drain{{Graceful: true, SkipExit: true}}},
		{"?skip_exit", http.StatusBadRequest, nil},
		{"?inboundonly&skip_exit", http.StatusBadRequest, nil},
		{"?outboundonly", http.StatusBadRequest, nil},
	} {
		s := &stage{state: admin.Live}
		if w := call(s, "POST", "/drain_listeners"+c.query, "localhost"); w.Code != c.code || !slices.Equal(s.drained, c.want) {
			t.Errorf("%q: %d %q, drained %+v", c.query, w.Code, w.Body, s.drained)
		}
	}
}

func TestHealthIsFailedAndTakenBack(t *testing.T) {
	s := &stage{state: admin.Live}
	for path, code := range map[string]int{"/healthcheck/fail": 503, "/healthcheck/ok": 200} {
		if w := call(s, "POST", path, "localhost"); w.Code != 200 || w.Body.String() != "OK\n" {
			t.Errorf("POST %s: %d %q", path, w.Code, w.Body)
		}
		if w := call(s, "GET", "/ready", "localhost"); w.Code != code {
			t.Errorf("after %s: %d, want %d", path, w.Code, code)
		}
	}
}

func TestConfigDumpHasEnvoysShape(t *testing.T) {
	s := &stage{state: admin.Live, resources: map[string][]admin.Resource{
		wire.ClusterType:  {pack(t, "outbound|80||a", &clusterv3.Cluster{Name: "outbound|80||a"})},
		wire.ListenerType: {pack(t, "0.0.0.0_80", &listenerv3.Listener{Name: "0.0.0.0_80"})},
	}, rejected: []admin.Rejection{
		{TypeURL: wire.ListenerType, Name: "0.0.0.0_80", Version: "v2", Reason: "unknown filter x", At: time.Unix(3000, 0)},
		{TypeURL: wire.ListenerType, Name: "new", Version: "v1", Reason: "bad", At: time.Unix(3000, 0)},
	}}
	w := call(s, "GET", "/config_dump?include_eds", "localhost")
	var dump struct {
		Configs []map[string]any `json:"configs"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &dump); err != nil {
		t.Fatalf("%v\n%s", err, w.Body)
	}
	var kinds []string
	for _, c := range dump.Configs {
		kinds = append(kinds, strings.TrimPrefix(c["@type"].(string), "type.googleapis.com/envoy.admin.v3."))
	}
	if got, want := strings.Join(kinds, " "), "BootstrapConfigDump ClustersConfigDump EndpointsConfigDump ListenersConfigDump RoutesConfigDump SecretsConfigDump"; got != want {
		t.Errorf("sections %s, want %s", got, want)
	}
	clusters := dump.Configs[1]["dynamic_active_clusters"].([]any)
	if name := clusters[0].(map[string]any)["cluster"].(map[string]any)["name"]; name != "outbound|80||a" {
		t.Errorf("cluster %v", name)
	}
	listeners := dump.Configs[3]["dynamic_listeners"].([]any)
	if len(listeners) != 2 {
		t.Fatalf("%d listeners, want the refused new one beside the old one", len(listeners))
	}
	old := listeners[0].(map[string]any)
	if old["active_state"] == nil || old["error_state"].(map[string]any)["details"] != "unknown filter x" {
		t.Errorf("the last good version must stay beside the refusal: %v", old)
	}
}

func TestClustersInBothForms(t *testing.T) {
	s := &stage{clusters: []admin.Cluster{{Name: "be", AddedBy: "via_api", Assignment: "be-eds", Limits: admin.Limits{Connections: 5, Pending: 6, Requests: 7, Retries: 8},
		Endpoints: []admin.Endpoint{{Address: "127.0.0.1:80", Hostname: "h", Health: "DRAINING", Weight: 1, Region: "r", Zone: "z", SubZone: "s", Priority: 1,
			Connections: 3, ConnectFails: 4, ActiveConnections: 2, Requests: 9, Errors: 5, Successes: 4, Timeouts: 1, ActiveRequests: 2}}}}}
	text := call(s, "GET", "/clusters", "localhost").Body.String()
	if diff := cmp.Diff(clustersText, text); diff != "" {
		t.Error(diff)
	}
	var got struct {
		Statuses []struct {
			EDS      string `json:"eds_service_name"`
			Breakers struct {
				Thresholds []map[string]int `json:"thresholds"`
			} `json:"circuit_breakers"`
			Hosts []struct {
				Stats   []struct{ Name, Type, Value string } `json:"stats"`
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
				Health struct {
					EDS string `json:"eds_health_status"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(call(s, "GET", "/clusters?format=json", "localhost").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if h := got.Statuses[0].Hosts[0]; h.Address.Socket.Port != 80 || h.Health.EDS != "DRAINING" {
		t.Errorf("json %+v", h)
	} else if i := slices.IndexFunc(h.Stats, func(s struct{ Name, Type, Value string }) bool { return s.Name == "rq_timeout" }); i < 0 || h.Stats[i].Value != "1" {
		t.Errorf("stats %+v", h.Stats)
	}
	if c := got.Statuses[0]; c.EDS != "be-eds" || c.Breakers.Thresholds[0]["max_pending_requests"] != 6 {
		t.Errorf("json %+v", c)
	}
}

// clustersText is Envoy's form, whole.
const clustersText = `be::observability_name::be
be::default_priority::max_connections::5
be::default_priority::max_pending_requests::6
be::default_priority::max_requests::7
be::default_priority::max_retries::8
be::high_priority::max_connections::5
be::high_priority::max_pending_requests::6
be::high_priority::max_requests::7
be::high_priority::max_retries::8
be::added_via_api::true
be::eds_service_name::be-eds
be::127.0.0.1:80::cx_active::2
be::127.0.0.1:80::cx_connect_fail::4
be::127.0.0.1:80::cx_total::3
be::127.0.0.1:80::rq_active::2
be::127.0.0.1:80::rq_error::5
be::127.0.0.1:80::rq_success::4
be::127.0.0.1:80::rq_timeout::1
be::127.0.0.1:80::rq_total::9
be::127.0.0.1:80::hostname::h
be::127.0.0.1:80::health_flags::/eds_status_draining
be::127.0.0.1:80::weight::1
be::127.0.0.1:80::region::r
be::127.0.0.1:80::zone::z
be::127.0.0.1:80::sub_zone::s
be::127.0.0.1:80::canary::false
be::127.0.0.1:80::priority::1
be::127.0.0.1:80::success_rate::-1
be::127.0.0.1:80::local_origin_success_rate::-1
`

func TestCertsShowValidityWithoutKeys(t *testing.T) {
	s := &stage{secrets: []admin.Secret{{Name: "default", Serial: "0a", URI: "spiffe://td/ns/a/sa/b", From: time.Unix(0, 0), To: time.Now().Add(49 * time.Hour)}}}
	body := call(s, "GET", "/certs", "localhost").Body.String()
	for _, want := range []string{`"spiffe://td/ns/a/sa/b"`, `"days_until_expiration": "2"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if dump := call(s, "GET", "/config_dump", "localhost").Body.String(); strings.Contains(dump, "PRIVATE") || !strings.Contains(dump, `"default"`) {
		t.Errorf("secrets section: %s", dump)
	}
}

func TestMetricsAndListeners(t *testing.T) {
	s := &stage{}
	for path, want := range map[string]string{"/stats/prometheus": "istio_requests_total 7", "/stats?format=prometheus": "istio_requests_total 7", "/listeners": "virtualOutbound::127.0.0.1:15001"} {
		if got := call(s, "GET", path, "localhost").Body.String(); !strings.Contains(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
	if w := call(s, "GET", "/stats", "localhost"); w.Code != http.StatusBadRequest {
		t.Errorf("/stats without a format: %d", w.Code)
	}
}
