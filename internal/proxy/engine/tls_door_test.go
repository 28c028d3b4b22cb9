package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// door is a listener that terminates TLS in front of a repeater of bytes.
type door struct {
	*proxy
	s       *setup
	a       *authority
	secrets map[string]*etls.Secret
}

func newDoor(t testing.TB, inspect bool, spec etls.ServerSpec) *door {
	t.Helper()
	a := newAuthority(t)
	d := &door{a: a, secrets: map[string]*etls.Secret{"default": a.issue(t, "default", cartID), "ROOTCA": a.roots()}}
	spec.Certificates = []string{"default"}
	b := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	d.s = &setup{
		tcp:      &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "cart", Weight: 1}}, TotalWeight: 1},
		clusters: []*cluster.Spec{static("cart", b.at)}, chain: listener.Chain{TLS: &spec},
		extra: func(p *generation.Parts) {
			p.Secrets = d.secrets
			p.Listeners[0].Spec().InspectTLS = inspect
		},
	}
	if inspect {
		d.s.chain.Match.Transport = "tls"
	}
	d.proxy = start(t, d.s)
	return d
}

// enter says one byte through TLS and hears it again.
func (d *door) enter(t testing.TB, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	c.InsecureSkipVerify = true
	client := tls.Client(d.dial(t), c)
	defer client.Close()
	b := []byte{'x'}
	if _, err := client.Write(b); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadFull(client, b); err != nil {
		return tls.ConnectionState{}, err
	}
	return client.ConnectionState(), nil
}

// certificate is a client's, changed by edit.
func (a *authority) certificate(t testing.TB, spiffe string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	secret := a.issue(t, "client", spiffe)
	pair, err := tls.X509KeyPair(secret.Chain.Inline, secret.Key.Inline)
	if err != nil {
		t.Fatal(err)
	}
	if edit == nil {
		return pair
	}
	leaf := *pair.Leaf
	edit(&leaf)
	der, err := x509.CreateCertificate(rand.Reader, &leaf, a.cert, pair.Leaf.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate, pair.Leaf = [][]byte{der}, nil
	return pair
}

// revoking is the roots with a list of serials.
func (a *authority) revoking(t testing.TB, serials ...*big.Int) *etls.Secret {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	s := a.roots()
	s.CRL = etls.Data{Inline: pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})}
	return s
}

func TestClientCertificatesAreJudgedAsConfigured(t *testing.T) {
	require := etls.ServerSpec{Validation: "ROOTCA", RequireClientCert: true}
	old, err := match.Prefix("spiffe://old.domain/ns/shop/", match.CaseSensitive)
	if err != nil {
		t.Fatal(err)
	}
	named := require
	named.SANs = []match.String{match.Exact(otherID, match.CaseSensitive), old}
	optional := etls.ServerSpec{Validation: "ROOTCA"}
	for _, c := range []struct {
		name   string
		spec   etls.ServerSpec
		client func(*door) []tls.Certificate
		alert  string // "": let in
	}{
		{"required and shown", require, func(d *door) []tls.Certificate { return []tls.Certificate{d.a.certificate(t, otherID, nil)} }, ""},
		{"required and absent", require, func(*door) []tls.Certificate { return nil }, "certificate required"},
		{"required and of another authority", require, func(*door) []tls.Certificate {
			return []tls.Certificate{newAuthority(t).certificate(t, otherID, nil)}
		}, "bad certificate"},
		{"required and expired", require, func(d *door) []tls.Certificate {
			return []tls.Certificate{d.a.certificate(t, otherID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}
		}, "bad certificate"},
		{"required and not valid yet", require, func(d *door) []tls.Certificate {
			return []tls.Certificate{d.a.certificate(t, otherID, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}
		}, "bad certificate"},
		{"required and a server's", require, func(d *door) []tls.Certificate {
			return []tls.Certificate{d.a.certificate(t, otherID, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}
		}, "bad certificate"},
		{"named", named, func(d *door) []tls.Certificate { return []tls.Certificate{d.a.certificate(t, otherID, nil)} }, ""},
		{"named by an alias of the trust domain", named, func(d *door) []tls.Certificate {
			return []tls.Certificate{d.a.certificate(t, "spiffe://old.domain/ns/shop/sa/any", nil)}
		}, ""},
		{"not named", named, func(d *door) []tls.Certificate { return []tls.Certificate{d.a.certificate(t, cartID, nil)} }, "bad certificate"},
		{"optional and shown", optional, func(d *door) []tls.Certificate { return []tls.Certificate{d.a.certificate(t, otherID, nil)} }, ""},
		{"optional and absent", optional, func(*door) []tls.Certificate { return nil }, ""},
		{"optional and of another authority", optional, func(*door) []tls.Certificate {
			return []tls.Certificate{newAuthority(t).certificate(t, otherID, nil)}
		}, "bad certificate"},
		{"not asked for", etls.ServerSpec{}, func(*door) []tls.Certificate { return nil }, ""},
	} {
		d := newDoor(t, true, c.spec)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			_, err := d.enter(t, &tls.Config{Certificates: c.client(d), MinVersion: version, MaxVersion: version})
			want := c.alert
			if want == "certificate required" && version == tls.VersionTLS12 {
				want = "handshake failure" // RFC 5246 §7.4.6; the other alert came with TLS 1.3
			}
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v, want %q", c.name, tls.VersionName(version), err, want)
			}
		}
	}
}

func TestVersionsSuitesAndGroupsAreThoseConfigured(t *testing.T) {
	const gcm = "ECDHE-ECDSA-AES256-GCM-SHA384"
	for _, c := range []struct {
		name    string
		spec    etls.ServerSpec
		client  *tls.Config
		version uint16
		suite   uint16
		group   tls.CurveID
		fails   string
	}{
		{name: "the newest of all", version: tls.VersionTLS13, group: tls.X25519MLKEM768},
		{name: "a classic client", client: &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, version: tls.VersionTLS13, group: tls.X25519},
		{name: "an older client", client: &tls.Config{MaxVersion: tls.VersionTLS12}, version: tls.VersionTLS12},
		{name: "a client below the default minimum", client: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, fails: "protocol version not supported"},
		{name: "a client below the minimum", spec: etls.ServerSpec{MinVersion: tls.VersionTLS13}, client: &tls.Config{MaxVersion: tls.VersionTLS12}, fails: "protocol version not supported"},
		{name: "a maximum", spec: etls.ServerSpec{MaxVersion: tls.VersionTLS12}, version: tls.VersionTLS12},
		{name: "a suite", spec: etls.ServerSpec{MaxVersion: tls.VersionTLS12, CipherSuites: []string{gcm}}, version: tls.VersionTLS12, suite: tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
		{name: "no suite in common", spec: etls.ServerSpec{MaxVersion: tls.VersionTLS12, CipherSuites: []string{gcm}},
			client: &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}}, fails: "handshake failure"},
		{name: "a group", spec: etls.ServerSpec{Curves: []string{"P-256"}}, version: tls.VersionTLS13, group: tls.CurveP256},
		{name: "no group in common", spec: etls.ServerSpec{Curves: []string{"P-384"}}, client: &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, fails: "handshake failure"},
		{name: "no protocol in common", spec: etls.ServerSpec{ALPN: []string{"istio"}}, client: &tls.Config{NextProtos: []string{"spdy"}}, version: tls.VersionTLS13},
	} {
		d := newDoor(t, true, c.spec)
		config := c.client
		if config == nil {
			config = &tls.Config{}
		}
		state, err := d.enter(t, config)
		switch {
		case c.fails != "":
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v, want %q", c.name, err, c.fails)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case state.Version != c.version || c.suite != 0 && state.CipherSuite != c.suite || c.group != 0 && state.CurveID != c.group || state.NegotiatedProtocol != "":
			t.Errorf("%s: %s, %s, %s, protocol %q", c.name, tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID, state.NegotiatedProtocol)
		}
	}
}

// A resumed session is judged by the roots, lists and names of now, and tickets
// outlive generations.
func TestResumedSessionsAreJudgedAgain(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			name  string
			edit  func(d *door, serial *big.Int)
			enter bool
		}{
			{"nothing changed", func(*door, *big.Int) {}, true},
			{"another certificate of ours", func(d *door, _ *big.Int) { d.secrets["default"] = d.a.issue(t, "default", cartID) }, true},
			{"a list that names others", func(d *door, _ *big.Int) { d.secrets["ROOTCA"] = d.a.revoking(t, big.NewInt(4711)) }, true},
			{"revoked", func(d *door, serial *big.Int) { d.secrets["ROOTCA"] = d.a.revoking(t, serial) }, false},
			{"other roots", func(d *door, _ *big.Int) { d.secrets["ROOTCA"] = newAuthority(t).roots() }, false},
			{"other names", func(d *door, _ *big.Int) {
				spec := *d.s.chain.TLS
				spec.SANs = []match.String{match.Exact(cartID, match.CaseSensitive)}
				d.s.chain.TLS = &spec
			}, false},
		} {
			d := newDoor(t, true, etls.ServerSpec{Validation: "ROOTCA", RequireClientCert: true})
			pair := d.a.certificate(t, otherID, nil)
			config := &tls.Config{ServerName: "cart", Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(4), MinVersion: version, MaxVersion: version}
			for i := range 2 {
				state, err := d.enter(t, config)
				if err != nil || state.DidResume != (i > 0) {
					t.Fatalf("%s: resumed %v, %v", c.name, state.DidResume, err)
				}
			}
			d.secrets = map[string]*etls.Secret{"default": d.secrets["default"], "ROOTCA": d.secrets["ROOTCA"]} // a generation is immutable
			c.edit(d, pair.Leaf.SerialNumber)
			if err := d.Apply(d.s.config(t)); err != nil {
				t.Fatal(err)
			}
			state, err := d.enter(t, config)
			if (err == nil) != c.enter || err == nil && !state.DidResume {
				t.Errorf("%s, %s: resumed %v, %v", c.name, tls.VersionName(version), state.DidResume, err)
			}
		}
	}
}

// helloMessage is what a client sends first, without the records around it.
func helloMessage(t testing.TB, padTo int) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan []byte)
	go func() {
		b := make([]byte, 32<<10)
		n, _ := server.Read(b)
		server.Close()
		done <- b[5:n]
	}()
	_ = tls.Client(client, &tls.Config{ServerName: "cart", InsecureSkipVerify: true}).HandshakeContext(t.Context())
	client.Close()
	message := <-done
	if padTo == 0 {
		return message
	}
	// A padding extension (RFC 7685) at the end of the extensions.
	pad := padTo - len(message)
	message = binary.BigEndian.AppendUint16(append(message, 0, 21), uint16(pad-4))
	message = append(message, make([]byte, pad-4)...)
	size := len(message) - 4
	message[1], message[2], message[3] = byte(size>>16), byte(size>>8), byte(size)
	at := 4 + 2 + 32
	at += 1 + int(message[at])
	at += 2 + int(binary.BigEndian.Uint16(message[at:]))
	at += 1 + int(message[at])
	binary.BigEndian.PutUint16(message[at:], uint16(len(message)-at-2))
	return message
}

func records(message []byte, size int) []byte {
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = binary.BigEndian.AppendUint16(append(out, 22, 3, 1), uint16(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

// A ClientHello may come in any pieces, up to a limit where it is inspected.
func TestHellosInPiecesAndAtTheLimit(t *testing.T) {
	const serverHello = "\x16"
	for _, c := range []struct {
		name       string
		inspect    bool
		size, cut  int
		byteByByte bool
		want       string
	}{
		{"byte by byte", false, 0, 1 << 14, true, serverHello},
		{"byte by byte, inspected", true, 0, 1 << 14, true, serverHello},
		{"a record for each byte", false, 0, 1, false, serverHello},
		{"a record for each byte, inspected", true, 0, 1, false, serverHello},
		{"in three records", true, 0, 600, false, serverHello},
		{"one below the limit", true, limit.HelloBytesMax - 1, 1 << 14, false, serverHello},
		{"at the limit", true, limit.HelloBytesMax, 1 << 14, false, serverHello},
		{"one beyond the limit", true, limit.HelloBytesMax + 1, 1 << 14, false, ""},
	} {
		d := newDoor(t, c.inspect, etls.ServerSpec{})
		raw := records(helloMessage(t, c.size), c.cut)
		c1 := d.dial(t)
		if c.byteByByte {
			_ = c1.(*net.TCPConn).SetNoDelay(true)
			for i := range raw {
				if _, err := c1.Write(raw[i : i+1]); err != nil {
					t.Fatal(err)
				}
			}
		} else if _, err := c1.Write(raw); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1)
		n, err := c1.Read(got)
		if string(got[:n]) != c.want {
			t.Errorf("%s: %x, %v", c.name, got[:n], err)
		}
	}
}

// What is no TLS where TLS is needed gets an alert at most, and records beyond
// the limits of RFC 8446 §5.1 end the handshake.
func TestBrokenHandshakesEnd(t *testing.T) {
	d := newDoor(t, false, etls.ServerSpec{})
	for name, raw := range map[string]string{
		"HTTP":             get,
		"a record too big": "\x16\x03\x01\xff\xff" + strings.Repeat("a", 100),
		"endless hello":    string(records(append([]byte{1, 1, 0, 0}, make([]byte, 70_000)...), 1<<14)),
		"empty records":    strings.Repeat("\x16\x03\x01\x00\x00", 100),
		"alert":            "\x15\x03\x01\x00\x02\x02\x28",
		"application data": "\x17\x03\x03\x00\x05hello",
	} {
		c := d.dial(t)
		_, _ = io.WriteString(c, raw) // it may be refused midway
		got, _ := io.ReadAll(c)
		if len(got) > 0 && got[0] != 21 {
			t.Errorf("%s: answered %q", name, got)
		}
	}
	if d.enterFails(t) {
		t.Error("the listener does not go on")
	}
}

func (d *door) enterFails(t testing.TB) bool {
	_, err := d.enter(t, &tls.Config{})
	return err != nil
}

// Handshakes that stall end by the chain's timeout, and the oldest by the
// bound on all; who shakes hands properly comes in.
func TestStalledHandshakesEnd(t *testing.T) {
	d := newDoor(t, false, etls.ServerSpec{})
	d.s.chain.TransportTimeout = 100 * time.Millisecond
	if err := d.Apply(d.s.config(t)); err != nil {
		t.Fatal(err)
	}
	c := d.dial(t)
	if _, err := c.Write(records(helloMessage(t, 0), 1<<14)[:100]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a stalled handshake goes on: %v", err)
	}
	if d.enterFails(t) {
		t.Error("nobody comes in")
	}
}

// OpenSSL is a second implementation of all this.
func TestOpenSSLClients(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed")
	}
	d := newDoor(t, true, etls.ServerSpec{Validation: "ROOTCA", RequireClientCert: true})
	dir := t.TempDir()
	secret := d.a.issue(t, "client", otherID)
	for name, text := range map[string][]byte{"cert": secret.Chain.Inline, "key": secret.Key.Inline, "ca": d.a.pem} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(input, until string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", d.addr(), "-CAfile", "ca"}, args...)...)
		cmd.Dir = dir
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		seen := &watched{w: &out, until: until, found: func() { in.Close(); _ = cmd.Process.Kill() }}
		cmd.Stdout, cmd.Stderr = seen, seen
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(in, input)
		err = cmd.Wait()
		return out.String(), err
	}
	mine := []string{"-cert", "cert", "-key", "key"}
	for _, c := range []struct {
		name  string
		input string
		args  []string
		want  []string
	}{
		{"TLS 1.3", "echo me\n", append([]string{"-tls1_3"}, mine...), []string{"TLSv1.3", "Verify return code: 0 (ok)", "echo me"}},
		{"TLS 1.2", "echo me\n", append([]string{"-tls1_2"}, mine...), []string{"TLSv1.2", "Verify return code: 0 (ok)", "echo me"}},
		{"session saved", "echo me\n", append([]string{"-tls1_2", "-sess_out", "session"}, mine...), []string{"New, TLSv1.2", "echo me"}},
		{"session resumed", "echo me\n", append([]string{"-tls1_2", "-sess_in", "session"}, mine...), []string{"Reused, TLSv1.2", "echo me"}},
		{"TLS 1.1", "", append([]string{"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"}, mine...), []string{"alert protocol version"}},
		{"no certificate", "", []string{"-tls1_3"}, []string{"alert certificate required"}},
		{"renegotiation", "R\n", append([]string{"-tls1_2"}, mine...), []string{"RENEGOTIATING", "SSL routines"}},
	} {
		out, err := run(c.input, c.want[len(c.want)-1], c.args...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in the output (%v)\n%.9000s", c.name, want, err, out)
			}
		}
	}
}

// watched calls found when a text has been written.
type watched struct {
	w     *bytes.Buffer
	until string
	found func()
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if w.found != nil && strings.Contains(w.w.String(), w.until) {
		w.found()
		w.found = nil
	}
	return n, err
}
