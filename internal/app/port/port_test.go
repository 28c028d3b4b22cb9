package port_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/app/port"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyLoopbackCannotBeReachedFromElsewhere(t *testing.T) {
	for address, want := range map[string]error{
		"127.0.0.1:0": nil, "127.9.9.9:80": nil, "[::1]:1": nil, "localhost:1": nil,
		"0.0.0.0:1": port.ErrNotLoopback, ":1": port.ErrNotLoopback, "[::]:1": port.ErrNotLoopback, "10.0.0.1:1": port.ErrNotLoopback, "example.com:1": port.ErrNotLoopback,
	} {
		if err := port.CheckLoopback(address); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", address, err, want)
		}
	}
	if err := port.CheckLoopback("127.0.0.1"); err == nil || errors.Is(err, port.ErrNotLoopback) {
		t.Errorf("no port: %v", err)
	}
}

func TestARequestUnderWayEndsBeforeThePortCloses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- port.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			stop()
			_, _ = io.WriteString(w, "whole")
		}))
	}()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "whole" {
		t.Errorf("%q %v", body, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAddressesAreTellableOneALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses")
	if err := port.WriteAddresses(path, "127.0.0.1:1", "", "127.0.0.1:2"); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "127.0.0.1:1\n\n127.0.0.1:2\n" {
		t.Errorf("%q %v", data, err)
	}
}
