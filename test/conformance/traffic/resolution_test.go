package traffic_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// A ServiceEntry without resolution leaves the address to the caller; its targetPort says where there the service is.
func TestCallersAddressesAreReachedAtTheTargetPort(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "reached") })
	const egress = "127.0.0.22:0"
	p := start(t, "", fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: direct, namespace: demo}, spec: {hosts: [direct.example.com], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP, targetPort: %d}]}}`, at.Port()),
		node{kind: "sidecar", at: "127.0.0.21", name: "caller", egress: map[string]string{"direct.example.com:80": egress}})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.at(t, egress), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "127.0.0.1:1"
	resp, err := client(t, false).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "reached" {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
}
