package message

import "testing"

func TestTrailersThatCouldDeceiveMayNotStand(t *testing.T) {
	for name, may := range map[string]bool{
		"grpc-status": true, "grpc-message": true, "x-request-id": true, "x-sum": true, "server-timing": true, "x-forwarded": true, "x-env": true,
		"content-length": false, "transfer-encoding": false, "host": false, "authorization": false, "set-cookie": false, "trailer": false, "te": false,
		"forwarded": false, "x-forwarded-for": false, "x-forwarded-client-cert": false, "x-envoy-peer-metadata": false,
	} {
		if MayTrail(name) != may {
			t.Errorf("%s: %v", name, !may)
		}
	}
}
