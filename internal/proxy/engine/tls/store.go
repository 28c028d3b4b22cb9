package tls

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
)

// ErrNoSecret means that a secret has not come yet or can't be used; the
// handshake that needs it fails.
var ErrNoSecret = errors.New("no usable secret")

// ticketKeyAge is how long a session ticket key encrypts; it decrypts for as
// long again.
const ticketKeyAge = 12 * time.Hour

// ticketCacheMax bounds the sessions kept for resuming upstream connections of
// one client context.
const ticketCacheMax = 64

// Store holds live certificates by secret name. Handshakes read it without a
// lock; a changed secret is used by the next handshake and disturbs no open
// connection.
type Store struct {
	state atomic.Pointer[generation]

	// Guarded by mu.
	mu      sync.Mutex
	secrets map[string]*Secret
	tickets [][32]byte
	ticked  time.Time
}

// generation is the certificates of one moment with the contexts made of them.
type generation struct {
	material map[string]*material
	tickets  [][32]byte
	contexts sync.Map // *ServerSpec or clientKey → *tls.Config
	kept     atomic.Int64
}

// contextsMax bounds the contexts of a generation: every edit of a listener or
// cluster leaves those of its predecessor behind. Beyond it all are made anew
// when they are next needed, and upstream sessions are not resumed once.
const contextsMax = 4096

// keep remembers a context; of two made at once the first stays.
func (g *generation) keep(key any, c *tls.Config) *tls.Config {
	actual, had := g.contexts.LoadOrStore(key, c)
	if !had && g.kept.Add(1) > contextsMax {
		g.contexts.Clear()
		g.kept.Store(0)
	}
	return actual.(*tls.Config)
}

// material is a parsed secret.
type material struct {
	secret *Secret
	cert   *tls.Certificate
	roots  *x509.CertPool
	crl    []*x509.RevocationList
	sans   []match.String
	files  map[string]time.Time
	err    error
}

// NewStore returns a store without secrets.
func NewStore() *Store {
	s := &Store{secrets: map[string]*Secret{}}
	s.state.Store(&generation{material: map[string]*material{}})
	return s
}

// Update makes the secrets those of a configuration. The errors name secrets
// that can't be used; handshakes that need them fail.
func (s *Store) Update(secrets map[string]*Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if maps.Equal(s.secrets, secrets) {
		return nil
	}
	s.secrets = maps.Clone(secrets)
	return s.buildLocked()
}

// Refresh reads files again that have changed since they were read, and
// renews the session ticket keys when they are due.
func (s *Store) Refresh() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stale := !s.ticked.IsZero() && time.Since(s.ticked) >= ticketKeyAge
	for _, m := range s.state.Load().material {
		stale = stale || m.filesChanged()
	}
	if !stale {
		return nil
	}
	return s.buildLocked()
}

func (s *Store) buildLocked() error {
	old := s.state.Load()
	next := &generation{material: make(map[string]*material, len(s.secrets)), tickets: s.ticketKeysLocked()}
	var errs []error
	for name, secret := range s.secrets {
		m := old.material[name]
		if m == nil || m.secret != secret || m.filesChanged() {
			m = parse(secret)
		}
		if m.err != nil {
			errs = append(errs, fmt.Errorf("secret %q: %w", name, m.err))
		}
		next.material[name] = m
	}
	s.state.Store(next)
	return errors.Join(errs...)
}

// ticketKeysLocked returns the newest key and the one before it.
func (s *Store) ticketKeysLocked() [][32]byte {
	if now := time.Now(); s.ticked.IsZero() || now.Sub(s.ticked) >= ticketKeyAge {
		var key [32]byte
		rand.Read(key[:])
		s.tickets = append([][32]byte{key}, s.tickets...)
		if len(s.tickets) > 2 {
			s.tickets = s.tickets[:2]
		}
		s.ticked = now
	}
	return slices.Clone(s.tickets)
}

func parse(secret *Secret) *material {
	m := &material{secret: secret, sans: secret.SANs, files: map[string]time.Time{}}
	chain, key, roots, crl := m.read(secret.Chain), m.read(secret.Key), m.read(secret.Roots), m.read(secret.CRL)
	if m.err != nil {
		return m
	}
	if len(chain) > 0 || len(key) > 0 {
		cert, err := tls.X509KeyPair(chain, key)
		if err != nil {
			m.err = fmt.Errorf("certificate and key: %w", err)
			return m
		}
		m.cert = &cert
	}
	if len(roots) > 0 {
		certs, err := identity.ParseCertificates(roots, limit.RootCertificatesMax)
		if err != nil {
			m.err = fmt.Errorf("trusted roots: %w", err)
			return m
		}
		m.roots = identity.NewPool(certs)
	}
	if len(crl) > 0 {
		m.crl, m.err = parseCRL(crl)
	}
	return m
}

// read returns data's bytes and remembers the file's time.
func (m *material) read(d Data) []byte {
	if d.File == "" {
		return d.Inline
	}
	f, err := os.Open(d.File)
	if err != nil {
		m.err = err
		m.files[d.File] = time.Time{}
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		m.files[d.File] = info.ModTime()
	}
	b, err := io.ReadAll(io.LimitReader(f, limit.KeyFileBytesMax+1))
	if err == nil && len(b) > limit.KeyFileBytesMax {
		err = fmt.Errorf("%s: more than %d bytes", d.File, limit.KeyFileBytesMax)
	}
	if err != nil {
		m.err = err
	}
	return b
}

func (m *material) filesChanged() bool {
	for path, read := range m.files {
		var now time.Time
		if info, err := os.Stat(path); err == nil {
			now = info.ModTime()
		}
		if !now.Equal(read) {
			return true
		}
	}
	return false
}

// Certificate returns a secret's leaf certificate and its number of roots, for
// status pages.
func (s *Store) Certificate(name string) (leaf *x509.Certificate, ok bool) {
	m := s.state.Load().material[name]
	if m == nil || m.cert == nil {
		return nil, false
	}
	return m.cert.Leaf, true
}
