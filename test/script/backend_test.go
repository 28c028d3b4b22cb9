package script_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	appport "github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// page is what a browser runs.
//
//go:embed testdata/clients/page.html
var page []byte

// runBackend is the program `backend FILE`: what real clients reach through
// the proxy. It tells its address in FILE.
func runBackend(ctx context.Context, args []string, std call.Streams) int {
	if err := serveBackend(ctx, args); err != nil {
		fmt.Fprintln(std.Err, "error:", err)
		return call.Failure
	}
	return call.OK
}

func serveBackend(ctx context.Context, args []string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := appport.WriteAddresses(args[0], l.Addr().String()); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/trailers", trailers)
	mux.HandleFunc("/ws", webSocket)
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.txt", time.Unix(0, 0), strings.NewReader("0123456789abcdef"))
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})
	mux.HandleFunc("/wait", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/report", func(_ http.ResponseWriter, r *http.Request) {
		if text, err := io.ReadAll(r.Body); err == nil {
			_ = keyfile.Replace("report", text)
		}
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "no room", http.StatusRequestEntityTooLarge)
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return s.Close()
	}
}

// echo tells what arrived: method, what the client spoke, length and hash of
// the body, and the trailer that came after it.
func echo(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "host": r.Host, "proto": r.Header.Get("X-Forwarded-Proto"), "bytes": n, "sum": fmt.Sprintf("%x", sum.Sum(nil)), "trailer": r.Trailer.Get("X-After")})
}

// stream sends five lines, each when it is there.
func stream(w http.ResponseWriter, _ *http.Request) {
	for i := range 5 {
		fmt.Fprintf(w, "line %d\n", i)
		_ = http.NewResponseController(w).Flush()
	}
}

func trailers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Trailer", "X-After")
	_, _ = io.WriteString(w, "body\n")
	w.Header().Set("X-After", "the end")
}

// webSocket answers each message with itself (RFC 6455 §5), without
// extensions; frames of at most 64 KiB.
func webSocket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "a WebSocket lives here", http.StatusUpgradeRequired)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	proof := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 §4.2.2
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(proof[:]))
	for err = rw.Flush(); err == nil; err = rw.Flush() {
		if err = echoFrame(rw); err != nil {
			_ = rw.Flush()
			return
		}
	}
}

var errClosed = errors.New("the client has closed")

func echoFrame(rw *bufio.ReadWriter) error {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return err
	}
	n := uint64(head[1] & 0x7f)
	if n > 125 {
		var long [8]byte
		size := 2
		if n == 127 {
			size = 8
		}
		if _, err := io.ReadFull(rw, long[8-size:]); err != nil {
			return err
		}
		n = binary.BigEndian.Uint64(long[:])
	}
	masked := make([]byte, 4+min(n, 64<<10))
	if _, err := io.ReadFull(rw, masked); err != nil {
		return err
	}
	body := masked[4:]
	for i := range body {
		body[i] ^= masked[i%4]
	}
	opcode := head[0] & 0x0f
	const ping, pong, closing = 9, 10, 8
	if opcode == ping {
		opcode = pong
	}
	answer := []byte{head[0]&0x80 | opcode}
	if len(body) > 125 {
		answer = binary.BigEndian.AppendUint16(append(answer, 126), uint16(len(body)))
	} else {
		answer = append(answer, byte(len(body)))
	}
	if _, err := rw.Write(append(answer, body...)); err != nil {
		return err
	}
	if opcode == closing {
		return errClosed
	}
	return nil
}

// certificate CHAIN KEY: writes a certificate for localhost and the first addresses of loopback that
// is its own root.
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// fill FILE: replaces $NAME in a file by the environment variable, and
// $NAME_PORT by the port of the address in $NAME.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), func(name string) string {
		if of, ok := strings.CutSuffix(name, "_PORT"); ok {
			return ts.Getenv(of)[strings.LastIndexByte(ts.Getenv(of), ':')+1:]
		}
		return ts.Getenv(name)
	})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// listener NAME VARIABLE: sets a variable to the address at which a listener
// of the proxy at $ADMIN accepts.
func listener(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, "listener "+args[0]+" is not bound", func() bool {
		resp, err := http.Get("http://" + ts.Getenv("ADMIN") + "/listeners")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		for line := range bytes.Lines(text) {
			if name, at, ok := strings.Cut(strings.TrimSpace(string(line)), "::"); ok && name == args[0] {
				ts.Setenv(args[1], at)
				return err == nil
			}
		}
		return false
	})
}
