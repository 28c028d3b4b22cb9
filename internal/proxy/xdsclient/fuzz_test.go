package xdsclient

import (
	"testing"

	"github.com/tullemesh/tulle/internal/wire"
)

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add(snapshot{typeURL: wire.ClusterType, nodeID: "n", names: []string{"*"}, resources: []*wire.Resource{
		wire.PackResource("a", wire.ClusterType, []byte("1")), wire.PackResource("b", wire.ClusterType, nil),
	}}.encode())
	f.Add([]byte(diskMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSnapshot(b)
		if err != nil {
			return
		}
		again, err := decodeSnapshot(s.encode())
		if err != nil || again.typeURL != s.typeURL || len(again.resources) != len(s.resources) {
			t.Fatalf("what was read can't be written: %v", err)
		}
	})
}

func FuzzFirstField(f *testing.F) {
	f.Add([]byte("\n\x01a\x12\x01b"))
	f.Fuzz(func(_ *testing.T, b []byte) { firstField(b) })
}
