package capture_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/agent/capture"
)

func TestEnvironmentOfCaptureProxy(t *testing.T) {
	got := capture.Environment(capture.Surroundings{
		Workload: "web-v1", Run: "/run/shop", Executable: "/bin/tulle", Proxy: netip.MustParseAddrPort("127.0.0.1:41101"),
		Upstreams: []capture.Upstream{
			{Service: "reviews", Address: netip.MustParseAddrPort("127.0.0.1:41102"), Scheme: "http"},
			{Service: "my-db.shop", Address: netip.MustParseAddrPort("127.0.0.1:41103")},
		},
		JVM: true, JavaOptions: "-Xmx1g",
	})
	want := map[string]string{
		"TULLE_WORKLOAD": "web-v1", "TULLE_RUN": "/run/shop", "TULLE": "/bin/tulle",
		"HTTP_PROXY": "http://127.0.0.1:41101", "http_proxy": "http://127.0.0.1:41101",
		"HTTPS_PROXY": "http://127.0.0.1:41101", "https_proxy": "http://127.0.0.1:41101",
		"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1", "NODE_USE_ENV_PROXY": "1",
		"JAVA_TOOL_OPTIONS":    "-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=41101 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=41101 -Dhttp.nonProxyHosts=localhost|127.*|[::1]",
		"REVIEWS_SERVICE_HOST": "127.0.0.1", "REVIEWS_SERVICE_PORT": "41102", "REVIEWS_URL": "http://127.0.0.1:41102",
		"MY_DB_SHOP_SERVICE_HOST": "127.0.0.1", "MY_DB_SHOP_SERVICE_PORT": "41103",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
}

func TestEnvironmentInANamespaceHasNoProxy(t *testing.T) {
	got := capture.Environment(capture.Surroundings{Workload: "web-v1", Run: "/run/shop", Executable: "/bin/tulle", JVM: true})
	if d := cmp.Diff(map[string]string{"TULLE_WORKLOAD": "web-v1", "TULLE_RUN": "/run/shop", "TULLE": "/bin/tulle"}, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
}

func TestJVMIsSeenInWordsAndLines(t *testing.T) {
	for line, want := range map[string]bool{
		"java -jar a.jar": true, "exec /usr/lib/jvm/bin/java -jar a.jar": true, "cd x && ./gradlew bootRun": true, "(mvn spring-boot:run)": true,
		"javac-server": false, "./javascript": false, "node java.js": false, "": false,
	} {
		if got := capture.StartsJVM(line); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
	if !capture.StartsJVM("/opt/jdk/bin/java", "-jar", "a.jar") {
		t.Error("java among words is not seen")
	}
}
