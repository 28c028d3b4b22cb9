//go:build soak

package soak_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// The plaintext load on front's sidecar, past the gateway.
const (
	plainConnections = 16
	plainRate        = 160
)

// drainMax bounds the life of a plaintext connection after the switch.
const drainMax = 10 * time.Second

func TestSwitchToStrictDrainsPlaintextAlone(t *testing.T) {
	m := up(t)
	inbound := m.Inbound(t, "front-v1")
	m.Write(t, "mtls.yaml", mtls("PERMISSIVE"))
	m.Await(t, 5*time.Second, "plaintext is admitted", func() bool { return meshrun.OK(t.Context(), "http://"+inbound+"/") })
	length := duration(t, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()

	mutual := make(chan meshrun.Counts, 1)
	go func() {
		mutual <- meshrun.Load{Address: m.Gateway, Connections: connections, Rate: rate, Request: mix}.Run(ctx)
	}()
	var strict atomic.Bool
	var early, wrong atomic.Int64
	plain := make(chan meshrun.Counts, 1)
	go func() {
		plain <- meshrun.Load{Address: inbound, Connections: plainConnections, Rate: plainRate, Once: true,
			Request: func(int, int) meshrun.Request { return meshrun.Request{Path: "/", Host: "front:8080"} },
			Seen: func(a meshrun.Answer) {
				if a.Err != nil && !strict.Load() {
					early.Add(1)
				}
				if a.Err == nil && a.Status != http.StatusOK {
					wrong.Add(1)
				}
			}}.Run(ctx)
	}()

	half := time.NewTimer(length / 2)
	defer half.Stop()
	<-half.C
	strict.Store(true)
	switched := time.Now()
	m.Write(t, "mtls.yaml", mtls("STRICT"))
	var p meshrun.Counts
	m.Await(t, drainMax, "every plaintext connection has ended", func() bool {
		select {
		case p = <-plain:
			return true
		default:
			return false
		}
	})
	t.Logf("plaintext: %v; all ended %v after the switch", p, time.Since(switched).Round(time.Millisecond))
	if p.Closed != plainConnections || early.Load() != 0 || wrong.Load() != 0 {
		t.Errorf("%d of %d plaintext connections ended, %d before the switch, %d answers were not 200; first: %v", p.Closed, plainConnections, early.Load(), wrong.Load(), p.Errors)
	}
	if meshrun.OK(t.Context(), "http://"+inbound+"/") {
		t.Error("plaintext is still admitted under STRICT")
	}
	c := <-mutual
	lossless(t, c)
	enough(t, c, length)
}
