package http1

import (
	"slices"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

func listFields(h *message.Head) (out []string) {
	for _, f := range h.Fields() {
		if len(f.Name) > 0 {
			out = append(out, string(f.Name)+": "+string(f.Value))
		}
	}
	return out
}

// What is accepted as trailers is the same when it is written and read again,
// holds nothing that frames or routes, and ends where it ends.
func FuzzTrailers(f *testing.F) {
	for _, seed := range []string{"\r\n", "X: y\r\n\r\n", "grpc-status: 0\r\ngrpc-message: a%20b\r\n\r\n", "Content-Length: 1\r\n\r\n", "X:\r\nX: \t\xe9\r\n\r\n", "TE: trailers\r\n\r\n", "x-envoy-a: b\r\n\r\n", "X: a\r\n b\r\n\r\n", "X: a\n\r\n", "Keep-Alive: 5\r\n\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		decode := func(raw string) (*message.Head, string, error) {
			var b Body
			b.StartRequest(&Framing{Length: -1, Chunked: true})
			_, rest, err := readBody(&b, "0\r\n"+raw, len(raw)+3)
			if err == nil && !b.Done() {
				err = ErrMore
			}
			var h message.Head
			if err == nil {
				err = b.Trailers(Limits{}, &h)
			}
			return &h, rest, err
		}
		h, rest, err := decode(raw)
		if err != nil {
			return
		}
		fields := listFields(h)
		for _, field := range fields {
			if name, _, _ := strings.Cut(field, ":"); !message.MayTrail(name) {
				t.Fatalf("%q gives %q", raw, field)
			}
		}
		again, left, err := decode(strings.TrimPrefix(string(AppendLastChunk(nil, h)), "0\r\n") + rest)
		if err != nil || left != rest || !slices.Equal(listFields(again), fields) {
			t.Fatalf("%q: %q, then %q with %q left, %v", raw, fields, listFields(again), left, err)
		}
	})
}
