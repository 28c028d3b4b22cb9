package driver1

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// TestPipelinedRequestsGiveWay: nothing but that takes time here.
func TestPipelinedRequestsGiveWay(t *testing.T) {
	const most = limit.RequestsPerTurn
	for n, want := range map[int]bool{most - 1: false, most: false, most + 1: true} {
		synctest.Test(t, func(t *testing.T) {
			h := &http1Conn{nLeft: 1} // the next request is here already
			began := time.Now()
			for range n {
				if !h.awaitRequest() {
					t.Fatal("a request that is here was not taken")
				}
			}
			if took := time.Since(began); took > 0 != want {
				t.Errorf("%d requests gave way for %v, want some time: %v", n, took, want)
			}
		})
	}
}
