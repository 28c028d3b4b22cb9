//go:build soak

package soak_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// lifetime is that of certificates in the test of their rotation, and
// poolEvery how often all connections between proxies are made anew.
const (
	lifetime  = 20 * time.Second
	poolEvery = 3 * time.Second
)

// pools are routes by subsets that are new each time: new clusters, so new
// connections, whose handshakes use the certificates of now.
func pools(generation int) string {
	text := ""
	for _, name := range []string{"front", "back"} {
		gateways, host := "[mesh]", name
		if name == "front" {
			gateways, host = "[soak]", `"*"`
		}
		text += fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s}
spec:
  host: %[1]s
  subsets:
  - {name: g%[2]d, labels: {app: %[1]s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %[1]s}
spec:
  hosts: [%[3]s]
  gateways: %[4]s
  http:
  - route:
    - destination: {host: %[1]s, subset: g%[2]d, port: {number: 8080}}
---
`, name, generation, host, gateways)
	}
	return text
}

func TestRotationOfCertificatesLosesNothing(t *testing.T) {
	m := up(t, "--certificate-ttl", lifetime.String())
	length := duration(t, 5*time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	proxies := []string{"front-v1.default", "back-v1.default", "istio-ingressgateway.istio-system"}
	serials := map[string]map[string]bool{}
	for _, p := range proxies {
		serials[p] = map[string]bool{}
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(poolEvery)
		defer tick.Stop()
		for generation := 1; ; generation++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			m.Write(t, "routes.yaml", pools(generation))
			for _, p := range proxies {
				if serial := leaf(ctx, m.Admin(p)); serial != "" {
					serials[p][serial] = true
				}
			}
		}
	}()
	counts := meshrun.Load{Address: m.Gateway, Connections: connections, Rate: rate, Request: mix}.Run(ctx)
	<-watched
	lossless(t, counts)
	enough(t, counts, length)
	want := int(length / lifetime)
	for _, p := range proxies {
		t.Logf("%s: %d certificates in %v", p, len(serials[p]), length)
		if len(serials[p]) < want {
			t.Errorf("%s had only %d certificates in %v, want %d at least", p, len(serials[p]), length, want)
		}
	}
}

// leaf is the serial number of the workload certificate that a proxy uses.
func leaf(ctx context.Context, admin string) string {
	var all struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if app.Fetch(ctx, admin, "/certs", &all) != nil {
		return ""
	}
	for _, c := range all.Certificates {
		if len(c.Chain) > 0 {
			return c.Chain[0].Serial
		}
	}
	return ""
}
