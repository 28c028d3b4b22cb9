package compile_test

import (
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// An explicit 0 is not the absence of a bound's field: it turns off the one that
// would hold without it. And what is longer than any proxy runs is no earlier than
// now when it is added to a time.
func TestBoundsOfZeroAndBeyondAllTimes(t *testing.T) {
	t.Parallel()
	const century = 100 * 365 * 24 * time.Hour
	forward := func(t *testing.T, action string) *router.Forward {
		var m routev3.RouteConfiguration
		if err := protojson.Unmarshal([]byte(withAction(action)), &m); err != nil {
			t.Fatal(err)
		}
		table, r := compile.New().Route(&m, "")
		if r.Refused() {
			t.Fatal(r.Error())
		}
		return table.Hosts()[0].Routes[0].Forward
	}
	idleOfClients := func(t *testing.T, common string) time.Duration {
		var m listenerv3.Listener
		if err := protojson.Unmarshal([]byte(withHCM(`"http_filters":[`+routerHTTP+`],"common_http_protocol_options":{`+common+`}`)), &m); err != nil {
			t.Fatal(err)
		}
		l, _, r := compile.New().Listener(&m, "")
		if r.Refused() {
			t.Fatal(r.Error())
		}
		return l.Spec().Chains[0].HTTP.IdleTimeout
	}
	for name, c := range map[string]struct {
		got  func(*testing.T) time.Duration
		want time.Duration
	}{
		"a route's idle timeout":          {func(t *testing.T) time.Duration { return forward(t, `"idle_timeout":"7s"`).IdleTimeout }, 7 * time.Second},
		"a route without an idle timeout": {func(t *testing.T) time.Duration { return forward(t, `"timeout":"1s"`).IdleTimeout }, 0},
		"a route's idle timeout of 0":     {func(t *testing.T) time.Duration { return forward(t, `"idle_timeout":"0s"`).IdleTimeout }, router.NoBound},
		"a route's idle timeout for ever": {func(t *testing.T) time.Duration { return forward(t, `"idle_timeout":"315576000000s"`).IdleTimeout }, century},
		"a route's streams without bound": {func(t *testing.T) time.Duration {
			return forward(t, `"max_stream_duration":{"max_stream_duration":"0s"}`).MaxStreamDuration
		}, router.NoBound},
		"a route's streams as the manager": {func(t *testing.T) time.Duration { return forward(t, `"max_stream_duration":{}`).MaxStreamDuration }, 0},
		"clients that idle":                {func(t *testing.T) time.Duration { return idleOfClients(t, `"idle_timeout":"7s"`) }, 7 * time.Second},
		"clients that idle, by default":    {func(t *testing.T) time.Duration { return idleOfClients(t, ``) }, time.Hour},
		"clients that idle without bound":  {func(t *testing.T) time.Duration { return idleOfClients(t, `"idle_timeout":"0s"`) }, century},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.got(t); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
