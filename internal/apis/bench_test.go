package apis_test

import (
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
)

const oneFile = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: web, port: {number: 80}}}]
`

// A thousand files of one object each: what a folder costs at start.
func BenchmarkDecodeThousandFiles(b *testing.B) {
	for _, c := range []struct {
		name   string
		decode func() func(string, []byte, apis.Options) apis.Result
	}{
		{"tables shared", func() func(string, []byte, apis.Options) apis.Result { return apis.NewDecoder().Decode }},
		{"tables of each file's own", func() func(string, []byte, apis.Options) apis.Result { return apis.Decode }},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := []byte(oneFile)
			for b.Loop() {
				decode := c.decode()
				for range 1000 {
					if r := decode("web.yaml", text, apis.Options{}); len(r.Objects) != 1 || len(r.Problems) != 0 {
						b.Fatalf("%v", r.Problems)
					}
				}
			}
		})
	}
}
