package app

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/source/file"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// The ingress gateway of a mesh on one machine, as Istio's charts name it.
const (
	gatewayName      = "istio-ingressgateway"
	gatewayNamespace = "istio-system"
)

// tokenEvery is how often join tokens are written anew: they live an hour, and
// a proxy may need one whenever its certificate has expired.
const tokenEvery = 20 * time.Minute

// startTimeout bounds the wait for the control plane's addresses.
const startTimeout = 20 * time.Second

// UpOptions describe a mesh on one machine.
type UpOptions struct {
	// Dir is the project's folder, with tulle.yaml and the user's YAML.
	Dir string
	// Executable is this program: control plane and proxies are its children.
	Executable string
	// Environ is the environment that applications inherit.
	Environ []string
	// State is the folder of logs, keys and the run file; empty: Dir/.tulle.
	State string
	// GatewayPort replaces the first gateway port of the project; 0: what the
	// project says; -1: a port that the kernel chooses.
	GatewayPort int
	// Transparent puts every workload into a namespace of its own, as if
	// tulle.yaml said capture: netns. Rootless: we are root of a user namespace
	// only (see RunRootless).
	Transparent, Rootless bool
	// CertificateTTL is the lifetime of workload certificates; 0: 24 h.
	CertificateTTL time.Duration
	// Announce is a folder that gets a copy of the run file, so that commands
	// find the mesh from anywhere; empty: none.
	Announce string
	// Changed is called after every change of a process's state.
	Changed func(process.State)
	Log     *slog.Logger
}

// ErrProject says that tulle.yaml has errors; they are in the Mesh's Problems.
var ErrProject = errors.New("tulle.yaml has errors")

// Mesh is a whole mesh on this machine: control plane, gateway, and for each
// workload a proxy and its application, each a child process.
type Mesh struct {
	// Fixed at creation.
	options   UpOptions
	Project   *project.Project
	Problems  []apis.Problem
	Text      []byte // of tulle.yaml
	run       string // folder of this run
	sockets   string // folder of the applications' sockets
	program   string // our executable, where the children's users reach it
	shared    bool   // the folder of this run is our own to remove whenever we end
	mark      string
	addresses map[string]project.Address
	// ports are held until Run returns.
	ports           *project.Ports
	xds, monitoring netip.AddrPort
	apps            []project.Process
	workloads       []*meshWorkload
	gateways        []netip.AddrPort
	tokens          *ca.TokenIssuer
	domain          string
	isolation       *isolation // nil without capture netns
	reaper          *process.Reaper

	mu        sync.Mutex
	processes []*process.Process
	running   Running
}

// meshWorkload is one workload with its proxy.
type meshWorkload struct {
	name, namespace, account string
	node                     string // xDS node id
	metadata                 map[string]any
	httpProxy, admin         netip.AddrPort
	upstreams                []capture.Upstream
	captured                 bool
	doors                    []netip.AddrPort // loopback ports at which others call the proxy
}

// NewMesh reads the project and plans the run. Problems of tulle.yaml come
// back as ErrProject with a Mesh that holds them.
func NewMesh(ctx context.Context, o UpOptions) (_ *Mesh, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.State == "" {
		o.State = filepath.Join(o.Dir, projectState)
	}
	path := filepath.Join(o.Dir, project.FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &Mesh{options: o, Text: text, run: filepath.Join(o.State, "run"), mark: "mesh-" + strconv.Itoa(os.Getpid()), ports: &project.Ports{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.abandon())
		}
	}()
	if m.Project, m.Problems = project.Decode(path, text); m.Project == nil || slices.ContainsFunc(m.Problems, apis.Problem.Refuses) {
		return m, ErrProject
	}
	if o.Transparent {
		m.Project = m.Project.Transparent()
	}
	if err := m.assign(ctx); err != nil {
		return nil, err
	}
	compiled, apps, err := project.Compile(m.Project, o.Dir, m.addresses)
	if err != nil {
		return nil, err
	}
	m.apps = apps
	if err := m.plan(ctx); err != nil {
		return nil, err
	}
	return m, m.prepare(compiled)
}

// abandon lets go what a mesh that never runs has taken.
func (m *Mesh) abandon() error {
	err := errors.Join(m.ports.Close(), m.isolation.close())
	if m.shared {
		err = errors.Join(err, os.RemoveAll(m.run))
	}
	return err
}

// prepare writes what the children read: compiled objects, keys, tokens, node
// metadata.
func (m *Mesh) prepare(compiled []byte) error {
	if err := m.makeRun(); err != nil {
		return err
	}
	if len(m.gateways) > 0 {
		compiled = append(compiled, gatewayEntry(m.gatewayAddress())...)
	}
	if err := os.WriteFile(m.path("project.yaml"), compiled, 0o600); err != nil {
		return err
	}
	in, _, err := file.Load([]string{m.options.Dir}, file.Options{})
	if err != nil {
		return err
	}
	mesh := model.MeshFrom(in.MeshConfig)
	m.domain = mesh.TrustDomain
	domains, err := identity.NewTrustDomains(mesh.TrustDomain, mesh.TrustDomainAliases...)
	if err != nil {
		return err
	}
	authority, err := ca.LoadOrCreate(filepath.Join(m.options.State, "ca"), ca.Options{TrustDomains: domains})
	if err != nil {
		return err
	}
	if m.tokens, err = ca.NewTokenIssuer(filepath.Join(m.options.State, "token", "key.pem"), time.Now); err != nil {
		return err
	}
	if err := os.WriteFile(m.path("roots.pem"), authority.Roots(), 0o644); err != nil {
		return err
	}
	for _, w := range m.workloads {
		data, err := json.Marshal(w.metadata)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(m.path(w.name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(m.path(w.name, "node.json"), data, 0o600); err != nil {
			return err
		}
		if err := m.give(m.path(w.name), m.path(w.name, "node.json")); err != nil {
			return err
		}
	}
	return errors.Join(m.writeResolv(), m.writeTokens())
}

func (m *Mesh) path(names ...string) string {
	return filepath.Join(append([]string{m.run}, names...)...)
}

// writeTokens writes a join token for each workload.
func (m *Mesh) writeTokens() error {
	for _, w := range m.workloads {
		t, err := m.tokens.Issue(identity.ID{TrustDomain: m.domain, Namespace: w.namespace, ServiceAccount: w.account}, 0)
		if err != nil {
			return err
		}
		give := func(file string) error { return m.give(file) }
		if err := keyfile.ReplaceFor(m.path(w.name, "token"), []byte(t.Reveal()), give); err != nil {
			return err
		}
	}
	return nil
}

// Gateways are the addresses at which the ingress gateway serves.
func (m *Mesh) Gateways() []netip.AddrPort { return slices.Clone(m.gateways) }

// States are the states of all processes, in the order in which they started.
func (m *Mesh) States() []process.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]process.State, 0, len(m.processes))
	for _, p := range m.processes {
		out = append(out, p.State())
	}
	return out
}

// Monitoring is the control plane's monitoring address, empty before it runs.
func (m *Mesh) Monitoring() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running.Monitoring
}

// Proxies are the proxies that have started, with their admin addresses.
func (m *Mesh) Proxies() []RunningProxy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.running.Proxies)
}

// Run runs the mesh until ctx ends, and returns when nothing of it is left.
// Applications end first, then proxies, then the control plane.
func (m *Mesh) Run(ctx context.Context) (err error) {
	if m.reaper, err = process.StartReaper(ctx, m.mark, m.options.Executable, "__reap"); err != nil {
		return errors.Join(err, m.abandon())
	}
	defer func() { err = errors.Join(err, m.reaper.Close()) }()
	if m.shared {
		m.reaper.Remove(m.run)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.run), m.ports.Close(), m.isolation.close()) }()
	if err := m.ports.Settle(); err != nil {
		return err
	}
	relays := newTier(ctx)
	defer func() { err = errors.Join(err, relays.stop()) }()
	if err := m.isolation.start(ctx, relays); err != nil {
		return err
	}
	control := newTier(ctx)
	defer func() { err = errors.Join(err, control.stop()) }()
	if err := m.startControl(control); err != nil {
		return err
	}
	proxies := newTier(ctx)
	defer func() { err = errors.Join(err, proxies.stop()) }()
	if err := m.startProxies(proxies); err != nil {
		return err
	}
	apps := newTier(ctx)
	defer func() { err = errors.Join(err, apps.stop()) }()
	if err := m.startApps(apps); err != nil {
		return err
	}
	if err := m.collectAdmin(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	running := m.running
	m.mu.Unlock()
	for _, dir := range []string{m.options.State, m.options.Announce} {
		if dir == "" {
			continue
		}
		remove, err := running.write(dir)
		if err != nil {
			return err
		}
		defer remove()
	}
	return m.keepTokens(ctx)
}

// keepTokens writes tokens anew until ctx ends.
func (m *Mesh) keepTokens(ctx context.Context) error {
	tick := time.NewTicker(tokenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := m.writeTokens(); err != nil {
				m.options.Log.ErrorContext(ctx, "join tokens could not be written anew", slog.Any("error", err))
			}
		}
	}
}

// Reap is the life of the reaper, the hidden command __reap.
func Reap(r io.Reader) error { return process.Reap(r) }

// ProcessState is the state of one process of a mesh.
type ProcessState = process.State

// The phases that a screen tells apart.
const (
	PhaseServing = process.Serving
	PhaseUnready = process.Unready
	PhaseFailed  = process.Failed
)
