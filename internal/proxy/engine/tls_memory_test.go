package engine

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

const (
	idleClients     = 2000
	idleBytesMax    = 25_000 // of heap and stacks for one idle TLS connection
	idleClientsAt   = "TULLE_TEST_IDLE_CLIENTS_AT"
	idleClientsMany = "TULLE_TEST_IDLE_CLIENTS"
)

// TestIdleClientsOfAnotherProcess is the other process of the test below.
func TestIdleClientsOfAnotherProcess(t *testing.T) {
	at := os.Getenv(idleClientsAt)
	if at == "" {
		t.Skip("not started by TestIdleTLSConnectionsAreSmall")
	}
	n, err := strconv.Atoi(os.Getenv(idleClientsMany))
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		raw, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := readAnswer(bufio.NewReader(c)); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("all are idle")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is done
}

// An idle TLS connection costs what crypto/tls keeps and a small stack: no
// buffer, and none of the stack that its handshake needed.
func TestIdleTLSConnectionsAreSmall(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("memory is not itself under the race detector, and 2,000 handshakes take their time")
	}
	a := newAuthority(t)
	p := start(t, &setup{
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}, manager: &listener.HTTPManager{},
		chain: listener.Chain{TLS: &etls.ServerSpec{Certificates: []string{"default"}}},
		extra: func(p *generation.Parts) {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", cartID)}
			p.Listeners[0].Spec().InspectTLS = true
		},
	})
	used := func() uint64 {
		var m runtime.MemStats
		for range 4 { // stacks shrink by half in each collection
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleClientsOfAnotherProcess$")
	cmd.Env = append(os.Environ(), idleClientsAt+"="+p.addr(), idleClientsMany+"="+strconv.Itoa(idleClients))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	for line := ""; !strings.HasPrefix(line, "all are idle"); {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatalf("the other process: %v after %q", err, line)
		}
	}
	if n := p.Open(); n != idleClients {
		t.Errorf("%d connections are open", n)
	}
	each := (used() - before) / idleClients
	t.Logf("%d bytes each", each)
	if each > idleBytesMax {
		t.Errorf("%d bytes for each idle TLS connection, at most %d are wanted", each, idleBytesMax)
	}
	in.Close()
	_, _ = io.Copy(io.Discard, r)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
