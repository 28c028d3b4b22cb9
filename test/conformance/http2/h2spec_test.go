//go:build conformance

package http2_test

import (
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/program"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// cases is how many cases h2spec 2.2.1 has with --strict.
const cases = 146

// h2spec is the suite's program.
func h2spec(t *testing.T) string {
	t.Helper()
	return program.Need(t, "H2SPEC", filepath.Join("..", "..", "h2spec.sh"))
}

// echo is an origin of net/http that speaks both versions without TLS.
func echo(t *testing.T) string {
	t.Helper()
	return origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // an answer before the end makes what is malformed later late
		_, _ = w.Write([]byte("hello\n"))
	}))
}

func origin(t *testing.T, h http.Handler) string {
	t.Helper()
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &both
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// report is what h2spec writes for JUnit.
type report struct {
	Suites []struct {
		Package  string `xml:"package,attr"`
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Skipped  int    `xml:"skipped,attr"`
		Errors   int    `xml:"errors,attr"`
		Cases    []struct {
			Name    string  `xml:"package,attr"`
			Class   string  `xml:"classname,attr"`
			Failure *string `xml:"failure"`
			Error   *string `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func TestH2spec(t *testing.T) {
	suite := h2spec(t)
	be := echo(t)
	own := proxyrun.NewAuthority(t).Issue(t, "web", "localhost")
	p := proxyrun.Start(t, tulle, proxyrun.Bootstrap([]proxyrun.Listener{
		// A connection that does not begin with the preface is HTTP/1.1 to a listener that may speak both, and HTTP/2 gone wrong to others.
		{Name: "plain", Manager: proxyrun.Object{"codec_type": "HTTP2"}},
		{Name: "tls", TLS: own},
		{Name: "upstream2", Manager: proxyrun.Object{"codec_type": "HTTP2"}, Routes: []proxyrun.Object{proxyrun.Forward("/", "two", nil)}},
	}, []proxyrun.Cluster{{Name: "be", To: []string{be}}, {Name: "two", To: []string{be}, HTTP2: true}}))
	for _, listener := range []string{"plain", "tls", "upstream2"} {
		t.Run(listener, func(t *testing.T) {
			host, port, err := net.SplitHostPort(p.At(t, listener))
			if err != nil {
				t.Fatal(err)
			}
			place := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"--strict", "--host", host, "--port", port, "--timeout", "5", "--junit-report", place}
			if listener == "tls" {
				args = append(args, "--tls", "--insecure")
			}
			said, _ := exec.CommandContext(t.Context(), suite, args...).CombinedOutput() // its code tells less than the report
			data, err := os.ReadFile(place)
			if err != nil {
				t.Fatalf("no report: %v\n%s", err, said)
			}
			var r report
			if err := xml.Unmarshal(data, &r); err != nil {
				t.Fatal(err)
			}
			tests, skipped := 0, 0
			for _, s := range r.Suites {
				tests, skipped = tests+s.Tests, skipped+s.Skipped
				for _, c := range s.Cases {
					for _, why := range []*string{c.Failure, c.Error} {
						if why != nil {
							t.Errorf("%s %s %s: %s", s.Package, c.Name, c.Class, *why)
						}
					}
				}
				if s.Errors+s.Failures > 0 {
					t.Errorf("%s: %d failures, %d errors", s.Package, s.Failures, s.Errors)
				}
			}
			if tests != cases || skipped != 0 {
				t.Errorf("%d cases, %d skipped; the suite has %d", tests, skipped, cases)
			}
		})
	}
}
