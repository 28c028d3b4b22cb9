package xdsclient_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/wire"
)

// filled runs a client with a cache against a server until all is on disk, and
// returns the rig with both stopped.
func filled(t *testing.T) *rig {
	r := newRig(t)
	r.opts.CacheDir = t.TempDir()
	r.startServer()
	r.set(wire.ClusterType, "a", "1")
	r.set(wire.ClusterType, "b", "1")
	r.set(wire.EndpointType, "a", "ea")
	r.set(wire.EndpointType, "b", "eb")
	r.set(wire.SecretType, "key", "private")
	r.publish()
	r.startClient(true, wire.ClusterType)
	r.client.Subscribe(wire.SecretType, "key")
	r.consumer.told()
	<-time.After(2 * time.Second)
	r.stopClient()
	r.stopServer()
	return r
}

func TestStartsFromDiskWithoutServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := filled(t)
		r.startClient(true, wire.ClusterType)
		r.expect("Cluster stored a=1 b=1", "ClusterLoadAssignment stored a=ea b=eb")

		// The server comes back with one change: only that is sent.
		r.startServer()
		r.set(wire.EndpointType, "b", "eb2")
		r.world.Unset(wire.ClusterType, "a")
		r.publish()
		<-time.After(20 * time.Second)
		got := r.consumer.told()
		if !strings.Contains(got, "ClusterLoadAssignment b=eb2") || !strings.Contains(got, "Cluster -a") || strings.Contains(got, "b=1") {
			t.Errorf("told:\n%s", got)
		}
	})
}

func TestSecretsStayOffDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := filled(t)
		files, err := filepath.Glob(filepath.Join(r.opts.CacheDir, "*"))
		if err != nil || len(files) != 2 {
			t.Fatalf("files %v, %v", files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte("private")) {
				t.Errorf("%s holds the secret", f)
			}
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v, %v", f, info.Mode(), err)
			}
		}
	})
}

func TestStoredFilesThatAreRefused(t *testing.T) {
	damage := func(at int) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if at < 0 {
				at += len(b)
			}
			b[at] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	truncate := func(n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		harm func(t *testing.T, path string)
		node string
		want string
	}{
		"a bit of the content":  {harm: damage(60), want: "damaged (checksum)"},
		"a bit of the checksum": {harm: damage(-1), want: "damaged (checksum)"},
		"another version":       {harm: damage(0), want: "not of this version"},
		"cut short":             {harm: truncate(70), want: "damaged (checksum)"},
		"empty":                 {harm: truncate(0), want: "not of this version"},
		"readable by others": {harm: func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, want: "others may access it (mode 0644, want 0600)"},
		"another node": {node: "sidecar~127.0.0.1~other.shop~shop.svc.cluster.local", want: `it is of node \"sidecar~127.0.0.1~web.shop`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := filled(t)
				path := filepath.Join(r.opts.CacheDir, "envoy.config.cluster.v3.Cluster.xds")
				if tt.harm != nil {
					tt.harm(t, path)
				}
				if tt.node != "" {
					r.opts.Node.Id = tt.node
				}
				var log bytes.Buffer
				r.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
				r.startClient(false, wire.ClusterType)
				got := r.consumer.told()
				r.stopClient()
				if strings.Contains(got, "Cluster stored") {
					t.Errorf("the file was used: %s", got)
				}
				if s := log.String(); !strings.Contains(s, tt.want) || !strings.Contains(s, path) {
					t.Errorf("log names neither reason nor file: %s", s)
				}
			})
		})
	}
}

func TestStoredResourceThatIsRefusedNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := filled(t)
		r.startServer()
		r.world.PublishAll(r.server)
		r.startClient(false)
		r.consumer.mu.Lock()
		r.consumer.refuse["eb"] = "no longer valid"
		r.consumer.mu.Unlock()
		r.consumer.told()
		for _, ts := range r.client.Status().Types {
			if ts.Type == wire.EndpointType && (ts.Resources == 2) == (len(ts.Rejected) > 0) {
				t.Errorf("%+v", ts)
			}
		}
	})
}
