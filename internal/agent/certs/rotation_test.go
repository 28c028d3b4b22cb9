package certs_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// A certificate of 20 seconds is renewed for five minutes, and at no moment is
// the published one missing or expired.
func TestShortCertificatesRotateWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		defer m.stop()
		k, stop := run(t, m.options())
		defer stop()
		synctest.Wait()
		seen := map[string]bool{}
		for begin := time.Now(); time.Since(begin) < 5*time.Minute; {
			b := k.Current()
			if b == nil {
				t.Fatalf("no certificate after %s", time.Since(begin))
			}
			if err := b.Verify(time.Now()); err != nil {
				t.Fatalf("after %s: %v", time.Since(begin), err)
			}
			seen[b.Certificate().Leaf.SerialNumber.String()] = true
			<-time.After(100 * time.Millisecond)
			synctest.Wait()
		}
		// Renewed each 9 to 11 seconds.
		if n := len(seen); n < 27 || n > 34 {
			t.Errorf("%d certificates in five minutes, want 27 to 34", n)
		}
	})
}
