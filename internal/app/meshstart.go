package app

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/app/dataplane"
	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/app/process"
)

// tier is a group of processes that end together.
type tier struct {
	ctx    context.Context //nolint:containedctx // the life of the tier's processes, ended by stop
	cancel context.CancelFunc
	group  *errgroup.Group
}

func newTier(ctx context.Context) *tier {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &tier{ctx: inner, cancel: cancel, group: &errgroup.Group{}}
}

func (t *tier) stop() error {
	t.cancel()
	return t.group.Wait()
}

// start runs a process in a tier.
func (m *Mesh) start(t *tier, s process.Spec) error {
	s.Mark, s.Reaper, s.Changed = m.mark+"/"+s.Name, m.reaper, m.options.Changed
	s.Log = filepath.Join(m.options.State, "logs", s.Name+".log")
	p, err := process.New(s)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.processes = append(m.processes, p)
	m.mu.Unlock()
	t.group.Go(func() error { return p.Run(t.ctx) })
	return nil
}

// startControl starts the control plane and waits until it serves.
func (m *Mesh) startControl(t *tier) error {
	bound := m.path("control.addresses")
	words := []string{m.options.Executable, "serve", "-f", m.options.Dir, "-f", m.path("project.yaml"), "--xds", "", "--xds-tls", m.xds.String(), "--monitoring", m.monitoring.String(),
		"--state", m.options.State, "--address-file", bound}
	if m.options.CertificateTTL > 0 {
		words = append(words, "--certificate-ttl", m.options.CertificateTTL.String())
	}
	if err := m.start(t, process.Spec{Name: "control-plane", Words: words, Env: m.options.Environ, StopTime: 2 * port.StopGrace}); err != nil {
		return err
	}
	if _, err := awaitLines(t.ctx, bound, 3); err != nil {
		return fmt.Errorf("the control plane does not start: %w; see %s", err, filepath.Join(m.options.State, "logs", "control-plane.log"))
	}
	m.mu.Lock()
	m.running = Running{Project: m.Project.Name, PID: os.Getpid(), Monitoring: m.monitoring.String()}
	for _, g := range m.gateways {
		m.running.Gateways = append(m.running.Gateways, g.String())
	}
	m.mu.Unlock()
	return nil
}

func (m *Mesh) startProxies(t *tier) error {
	for _, w := range m.workloads {
		admin := w.admin
		if w.captured {
			admin = netip.AddrPortFrom(loopback(), insideAdmin)
		}
		words := []string{m.program, "proxy", "--xds-tls", m.xdsAddress().String(), "--roots", m.path("roots.pem"), "--token", m.path(w.name, "token"), "--id", w.node,
			"--metadata", m.path(w.name, "node.json"), "--trust-domain", m.domain, "--admin", admin.String(), "--address-file", m.path(w.name, "admin"), "--state", m.path(w.name, "state")}
		s := process.Spec{Name: w.name + "-proxy", Words: words, Env: m.options.Environ, StopTime: 2 * dataplane.DrainMax}
		m.isolateProxy(&s, w)
		if err := m.start(t, s); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mesh) startApps(t *tier) error {
	byName := map[string]*meshWorkload{}
	for _, w := range m.workloads {
		byName[w.name] = w
	}
	for _, app := range m.apps {
		name := app.Workload.Name
		s := capture.Surroundings{Workload: name, Run: m.sockets, Executable: m.program, JVM: capture.StartsJVM(append([]string{app.Workload.Version.Run.Shell}, app.Workload.Version.Run.Words...)...)}
		if w := byName[name]; w != nil {
			s.Proxy, s.Upstreams = w.httpProxy, w.upstreams
		}
		mesh := app.Variables()
		maps.Copy(mesh, capture.Environment(s))
		words, env := app.Command(m.options.Environ, mesh)
		for _, at := range app.Address.App {
			if err := m.ports.Release(at); err != nil {
				return err
			}
		}
		first := app.Address.App[app.Workload.Service.Ports[0].Name]
		ready := process.Ready{Address: first.String(), Path: app.Workload.Version.Ready.Path}
		spec := process.Spec{Name: name, Words: words, Env: env, Dir: app.Dir, Ready: ready}
		var err error
		if spec.User, err = m.invoker(isCaptured(app.Workload)); err != nil {
			return err
		}
		if isCaptured(app.Workload) {
			m.isolateApp(&spec, name)
		}
		if err := m.start(t, spec); err != nil {
			return err
		}
	}
	return nil
}

// collectAdmin waits for the proxies' admin ports and notes them for the run
// file.
func (m *Mesh) collectAdmin(ctx context.Context) error {
	for _, w := range m.workloads {
		if _, err := awaitLines(ctx, m.path(w.name, "admin"), 1); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the proxy of %s does not start: %w; see %s", w.name, err, filepath.Join(m.options.State, "logs", w.name+"-proxy.log"))
		}
		m.mu.Lock()
		m.running.Proxies = append(m.running.Proxies, RunningProxy{Name: w.name + "." + w.namespace, Admin: w.admin.String()})
		m.mu.Unlock()
	}
	return nil
}

// awaitLines waits until a file has n lines.
func awaitLines(ctx context.Context, path string, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		data, err := os.ReadFile(path)
		// What follows the last line's end is incomplete, or nothing.
		if lines := strings.Split(string(data), "\n"); err == nil && len(lines) > n {
			return lines[:len(lines)-1], nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
