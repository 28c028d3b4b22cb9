package dataplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/agent/secret"
	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/admin"
	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/proxy/xdsclient"
	"github.com/tullemesh/tulle/internal/wire"
)

// DrainMax bounds a proxy's graceful end (Istio: terminationDrainDuration).
const DrainMax = 5 * time.Second

// applyAgain is how long a proxy waits before it tries again what it could not
// put in force, such as an address that somebody else listens on.
const applyAgain = time.Second

// Proxy is the data plane: resources from a bootstrap and from an xDS server,
// compiled into generations that the engine runs. It is an xdsclient.Handler
// and what the admin port sees.
type Proxy struct {
	// Fixed at creation.
	options Options
	node    *corev3.Node
	engine  *engine.Engine
	client  *xdsclient.Client // nil without a server
	agent   *workloadAgent    // nil without certificates of our own
	names   *names            // nil without a DNS proxy
	metrics *observe.Registry
	admin   net.Listener
	started time.Time
	quit    chan struct{}
	rebuild chan struct{} // size 1: something waits for its time

	state     atomic.Value // admin.State
	unhealthy atomic.Bool  // somebody said so at the admin port

	// Guarded by mu.
	mu        sync.Mutex
	builder   *compile.Builder
	resources map[string]map[string]admin.Resource
	rejected  map[string]map[string]admin.Rejection
	received  map[string]bool
	waiting   time.Time
	quitOnce  sync.Once
}

// New reads the options, applies what is static, and binds the admin
// port.
func New(ctx context.Context, o Options) (*Proxy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Level == nil {
		o.Level = &slog.LevelVar{}
	}
	p := &Proxy{options: o, metrics: observe.NewRegistry(), started: time.Now(), quit: make(chan struct{}), rebuild: make(chan struct{}, 1),
		builder: compile.NewBuilder(compile.New()), resources: map[string]map[string]admin.Resource{}, rejected: map[string]map[string]admin.Rejection{}, received: map[string]bool{}}
	p.state.Store(admin.Initializing)
	var boot *compile.Boot
	var err error
	if o.Bootstrap != "" {
		if boot, err = readBootstrap(o.Bootstrap); err != nil {
			return nil, err
		}
	} else {
		boot = &compile.Boot{ADS: &compile.Server{Target: o.XDS, Delta: true}, Listeners: true, Clusters: true}
		if boot.Node, err = nodeOf(o); err != nil {
			return nil, err
		}
	}
	p.node = boot.Node
	if p.node == nil {
		p.node = &corev3.Node{Id: "tulle"}
	}
	self, err := selfOf(p.node)
	if err != nil && o.Bootstrap == "" {
		return nil, err
	}
	options := engine.Options{Registry: p.metrics, Log: o.Log, Self: self, OpenLog: p.openLog}
	if err == nil {
		// A node without Istio's id has no workload to tell of.
		if options.Peers, err = newPeerCodec(p.node, self); err != nil {
			return nil, err
		}
	}
	p.engine = engine.New(options)
	if o.XDSTLS != "" {
		if p.agent, err = newWorkloadAgent(o, p.node); err != nil {
			return nil, err
		}
		boot.ADS.Target = o.XDSTLS
	}
	if o.DNS != "" {
		parsed, err := wire.ParseNode(p.node)
		if err != nil {
			return nil, err
		}
		if p.names, err = listenNames(ctx, o, parsed); err != nil {
			return nil, err
		}
	}
	if err := p.start(boot); err != nil {
		return nil, err
	}
	if err := p.listenAdmin(ctx, boot.Admin); err != nil {
		return nil, err
	}
	return p, nil
}

// ErrBootstrap refuses a bootstrap by name and place.
var ErrBootstrap = errors.New("bootstrap refused")

func readBootstrap(path string) (*compile.Boot, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	boot, report, err := compile.New().Bootstrap(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if report.Refused() {
		lines := make([]string, len(report.Problems))
		for i, problem := range report.Problems {
			lines[i] = "\n  " + problem.String()
		}
		return nil, fmt.Errorf("%s: %w:%s", path, ErrBootstrap, strings.Join(lines, ""))
	}
	return boot, nil
}

// nodeOf is the node that the options describe.
func nodeOf(o Options) (*corev3.Node, error) {
	n := &corev3.Node{Id: o.ID, Metadata: &structpb.Struct{}, UserAgentName: "tulle", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: o.Version},
		ClientFeatures: []string{wire.FeatureVHDS, wire.FeatureRanks}}
	if len(o.Metadata) > 0 {
		if err := protojson.Unmarshal(o.Metadata, n.Metadata); err != nil {
			return nil, fmt.Errorf("node metadata: %w", err)
		}
	}
	parsed, err := wire.ParseNode(n)
	if err != nil {
		return nil, err
	}
	n.Cluster = parsed.Name + "." + parsed.Namespace
	return n, nil
}

// selfOf is this workload as metrics name it.
func selfOf(n *corev3.Node) (telemetry.Workload, error) {
	parsed, err := wire.ParseNode(n)
	if err != nil {
		return telemetry.Workload{}, err
	}
	m := parsed.Metadata
	w := telemetry.Workload{Name: m.WorkloadName, Namespace: parsed.Namespace, Cluster: m.ClusterID, App: m.Labels["app"], Version: m.Labels["version"],
		CanonicalService: cmp.Or(m.Labels["service.istio.io/canonical-name"], m.Labels["app.kubernetes.io/name"], m.Labels["app"], m.WorkloadName, parsed.Name),
		Revision:         cmp.Or(m.Labels["service.istio.io/canonical-revision"], m.Labels["app.kubernetes.io/version"], m.Labels["version"], "latest")}
	if w.Name == "" {
		w.Name = parsed.Name
	}
	return w, nil
}

// start applies the static resources and prepares the client.
func (p *Proxy) start(boot *compile.Boot) error {
	for _, typeURL := range []string{wire.SecretType, wire.ClusterType, wire.ListenerType} {
		static := boot.Static[typeURL]
		if len(static) == 0 {
			continue
		}
		for _, r := range p.apply(typeURL, static, nil, true) {
			return fmt.Errorf("%s: %w:\n  %s %s: %s", p.options.Bootstrap, ErrBootstrap, wire.ShortType(typeURL), r.Name, r.Reason)
		}
	}
	if boot.ADS != nil {
		mode := xdsclient.Auto
		if p.options.Bootstrap != "" && !boot.ADS.Delta {
			mode = xdsclient.SotW
		}
		if boot.ADS.TLS != nil {
			return fmt.Errorf("%s: %w: TLS to the xDS server is configured by --xds-tls, not in a bootstrap", p.options.Bootstrap, ErrBootstrap)
		}
		o := xdsclient.Options{Target: boot.ADS.Target, Node: p.node, Mode: mode, Handler: p, Log: p.options.Log}
		if p.options.State != "" {
			o.CacheDir = filepath.Join(p.options.State, "xds")
		}
		if p.agent != nil {
			o.TLS = p.agent.clientTLS
		}
		var err error
		if p.client, err = xdsclient.New(o); err != nil {
			return err
		}
		if boot.Clusters {
			p.client.Subscribe(wire.ClusterType, xdsclient.Wildcard)
		}
		if boot.Listeners {
			p.client.Subscribe(wire.ListenerType, xdsclient.Wildcard)
		}
		if p.names != nil {
			p.client.Subscribe(wire.NameTableType, xdsclient.Wildcard)
		}
		p.subscribe() // what static resources reference
	}
	return nil
}

func (p *Proxy) listenAdmin(ctx context.Context, fromBootstrap netip.AddrPort) error {
	address := p.options.Admin
	if p.options.Bootstrap != "" {
		if !fromBootstrap.IsValid() {
			return nil
		}
		address = fromBootstrap.String()
	}
	if address == "" {
		return nil
	}
	if err := port.CheckLoopback(address); err != nil {
		return fmt.Errorf("the admin port is for loopback only: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for admin: %w", err)
	}
	p.admin = l
	return nil
}

// Admin is the bound admin address, or empty.
func (p *Proxy) Admin() string {
	if p.admin == nil {
		return ""
	}
	return p.admin.Addr().String()
}

// Run serves until ctx ends or somebody asks to quit, then drains: what is open
// may end, bounded by DrainMax.
func (p *Proxy) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return p.engine.Run(inner) })
	g.Go(func() error { return p.keepBuilding(inner) })
	if p.agent != nil {
		g.Go(func() error { return p.agent.Run(inner) })
		g.Go(func() error { return p.takeSecrets(inner, p.agent.keeper) })
	}
	if p.names != nil {
		g.Go(func() error { return p.names.Run(inner) })
	}
	if p.client != nil {
		g.Go(func() error {
			if p.agent != nil && !p.agent.ready(inner) {
				return nil
			}
			return p.client.Run(inner)
		})
	} else {
		p.state.Store(admin.Live)
	}
	if p.admin != nil {
		g.Go(func() error { return port.Serve(inner, p.admin, admin.Handler(p, p.options.Version)) })
	}
	g.Go(func() error {
		select {
		case <-inner.Done():
			return nil
		case <-ctx.Done():
		case <-p.quit:
		}
		p.state.Store(admin.Draining)
		bound, cancel := context.WithTimeout(inner, DrainMax)
		defer cancel()
		if err := p.engine.Drain(bound); err != nil {
			p.options.Log.WarnContext(inner, "drain cut short", slog.Any("error", err))
		}
		stop()
		return nil
	})
	return g.Wait()
}

// Apply implements xdsclient.Handler.
func (p *Proxy) Apply(_ context.Context, u xdsclient.Update) []wire.Rejection {
	if u.Type == wire.NameTableType && p.names != nil {
		return p.names.apply(u)
	}
	rejections := p.apply(u.Type, u.Added, u.Removed, false)
	p.subscribe()
	return rejections
}

// apply compiles an update and makes a generation of what is ready.
func (p *Proxy) apply(typeURL string, added []*wire.Resource, removed []string, static bool) []wire.Rejection {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	rejections := p.builder.Apply(typeURL, added, removed, now)
	p.rememberLocked(typeURL, added, removed, rejections, static, now)
	p.buildLocked(now)
	p.received[typeURL] = true
	if p.received[wire.ListenerType] && p.waiting.IsZero() && p.state.Load() == admin.Initializing && !static {
		p.state.Store(admin.Live)
	}
	return rejections
}

func (p *Proxy) buildLocked(now time.Time) {
	cfg, wait := p.builder.Build(now)
	if err := p.engine.Apply(cfg); err != nil {
		p.options.Log.Error("a part of the configuration could not be put in force", slog.Any("error", err))
		if wait == 0 || wait > applyAgain {
			wait = applyAgain
		}
	}
	p.waiting = time.Time{}
	if wait > 0 {
		p.waiting = now.Add(wait)
		select {
		case p.rebuild <- struct{}{}:
		default:
		}
	}
}

// keepBuilding builds again when a resource has waited long enough for what it
// references.
func (p *Proxy) keepBuilding(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.rebuild:
		case <-timer.C:
			p.mu.Lock()
			if !p.waiting.IsZero() && !time.Now().Before(p.waiting) {
				p.buildLocked(time.Now())
				if p.waiting.IsZero() && p.state.Load() == admin.Initializing {
					p.state.Store(admin.Live)
				}
			}
			p.mu.Unlock()
		}
		p.mu.Lock()
		if !p.waiting.IsZero() {
			timer.Reset(max(time.Until(p.waiting), time.Millisecond))
		}
		p.mu.Unlock()
	}
}

// rememberLocked keeps what the admin port shows.
func (p *Proxy) rememberLocked(typeURL string, added []*wire.Resource, removed []string, rejections []wire.Rejection, static bool, now time.Time) {
	accepted, refused := p.resources[typeURL], p.rejected[typeURL]
	if accepted == nil {
		accepted, refused = map[string]admin.Resource{}, map[string]admin.Rejection{}
		p.resources[typeURL], p.rejected[typeURL] = accepted, refused
	}
	for _, name := range removed {
		delete(accepted, name)
		delete(refused, name)
	}
	for _, r := range added {
		i := slices.IndexFunc(rejections, func(x wire.Rejection) bool { return x.Name == r.Name })
		if i >= 0 {
			refused[r.Name] = admin.Rejection{TypeURL: typeURL, Name: r.Name, Version: r.Version, Reason: rejections[i].Reason, At: now}
			p.options.Log.Error("resource refused, its last good version stays", slog.String("type", wire.ShortType(typeURL)), slog.String("name", r.Name), slog.String("reason", rejections[i].Reason))
			continue
		}
		delete(refused, r.Name)
		accepted[r.Name] = admin.Resource{Resource: r, Updated: now, Static: static}
	}
}

// subscribe asks for what the accepted resources reference. Secrets that the
// agent gives are not asked of the server.
func (p *Proxy) subscribe() {
	p.mu.Lock()
	wants := p.builder.Wants()
	demand := p.builder.OnDemand()
	p.mu.Unlock()
	for typeURL, names := range wants {
		if typeURL == wire.SecretType {
			names = slices.DeleteFunc(names, func(n string) bool { return n == secret.Default || n == secret.RootCA })
		}
		p.client.Want(typeURL, names)
	}
	p.client.Want(wire.VirtualHostType, demand)
}

// takeSecrets puts the workload's certificate in force whenever it changes.
func (p *Proxy) takeSecrets(ctx context.Context, source identity.Source) error {
	changes := source.Watch(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		}
		resources, err := secret.Resources(source.Current())
		if err != nil {
			return err
		}
		p.apply(wire.SecretType, resources, nil, false)
	}
}

func (p *Proxy) metadata() json.RawMessage {
	data, err := protojson.Marshal(p.node.GetMetadata())
	if err != nil {
		return nil
	}
	return data
}
