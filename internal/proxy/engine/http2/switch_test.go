package http2

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// connect is the fields of an extended CONNECT, with more behind.
func connect(more ...string) []string {
	return append([]string{":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /chat", ":authority: a"}, more...)
}

func TestExtendedConnectIsReadAsAnUpgrade(t *testing.T) {
	const refused = "ACK, RST 1 PROTOCOL_ERROR"
	cases := []struct {
		name   string
		fields []string
		said   string
	}{
		{"as RFC 8441 §5.1 has it", connect("sec-websocket-version: 13"), "ACK"},
		{"content-length 0, which some send", connect("content-length: 0"), "ACK"},
		{"content-length 1", connect("content-length: 1"), refused},
		{"protocol with a version", append([]string{":protocol: tls/1.0"}, append([]string{":method: CONNECT"}, connect()[2:]...)...), "ACK"},
		{":protocol without CONNECT", append([]string{":method: GET"}, connect()[1:]...), refused},
		{"empty :protocol", append([]string{":protocol: ", ":method: CONNECT"}, connect()[2:]...), refused},
		{":protocol with a line of its own", append([]string{":protocol: a b", ":method: CONNECT"}, connect()[2:]...), refused},
		{"two :protocol", append([]string{":protocol: a"}, connect()...), refused},
		{"no :path", []string{":method: CONNECT", ":protocol: websocket", ":scheme: http", ":authority: a"}, refused},
		{"no :scheme", []string{":method: CONNECT", ":protocol: websocket", ":path: /", ":authority: a"}, refused},
		{"no :authority", []string{":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /"}, refused},
		{"upgrade beside it", connect("upgrade: websocket"), refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := begun(Options{ExtendedConnect: true})
			if _, err := s.Feed(fromClient().headers(1, 0, c.fields...).b, 1); err != nil {
				t.Fatal(err)
			}
			if got := said(t, s.out); got != c.said {
				t.Fatalf("got %s, want %s", got, c.said)
			}
			if c.said == refused {
				return
			}
			h := &s.opened[0].Head
			connection, _ := h.Get("connection")
			upgrade, _ := h.Get("upgrade")
			_, measured := h.Get("content-length")
			if string(h.Method) != "GET" || string(h.Path) != "/chat" || string(connection) != "upgrade" || measured ||
				string(upgrade) != string(s.opened[0].Protocol) || !strings.Contains("websocket tls/1.0", string(upgrade)) {
				t.Errorf("%s %s, connection %q, upgrade %q", h.Method, h.Path, connection, upgrade)
			}
		})
	}
}

func TestExtendedConnectIsAnnouncedOnlyWhenTaken(t *testing.T) {
	announced := "\x00\x08\x00\x00\x00\x01"
	for _, takes := range []bool{true, false} {
		if got := strings.Contains(string(NewSession(Options{ExtendedConnect: takes}).out), announced); got != takes {
			t.Errorf("taken %v, announced %v", takes, got)
		}
	}
}

// What the client's side says is read by the server's side.
func TestAnswersToExtendedConnect(t *testing.T) {
	for _, c := range []struct{ status, said int }{{101, 200}, {200, 200}, {403, 403}} {
		client, server := NewSession(Options{Role: Client}), NewSession(Options{ExtendedConnect: true})
		exchange := func() {
			for _, way := range [][2]*Session{{client, server}, {server, client}} {
				b := way[0].out
				way[0].out = nil
				if _, err := way[1].Feed(b, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
		exchange()
		st := client.open()
		client.sendRequest(st, &Part{Protocol: []byte("websocket"),
			Head: &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/chat"), Authority: []byte("a")}}, false)
		b := client.out
		client.out = nil
		if _, err := server.Feed(b, 1); err != nil || len(server.opened) != 1 {
			t.Fatalf("%d requests, %v", len(server.opened), err)
		}
		answer := &message.Head{Status: c.status}
		answer.SetString("content-length", "5")
		server.sendResponse(server.opened[0], answer, false)
		b = server.out
		server.out = nil
		if _, err := client.Feed(b, 1); err != nil {
			t.Fatal(err)
		}
		_, measured := st.Head.Get("content-length")
		if st.Head.Status != c.said || measured != (c.said == 403) || (st.declared >= 0) != measured {
			t.Errorf("%d came as %d, content-length %v, %d declared", c.status, st.Head.Status, measured, st.declared)
		}
	}
}
