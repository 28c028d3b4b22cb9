package project_test

import (
	"testing"

	"github.com/tullemesh/tulle/internal/app/project"
)

func TestTransparentCapturesWhatItStarts(t *testing.T) {
	const text = `name: shop
services:
  web: {port: 8080, run: ./web}
  cart: {port: 8080, versions: {v1: {run: ./cart}, v2: {attach: "127.0.0.1:7001"}}}
  bare: {port: 8080, run: ./bare, capture: none}
  bank: {port: 80, run: ./bank, external: true}
`
	p, problems := project.Decode("tulle.yaml", []byte(text))
	if p == nil {
		t.Fatal(problems)
	}
	want := map[string]project.Capture{"web-v1": project.CaptureNetns, "cart-v1": project.CaptureNetns, "cart-v2": project.CaptureProxy, "bare-v1": project.CaptureNone, "bank-v1": project.CaptureNone}
	for _, w := range p.Transparent().Workloads() {
		if w.Version.Capture != want[w.Name] {
			t.Errorf("%s has capture %s, want %s", w.Name, w.Version.Capture, want[w.Name])
		}
	}
	for _, w := range p.Workloads() {
		if w.Version.Capture == project.CaptureNetns {
			t.Errorf("%s of the project itself has changed", w.Name)
		}
	}
}
