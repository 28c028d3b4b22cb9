// Package dataplane runs one proxy: the static resources of a bootstrap, an
// xDS client, the compiler, the engine, the admin port, and what stands beside
// a workload (its certificate, its names). It is what the sidecar image carries,
// so it reaches no room of the control plane and neither Kubernetes' nor
// Istio's API (test/arch holds that).
//
// In come Options; out go traffic and answers at the admin port. A Proxy owns
// the resources that it was given, its engine the live state. Read proxy.go
// first.
package dataplane
