package tls

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestVerifiedChainsAreRememberedUpToTheirLimit(t *testing.T) {
	now := time.Now()
	v := &verifier{}
	key := func(i int) [sha256.Size]byte { return sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i))) }
	for i := range limit.PassedChainsMax {
		v.pass(key(i), now.Add(time.Minute))
		if i >= limit.PassedChainsMax-2 && !v.hasPassed(key(0), now) {
			t.Errorf("with %d chains the first is forgotten", i+1)
		}
	}
	v.pass(key(limit.PassedChainsMax+1), now.Add(time.Minute))
	if n := len(v.passed); n > limit.PassedChainsMax || !v.hasPassed(key(limit.PassedChainsMax+1), now) {
		t.Errorf("%d chains are remembered, the newest: %t", n, v.hasPassed(key(limit.PassedChainsMax+1), now))
	}
	if v.hasPassed(key(limit.PassedChainsMax+1), now.Add(time.Hour)) {
		t.Error("a chain passes after its time")
	}
}
