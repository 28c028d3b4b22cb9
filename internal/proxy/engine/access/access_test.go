package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

func record() *Record {
	req := &message.Head{Method: []byte("GET"), Path: []byte("/cart"), Authority: []byte("shop")}
	req.Append([]byte("user-agent"), []byte("curl\"/8\x01"))
	res := &message.Head{Status: 503}
	res.Append([]byte("x-envoy-upstream-service-time"), []byte("7"))
	return &Record{
		Start: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), Protocol: fact.HTTP11, Request: req, Response: res, Status: 503, Flag: "UC", Details: "why",
		BytesReceived: 1, BytesSent: 2, Duration: 9 * time.Millisecond, ToUpstream: time.Millisecond, ToHead: -1,
		Conn:         &fact.Conn{Local: netip.MustParseAddrPort("127.0.0.1:80"), Remote: netip.MustParseAddrPort("127.0.0.2:1234"), SNI: "shop"},
		UpstreamHost: "127.0.0.3:8080", UpstreamCluster: "outbound|80||cart", Route: "r", Attempts: 1,
	}
}

func TestTextFormats(t *testing.T) {
	cases := []struct{ name, format, want string }{
		{"Envoy's default", "", "[2026-01-02T03:04:05.678Z] \"GET /cart HTTP/1.1\" 503 UC 1 2 9 7 \"-\" \"curl\"/8 \" \"-\" \"shop\" \"127.0.0.3:8080\"\n"},
		{"percent sign", "100%% %RESPONSE_CODE%", "100% 503"},
		{"alternative header", "%REQ(X-NO?:AUTHORITY)%", "shop"},
		{"no value is a dash", "%REQ(X-NO)% %RESPONSE_DURATION%", "- -"},
		{"shortened", "%REQ(:PATH):3%", "/ca"},
		{"own time", "%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s)%", "2026/01/02T03:04:05.678 1767323045"},
		{"addresses", "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "127.0.0.1:80 127.0.0.2:1234 127.0.0.2 80"},
		{"upstream", "%UPSTREAM_CLUSTER% %UPSTREAM_HOST% %ROUTE_NAME% %REQUESTED_SERVER_NAME%", "outbound|80||cart 127.0.0.3:8080 r shop"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse(c.format)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(f.Append(nil, record())); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestIstiosFormatIsTaken(t *testing.T) {
	const istio = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"
	f, err := Parse(istio)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Append(nil, record())); !strings.HasSuffix(got, " - 127.0.0.1:80 127.0.0.2:1234 shop r\n") {
		t.Errorf("got %q", got)
	}
}

func TestFormatsThatAreRefused(t *testing.T) {
	for _, format := range []string{"%NO_SUCH%", "%REQ(x%", "%REQ", "%REQ(x)y%", "%REQ(x):z%", "%REQ(x):0%", "%DYNAMIC_METADATA(a:b)%", "%FILTER_STATE(a)%"} {
		if _, err := Parse(format); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestJSONIsValidWhateverTheValues(t *testing.T) {
	f, err := ParseJSON([]listener.JSONField{{Key: "code", Format: "%RESPONSE_CODE%"}, {Key: "agent", Format: "%REQ(USER-AGENT)%"}, {Key: "no", Format: "%REQ(X-NO)%"}, {Key: "mix", Format: "a %REQ(X-NO)%"}, {Key: "\x07\U000e0001\"", Format: "key"}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(f.Append(nil, record()), &got); err != nil {
		t.Fatal(err)
	}
	if got["code"] != 503.0 || got["agent"] != "curl\"/8 " || got["no"] != nil || got["mix"] != "a -" || got["\x07\U000e0001\""] != "key" {
		t.Errorf("got %v", got)
	}
}

// slowWriter blocks until it is released.
type slowWriter struct {
	mu      sync.Mutex
	b       bytes.Buffer
	release chan struct{}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.release
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (*slowWriter) Close() error { return nil }

func TestASlowSinkDropsLinesAndNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{release: make(chan struct{})}
		registry := observe.NewRegistry()
		logs := NewLogs(func(string) (io.WriteCloser, error) { return w, nil }, registry)
		spec := &listener.AccessLog{Path: "p", Format: strings.Repeat("x", 1023) + "\n"}
		if err := logs.Prepare([]*listener.AccessLog{spec}); err != nil {
			t.Fatal(err)
		}
		for range 3000 { // 3 MiB while nobody reads
			logs.Get(spec).Write(record())
			synctest.Wait()
		}
		dropped := registry.Sum("tulle_access_log_lines_dropped_total")
		if dropped == 0 {
			t.Error("nothing was dropped")
		}
		close(w.release)
		logs.Close()
		if got := w.b.Len()/1024 + int(dropped); got != 3000 {
			t.Errorf("%d lines are accounted for, want 3000", got)
		}
	})
}

func TestLinesAreWrittenSoonAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{release: make(chan struct{})}
		close(w.release)
		logs := NewLogs(func(string) (io.WriteCloser, error) { return w, nil }, observe.NewRegistry())
		defer logs.Close()
		spec := &listener.AccessLog{Path: "p", Format: "%CONNECTION_ID%,"}
		if err := logs.Prepare([]*listener.AccessLog{spec}); err != nil {
			t.Fatal(err)
		}
		r := record()
		for i := range 3 {
			r.ConnID = uint64(i)
			logs.Get(spec).Write(r)
		}
		<-time.After(flushAfter + time.Millisecond)
		synctest.Wait()
		if got := w.b.String(); got != "0,1,2," {
			t.Errorf("got %q", got)
		}
	})
}

func TestFiltersAndBadFormats(t *testing.T) {
	w := &slowWriter{release: make(chan struct{})}
	close(w.release)
	logs := NewLogs(func(string) (io.WriteCloser, error) { return w, nil }, observe.NewRegistry())
	errorsOnly := &listener.AccessLog{Path: "p", Format: "e", StatusMin: 500}
	flagged := &listener.AccessLog{Path: "p", Format: "f", OnlyFlags: []string{"NR"}}
	several := &listener.AccessLog{Path: "p", Format: "s", OnlyFlags: []string{"UF", "URX"}}
	bad := &listener.AccessLog{Path: "p", Format: "%NO%"}
	if err := logs.Prepare([]*listener.AccessLog{errorsOnly, flagged, several, bad}); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
	for _, spec := range []*listener.AccessLog{errorsOnly, flagged, several, bad} {
		logs.Get(spec).Write(record())
	}
	spent := record()
	spent.Flag = "UC,URX" // of a request whose retries are spent
	logs.Get(several).Write(spent)
	logs.Close()
	if got := w.b.String(); got != "es" {
		t.Errorf("got %q", got)
	}
}

// A request may end when its listener and the log have gone.
func TestSinksOutliveTheirConfigurationByOne(t *testing.T) {
	w := &slowWriter{release: make(chan struct{})}
	close(w.release)
	opened := 0
	logs := NewLogs(func(string) (io.WriteCloser, error) { opened++; return w, nil }, observe.NewRegistry())
	defer logs.Close()
	spec := &listener.AccessLog{Path: "p", Format: "x"}
	for _, specs := range [][]*listener.AccessLog{{spec}, nil} {
		if err := logs.Prepare(specs); err != nil {
			t.Fatal(err)
		}
	}
	logs.Get(spec).Write(record())
	if err := logs.Prepare(nil); err != nil {
		t.Fatal(err)
	}
	if got := w.b.String(); got != "x" || opened != 1 {
		t.Errorf("%q is written, %d sinks were opened", got, opened)
	}
	if log := logs.Get(spec); log != nil {
		t.Error("the log is still there after two configurations without it")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(DefaultFormat)
	f.Add("%REQ(a?b):3% %% %START_TIME(%s%3f)%")
	f.Fuzz(func(t *testing.T, format string) {
		if parsed, err := Parse(format); err == nil {
			parsed.Append(nil, record())
		}
	})
}
