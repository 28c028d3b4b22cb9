package compile_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/wire"
)

// chew applies one resource of raw bytes, twice, builds what came of it and
// decides with it. Nothing may panic, and equal input gives equal output.
func chew(t testing.TB, typeURL, name string, body []byte) {
	t.Helper()
	var reports [2]string
	for i := range reports {
		b := compile.NewBuilder(compile.New())
		refused := b.Apply(typeURL, []*wire.Resource{wire.PackResource(name, typeURL, body)}, nil, time.Time{})
		reports[i] = fmt.Sprint(refused)
		cfg, _ := b.Build(time.Time{}.Add(time.Hour))
		conn := outbound("10.96.0.3:9080")
		conn.Direct = conn.Local
		for _, l := range cfg.Listeners() {
			generation.DecideAt(cfg, l, conn, request("GET", "reviews", "/?a=b", nil), nil)
			generation.DecideAt(cfg, l, conn, nil, nil)
		}
		for _, tb := range cfg.Tables() {
			tb.Match(request("GET", "reviews", "/api?debug=true", nil), nil)
		}
		b.Wants()
	}
	if reports[0] != reports[1] {
		t.Fatalf("%s\nthen %s", reports[0], reports[1])
	}
}

func FuzzResources(f *testing.F) {
	add := func(kind byte, text string, m proto.Message) {
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			f.Fatal(err)
		}
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, body)
	}
	add(2, withPermission(`{"url_path":{"path":{"prefix":"/x"}}}`), &listenerv3.Listener{})
	add(2, withMatch(`{"destination_port":80,"server_names":["*.a"]}`), &listenerv3.Listener{})
	add(2, downstreamTLS(`"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"default"}]}`), &listenerv3.Listener{})
	add(3, withAction(`"timeout":"3s","regex_rewrite":{"pattern":{"regex":"(a)"},"substitution":"\\1"}`), &routev3.RouteConfiguration{})
	add(3, withCondition(`"prefix":"/","headers":[{"name":"x","range_match":{"start":"1","end":"5"}}]`), &routev3.RouteConfiguration{})
	add(0, upstreamTLS(`"sni":"a","common_tls_context":{"validation_context":{"trusted_ca":{"filename":"/ca"}}}`), &clusterv3.Cluster{})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		types := append(order(), wire.VirtualHostType)
		chew(t, types[int(kind)%len(types)], "fuzz", body)
	})
}

func FuzzBootstrap(f *testing.F) {
	f.Add([]byte(`{"admin":{"address":{"socket_address":{"address":"127.0.0.1","port_value":1}}}}`))
	f.Add([]byte("static_resources: {clusters: [{name: a, type: STATIC}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, _, err := compile.New().Bootstrap(data)
		if second, _, again := compile.New().Bootstrap(data); (first == nil) != (second == nil) || (err == nil) != (again == nil) {
			t.Fatal("equal input, other output")
		}
	})
}

// Recorded resources with a few bytes changed: still no panic.
func TestMutatedRecordingsNeverPanic(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, scenario := range scenarios() {
		s := stream{}
		s.replay(t, filepath.Join(recordings(t), scenario, "sidecar-delta.bin"))
		for _, typeURL := range order() {
			for _, r := range s.resources(typeURL) {
				body := bytes.Clone(r.Body.GetValue())
				for range 1 + random.IntN(4) {
					body[random.IntN(len(body))] ^= 1 << random.IntN(8)
				}
				chew(t, typeURL, r.Name, body)
			}
		}
	}
}
