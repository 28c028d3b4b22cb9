package traffic_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/held"
)

// The example of RFC 6455 §1.3.
const exampleKey, exampleAccept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// Between the sidecars a WebSocket is an extended CONNECT (RFC 8441), which the
// second has to let the first know that it takes.
func TestWebSocketsPassBetweenSidecarsOverHTTP2(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\nSec-WebSocket-Accept: "+exampleAccept+"\r\n\r\n")
		_ = rw.Flush()
		line, err := rw.ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(rw, "you said "+line)
		_ = rw.Flush()
	})
	const mesh = "h2UpgradePolicy: UPGRADE\naccessLogFile: /dev/stdout\naccessLogFormat: \"%PROTOCOL% %RESPONSE_CODE%\\n\"\n"
	number := held.Port(t, "127.0.0.2")
	objects := workload("127.0.0.2", number, plaintext, "http")
	second := start(t, mesh, objects, node{kind: "sidecar", at: "127.0.0.2", name: "web", appPorts: map[string]string{strconv.Itoa(number): at.String()}})
	first := start(t, mesh, objects, node{kind: "sidecar", at: "127.0.0.9", name: "caller", egress: map[string]string{webHost: webEgress}})
	c, err := net.Dial("tcp", first.at(t, webEgress))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+exampleKey+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != exampleAccept {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	c.Close()
	if got := second.logged(t); got != "HTTP/2 101" && got != "HTTP/2 200" {
		t.Errorf("between the sidecars: %q", got)
	}
}
