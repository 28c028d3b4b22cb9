package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/demo"
	"github.com/tullemesh/tulle/internal/demo/load"
)

// viewEvery is how often the live view is drawn, and linesEvery how often a
// line is printed where there is no terminal.
const (
	viewEvery  = time.Second
	linesEvery = 5 * time.Second
)

type demoFlags struct {
	export      string
	rate        float64
	gatewayPort int
	length      time.Duration
	transparent bool
}

func (c *console) demoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "a small shop with the mesh around it and load on it",
		Long:  "demo runs the built-in shop: six services, their proxies, a gateway, mutual TLS on every edge, 20 requests a second.\nNothing is needed, nothing is left behind.",
		Args:  call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.export != "" {
				files, err := demo.Export(f.export)
				if err != nil {
					return err
				}
				for _, path := range files {
					fmt.Fprintln(c.Out, path)
				}
				fmt.Fprintf(c.Out, "run it with: tulle up %s\n", f.export)
				return nil
			}
			return c.rootless(cmd.Context(), c.runDemo(cmd.Context(), f))
		},
	}
	cmd.Flags().StringVar(&f.export, "export", "", "write the shop's tulle.yaml and Istio YAML into a folder instead")
	cmd.Flags().Float64Var(&f.rate, "rate", 20, "requests per second")
	cmd.Flags().IntVar(&f.gatewayPort, "gateway-port", -1, "host port of the gateway; -1: any free one")
	cmd.Flags().DurationVar(&f.length, "for", 0, "end by itself after this time")
	transparentFlag(cmd, &f.transparent)
	return cmd
}

func (c *console) runDemo(ctx context.Context, f demoFlags) (err error) {
	started := time.Now()
	dir, err := os.MkdirTemp("", "tulle-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := demo.Export(dir); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // services may run as another user
		return err
	}
	if f.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.length)
		defer cancel()
	}
	s := &screen{c: c}
	s.quiet = terminal(c.Out)
	mesh, err := c.newMesh(ctx, app.UpOptions{Dir: dir, GatewayPort: f.gatewayPort, Transparent: f.transparent, Announce: c.stateHome(), Changed: s.changed})
	if err != nil {
		return err
	}
	s.head(mesh)
	gateway := mesh.Gateways()[0]
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := mesh.Run(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return errors.New("the mesh has ended")
	})
	g.Go(func() error {
		took, ok := firstAnswer(ctx, gateway, started)
		if !ok {
			return nil
		}
		fmt.Fprintf(c.Out, "  first 200     after %.2f s\n", took.Seconds())
		c.tryNext(dir, gateway)
		return c.underLoad(ctx, f.rate, gateway, mesh)
	})
	err = g.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// firstAnswer asks the gateway until it answers 200.
func firstAnswer(ctx context.Context, gateway netip.AddrPort, started time.Time) (time.Duration, bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gateway.String()+"/", nil)
		if err != nil {
			return 0, false
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(started), true
			}
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-tick.C:
		}
	}
}

func (c *console) tryNext(dir string, gateway netip.AddrPort) {
	fmt.Fprintf(c.Out, `
try next, in another terminal:
  tulle status                                     services, proxies, golden signals
  tulle proxy-config routes web-v1                 what a sidecar holds, and from which line
  tulle explain -f %s --port 8080 --host payment --path /pay
  curl -H 'end-user: tester' -XPOST http://%s/checkout     testers get payment v2
  edit %s: change 90/10, and watch the share
Ctrl-C ends everything.

`, dir, gateway, filepath.Join(dir, "istio", "payment-v2-10.yaml"))
}

// underLoad sends the shop's requests and shows what comes back.
func (c *console) underLoad(ctx context.Context, rate float64, gateway netip.AddrPort, mesh *app.Mesh) error {
	base := "http://" + gateway.String()
	send, err := load.NewHTTP(load.Target{URL: base + "/"}, load.Target{Method: http.MethodPost, URL: base + "/checkout", Version: demo.ReceiptVersion})
	if err != nil {
		return err
	}
	defer send.Close()
	generator, err := load.New(load.Config{Rate: rate, InFlight: 256, Timeout: 10 * time.Second, Send: send.Send})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return generator.Run(ctx) })
	g.Go(func() error { return c.show(ctx, generator, mesh) })
	return g.Wait()
}

// show draws the live view on a terminal, else appends a line now and then.
func (c *console) show(ctx context.Context, g *load.Generator, mesh *app.Mesh) error {
	every, live := linesEvery, terminal(c.Out)
	if live {
		every = viewEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	drawn := 0
	sample := app.SampleTraffic(ctx, mesh.Proxies())
	for before, at := g.Stats(), time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := g.Stats()
		line := fmt.Sprintf("%6.1f rps   success %6.2f%%   p50 %s   p95 %s   payment %s", float64(now.Sent-before.Sent)/time.Since(at).Seconds(), 100*now.Success(),
			now.P50.Round(100*time.Microsecond), now.P95.Round(100*time.Microsecond), shares(now.Versions))
		if now.LastError != "" {
			line += "   last error: " + now.LastError
		}
		before, at = now, time.Now()
		if !live {
			fmt.Fprintln(c.Out, line)
			continue
		}
		status, err := app.FetchStatus(ctx, mesh.Monitoring())
		if err != nil {
			continue // it is being restarted, or we end
		}
		newer := app.SampleTraffic(ctx, mesh.Proxies())
		status.Fill(newer.Since(sample))
		sample = newer
		text := view(status, mesh.States(), line)
		if drawn > 0 {
			fmt.Fprintf(c.Out, "\x1b[%dA\x1b[J", drawn)
		}
		fmt.Fprint(c.Out, text)
		drawn = strings.Count(text, "\n")
	}
}

// view is the live view: services with their signals, then the load.
func view(s *app.MeshStatus, states []app.ProcessState, line string) string {
	var b strings.Builder
	t := newTable("SERVICE", "STATE", "ENDPOINTS", "MTLS", "RPS", "SUCCESS", "P50", "P95", "VERSIONS")
	failed := map[string]string{}
	for _, p := range states {
		if p.Phase == app.PhaseFailed || p.Phase == app.PhaseUnready {
			failed[strings.Split(p.Name, "-v")[0]] = string(p.Phase)
		}
	}
	for _, svc := range s.Services {
		state := "ready"
		if f, ok := failed[svc.Name]; ok {
			state = f
		}
		rps, success, p50, p95, versions := "-", "-", "-", "-", "-"
		if svc.Traffic != nil {
			rps, success, p50, p95 = svc.Traffic.Cells()
			versions = svc.Traffic.Shares()
		}
		t.add(svc.Name, state, fmt.Sprintf("%d/%d", svc.Ready, svc.Endpoints), svc.MTLS, rps, success, p50, p95, versions)
	}
	_ = t.write(&b)
	fmt.Fprintf(&b, "\nload   %s\n", line)
	return b.String()
}

// shares prints the share of each version, in per cent.
func shares(versions map[string]uint64) string {
	var total uint64
	for _, n := range versions {
		total += n
	}
	if total == 0 {
		return "-"
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		parts = append(parts, fmt.Sprintf("%s %.0f%%", v, 100*float64(versions[v])/float64(total)))
	}
	return strings.Join(parts, " ")
}
