package certs_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/agent/certs"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
)

// pass lets virtual time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func serial(b *identity.Bundle) string { return b.Certificate().Leaf.SerialNumber.String() }

// A certificate of 20 seconds is renewed for five minutes, and at no moment is
// the published one missing or expired.
func TestShortCertificatesRotateWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		defer m.stop()
		k, stop := run(t, m.options())
		defer stop()
		synctest.Wait()
		seen := map[string]bool{}
		keys := map[string]bool{}
		for begin := time.Now(); time.Since(begin) < 5*time.Minute; {
			b := k.Current()
			if b == nil {
				t.Fatalf("no certificate after %s", time.Since(begin))
			}
			if err := b.Verify(time.Now()); err != nil {
				t.Fatalf("after %s: %v", time.Since(begin), err)
			}
			if left := time.Until(b.NotAfter); left < 8*time.Second {
				t.Fatalf("after %s only %s are left", time.Since(begin), left)
			}
			seen[serial(b)] = true
			keys[string(b.Key.PEM())] = true
			pass(100 * time.Millisecond)
		}
		// Renewed each 9 to 11 seconds, each time with a new key.
		if n := len(seen); n < 27 || n > 34 || len(keys) != n {
			t.Errorf("%d certificates with %d keys in five minutes, want 27 to 34", n, len(keys))
		}
	})
}

// The token is for the first certificate only; renewals show the current one.
// Watchers learn of each.
func TestRenewalNeedsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		options := m.options()
		token := options.Token
		var asked atomic.Int32
		options.Token = func(ctx context.Context) (identity.Token, error) {
			asked.Add(1)
			return token(ctx)
		}
		k, stop := run(t, options)
		defer stop()
		changes := k.Watch(t.Context())
		<-changes
		first := serial(k.Current())
		begin := time.Now()
		<-changes
		if waited := time.Since(begin); waited < 26*time.Minute || waited > 34*time.Minute {
			t.Errorf("renewed after %s of an hour", waited)
		}
		if serial(k.Current()) == first || asked.Load() != 1 {
			t.Errorf("same certificate: %t, tokens used: %d", serial(k.Current()) == first, asked.Load())
		}
	})
}

func TestFleetThatStartsTogetherDoesNotRenewTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		var keepers []*certs.Keeper
		for range 20 {
			k, stop := run(t, m.options())
			defer stop()
			keepers = append(keepers, k)
		}
		synctest.Wait()
		first := map[*certs.Keeper]string{}
		for _, k := range keepers {
			first[k] = serial(k.Current())
		}
		minutes := map[int]int{}
		for minute := range 40 {
			pass(time.Minute)
			for _, k := range keepers {
				if now := serial(k.Current()); now != first[k] {
					first[k] = now
					minutes[minute]++
				}
			}
		}
		if len(minutes) < 4 {
			t.Errorf("20 keepers renewed in these minutes: %v", minutes)
		}
	})
}

// The control plane is gone for longer than a renewal, the certificate stays;
// when it is back, the certificate is renewed soon.
func TestControlPlaneOutageKeepsTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		k, stop := run(t, m.options())
		defer stop()
		synctest.Wait()
		first := k.Current()
		pass(20 * time.Minute)
		m.stop()
		pass(25 * time.Minute)
		if k.Current() != first {
			t.Fatal("another certificate without a control plane")
		}
		m.start()
		defer func() { m.stop() }()
		pass(time.Minute)
		if k.Current() == first {
			t.Error("not renewed a minute after the control plane was back")
		}
	})
}

// Past its end the certificate stays published, for peers to judge, and the
// token brings the next one: an expired certificate is not shown.
func TestCertificateThatExpiredInAnOutageIsReplacedByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		k, stop := run(t, m.options())
		defer stop()
		synctest.Wait()
		m.stop()
		pass(10 * time.Minute)
		expired := k.Current()
		if expired == nil || !errors.Is(expired.Verify(time.Now()), identity.ErrExpired) {
			t.Fatalf("after the outage: %v", expired)
		}
		m.start()
		defer func() { m.stop() }()
		pass(5 * time.Second)
		if b := k.Current(); b == expired || b.Verify(time.Now()) != nil {
			t.Error("no new certificate five seconds after the outage")
		}
	})
}

// A control plane with a new root does not know our certificate. The token
// does it, provided that the new root was handed out.
func TestNewRootIsJoinedByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newMesh(t, time.Hour)
		defer old.stop()
		next := newMesh(t, time.Hour)
		defer next.stop()
		roots := append(old.authority.Roots(), next.authority.Roots()...)
		var serving atomic.Pointer[mesh]
		serving.Store(old)
		var refused atomic.Int32
		k, stop := run(t, certs.Options{
			ID: cart(),
			Authority: authority(func(ctx context.Context, csr []byte, credential certs.Credential) ([]string, error) {
				chain, err := serving.Load().client(roots).Create(ctx, csr, 0, credential)
				if err != nil && credential.Certificate != nil {
					refused.Add(1)
				}
				return chain, err
			}),
			Token: func(context.Context) (identity.Token, error) { return serving.Load().tokens.Issue(cart(), 0) },
		})
		defer stop()
		synctest.Wait()
		if string(k.Current().Roots) != string(old.authority.Roots()) {
			t.Fatal("the first certificate is not of the first mesh")
		}
		serving.Store(next)
		pass(40 * time.Minute)
		if string(k.Current().Roots) != string(next.authority.Roots()) {
			t.Error("the certificate is not of the new mesh")
		}
		if refused.Load() != 1 {
			t.Errorf("the foreign certificate was refused %d times, want once", refused.Load())
		}
	})
}

// A laptop sleeps: timers stand still, the wall clock does not. Soon after it
// wakes the certificate, aged or expired, is renewed.
func TestSleepOfTheMachineIsNoticed(t *testing.T) {
	for name, slept := range map[string]time.Duration{"half of the life": 35 * time.Minute, "beyond the end": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sleep atomic.Int64
				m := newMeshAt(t, time.Hour, func() time.Time { return time.Now().Add(time.Duration(sleep.Load())) })
				defer func() { m.stop() }()
				k, stop := run(t, m.options())
				defer stop()
				synctest.Wait()
				first := k.Current()
				sleep.Store(int64(slept))
				pass(31 * time.Second)
				if b := k.Current(); b == first || b.Verify(m.now()) != nil {
					t.Errorf("31 seconds after the machine woke the certificate is %s", k.Current())
				}
			})
		})
	}
}

func TestRefusedTokenIsTriedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		options := m.options()
		good := options.Token
		var asked atomic.Int32
		var allowed atomic.Bool
		options.Token = func(ctx context.Context) (identity.Token, error) {
			asked.Add(1)
			if allowed.Load() {
				return good(ctx)
			}
			return identity.NewToken("wrong"), nil
		}
		k, stop := run(t, options)
		defer stop()
		pass(5 * time.Minute)
		if k.Current() != nil {
			t.Fatal("a certificate for a wrong token")
		}
		// Doubling from 0.2 s to 30 s, varied by a half: about 18 attempts.
		if n := asked.Load(); n < 12 || n > 30 {
			t.Errorf("%d attempts in five minutes, want 12 to 30", n)
		}
		allowed.Store(true)
		pass(time.Minute)
		if k.Current() == nil {
			t.Error("no certificate a minute after the token became good")
		}
	})
}

func TestWithoutTokenAndCertificateTheReasonIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		for name, c := range map[string]struct {
			token func(context.Context) (identity.Token, error)
			want  string
		}{
			"no token":         {nil, "join the mesh again"},
			"an empty token":   {func(context.Context) (identity.Token, error) { return identity.Token{}, nil }, "join the mesh again"},
			"unreadable token": {func(context.Context) (identity.Token, error) { return identity.Token{}, errors.New("disk is gone") }, "disk is gone"},
		} {
			options := m.options()
			options.Token = c.token
			log, text := logger()
			options.Log = log
			k, stop := run(t, options)
			pass(time.Second)
			stop()
			if k.Current() != nil || !text.contains(c.want) || !text.contains(cart().String()) {
				t.Errorf("%s: certificate %v, log:\n%s", name, k.Current(), text)
			}
		}
	})
}

// An authority that doesn't answer is given up before the certificate ends,
// often enough for a second attempt.
func TestHangingAuthorityIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		defer m.stop()
		options := m.options()
		hanging := &hangs{next: options.Authority}
		options.Authority = hanging
		k, stop := run(t, options)
		defer stop()
		synctest.Wait()
		first := k.Current()
		hanging.left.Store(2)
		pass(18 * time.Second)
		if b := k.Current(); b == first || b.Verify(time.Now()) != nil {
			t.Error("two hanging requests cost the certificate")
		}
		if hanging.left.Load() != 0 {
			t.Errorf("%d requests did not hang", hanging.left.Load())
		}
	})
}

// authority is a function in place of a client.
type authority func(ctx context.Context, csr []byte, credential certs.Credential) ([]string, error)

func (a authority) Create(ctx context.Context, csr []byte, _ time.Duration, credential certs.Credential) ([]string, error) {
	return a(ctx, csr, credential)
}

// hangs lets some requests wait for their deadline.
type hangs struct {
	next certs.Authority
	left atomic.Int32
}

func (h *hangs) Create(ctx context.Context, csr []byte, ttl time.Duration, credential certs.Credential) ([]string, error) {
	if h.left.Load() > 0 {
		h.left.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.next.Create(ctx, csr, ttl, credential)
}

func TestStoppingDuringARequestEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := &hangs{}
		hanging.left.Store(1)
		k, stop := run(t, certs.Options{ID: cart(), Authority: hanging, Token: func(context.Context) (identity.Token, error) {
			return identity.NewToken("x"), nil
		}})
		synctest.Wait()
		begin := time.Now()
		stop()
		if k.Current() != nil || time.Since(begin) != 0 {
			t.Errorf("Run ended after %s", time.Since(begin))
		}
	})
}

// The same without virtual time: TCP over loopback.
func TestCertificateOverLoopback(t *testing.T) {
	m := newMesh(t, 0)
	m.stop()
	certificate, err := ca.NewServerCertificate(m.authority, []string{"127.0.0.1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(certificate.TLSConfig())))
	securityapi.RegisterIstioCertificateServiceServer(server, m.service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	options := m.options()
	if options.Authority, err = certs.NewClient(certs.ClientOptions{
		Address: l.Addr().String(), Roots: func() ([]byte, error) { return m.authority.Roots(), nil },
	}); err != nil {
		t.Fatal(err)
	}
	options.TTL = 90 * time.Minute
	k, stop := run(t, options)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case <-k.Watch(ctx):
	case <-ctx.Done():
		t.Fatal("no certificate")
	}
	b := k.Current()
	if left := time.Until(b.NotAfter).Round(time.Minute); b.ID != cart() || left != 90*time.Minute {
		t.Errorf("certificate of %s for %s", b.URI, left)
	}
}
