package call

import (
	"encoding/base64"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// The example of RFC 6455 §1.3.
func TestTheAnswerToAKeyOfWebSocket(t *testing.T) {
	const key, want = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	if got := AcceptOf(key); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	req, res := &message.Head{}, &message.Head{}
	if AcceptFor(req, res); res.Len() != 0 {
		t.Error("an answer to no key")
	}
	req.SetString("sec-websocket-key", key)
	if AcceptFor(req, res); !has(res, want) {
		t.Error("no answer to the key")
	}
	res.SetString("sec-websocket-accept", "the endpoint's")
	if AcceptFor(req, res); !has(res, "the endpoint's") {
		t.Error("the endpoint's answer is replaced")
	}
}

func has(h *message.Head, want string) bool {
	got, present := h.Get("sec-websocket-accept")
	return present && string(got) == want
}

func TestAKeyIsAskedForWhereTheClientSentNone(t *testing.T) {
	cases := []struct {
		name, protocol, theirs string
		ours                   bool
	}{
		{"none", "websocket", "", true},
		{"the client's", "websocket", "dGhlIHNhbXBsZSBub25jZQ==", false},
		{"another protocol", "chat", "", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var w WebSocketKey
			req := &message.Head{}
			if c.theirs != "" {
				req.SetString("sec-websocket-key", c.theirs)
			}
			w.Begin(req, []byte(c.protocol))
			key, _ := req.Get("sec-websocket-key")
			if raw, err := base64.StdEncoding.DecodeString(string(key)); c.ours && (err != nil || len(raw) != 16) {
				t.Errorf("the key %q is none of 16 bytes", key)
			} else if !c.ours && string(key) != c.theirs {
				t.Errorf("the key becomes %q", key)
			}
			if w.Accepted(&message.Head{}) == c.ours {
				t.Errorf("without an answer it is accepted: %t", !c.ours)
			}
			sent := string(key)
			w.Begin(req, []byte(c.protocol)) // another attempt
			if again, _ := req.Get("sec-websocket-key"); string(again) != sent {
				t.Errorf("another attempt has the key %q", again)
			}
			res := &message.Head{}
			res.SetString("sec-websocket-accept", AcceptOf(sent))
			if c.ours && (!w.Accepted(res) || res.Len() != 0) {
				t.Error("the right answer is refused, or told to the client")
			}
		})
	}
}
