package cli

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
)

// controlFlag adds --control, the monitoring address of a control plane. Its
// default is the mesh that runs in this folder or from it, else Istio's port.
func (c *console) controlFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "control", "", "monitoring address of the control plane (default: the mesh of this folder, or 127.0.0.1:15014)")
}

// control finds the control plane to ask.
func (c *console) control(address string) (string, error) {
	if address == "" {
		address = c.environment("TULLE_CONTROL")
	}
	if address == "" {
		run, err := app.FindRun(c.stateHome())
		if err != nil {
			return "", err
		}
		if run != nil {
			return run.Monitoring, nil
		}
		address = "127.0.0.1:15014"
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return "", call.Usage("--control %q is not host:port", address)
	}
	return address, nil
}

// mesh is the running mesh that a control plane belongs to; nil when it is not
// one of this machine's.
func (c *console) mesh(control string) *app.Running {
	run, err := app.FindRun(c.stateHome())
	if err != nil || run == nil || run.Monitoring != control {
		return nil
	}
	return run
}

// failed gives an error of asking a plane its exit code.
func failed(err error) error {
	switch {
	case errors.Is(err, app.ErrUnreachable):
		return &call.Error{Code: call.Unreachable, Err: fmt.Errorf("%w\n  is a mesh running?  start one with: tulle demo, tulle up or tulle serve", err)}
	case errors.Is(err, app.ErrNotFound):
		return &call.Error{Code: call.NotFound, Err: err}
	}
	return err
}

func (c *console) statusCommand() *cobra.Command {
	var address string
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "one screen: services, proxies, sync, problems",
		Args:  call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := c.control(address)
			if err != nil {
				return err
			}
			status, err := app.FetchStatus(cmd.Context(), control)
			if err != nil {
				return failed(err)
			}
			if run := c.mesh(control); run != nil {
				status.WatchTraffic(cmd.Context(), run)
			}
			if output != formatTable {
				return structured(c.Out, output, status)
			}
			return c.writeStatus(control, status)
		},
	}
	c.controlFlag(cmd, &address)
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (c *console) writeStatus(control string, s *app.MeshStatus) error {
	fmt.Fprintf(c.Out, "CONTROL PLANE %s   up %s   generation %s   %d objects\n\n", control, age(s.Started), s.Generation, s.Objects)
	t := newTable("SERVICE", "NAMESPACE", "PORTS", "ENDPOINTS", "MTLS", "RPS", "SUCCESS", "P50", "P95")
	for _, svc := range s.Services {
		rps, success, p50, p95 := "-", "-", "-", "-"
		if e := svc.Traffic; e != nil {
			rps, success, p50, p95 = e.Cells()
		}
		t.add(svc.Name, svc.Namespace, strings.Join(svc.Ports, " "), fmt.Sprintf("%d/%d", svc.Ready, svc.Endpoints), svc.MTLS, rps, success, p50, p95)
	}
	if err := t.write(c.Out); err != nil {
		return err
	}
	synced := 0
	for _, p := range s.Proxies {
		if p.Synced {
			synced++
		}
	}
	errs, unsupported := 0, 0
	for _, p := range s.Problems {
		switch p.Level {
		case apis.LevelError:
			errs++
		case apis.LevelUnsupported:
			unsupported++
		}
	}
	_, err := fmt.Fprintf(c.Out, "\nPROXIES  %d/%d synced   PROBLEMS  %d errors, %d unsupported%s\n", synced, len(s.Proxies), errs, unsupported, next(errs+unsupported > 0, "   see: tulle get problems"))
	return err
}

func next(when bool, text string) string {
	if when {
		return text
	}
	return ""
}

// age is a duration since t in one unit, as kubectl prints it.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

func (c *console) proxyStatusCommand() *cobra.Command {
	var address string
	var output format
	cmd := &cobra.Command{
		Use:     "proxy-status [NAME]",
		Aliases: []string{"ps"},
		Short:   "which configuration each proxy has accepted, and what it refused",
		Args:    oneArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			control, err := c.control(address)
			if err != nil {
				return err
			}
			status, err := app.FetchStatus(cmd.Context(), control)
			if err != nil {
				return failed(err)
			}
			proxies := status.Proxies
			if len(args) == 1 {
				if proxies = selectProxies(proxies, args[0]); len(proxies) == 0 {
					return &call.Error{Code: call.NotFound, Err: fmt.Errorf("no connected proxy is called %q; see: tulle proxy-status", args[0])}
				}
			}
			if output != formatTable {
				return structured(c.Out, output, map[string]any{"proxies": proxies})
			}
			return c.writeProxies(proxies)
		},
	}
	c.controlFlag(cmd, &address)
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func selectProxies(all []app.ProxyStatus, name string) []app.ProxyStatus {
	var out []app.ProxyStatus
	for _, p := range all {
		if p.Name == name || strings.HasPrefix(p.Name, name+".") || p.ID == name {
			out = append(out, p)
		}
	}
	return out
}

func (c *console) writeProxies(proxies []app.ProxyStatus) error {
	t := newTable("NAME", "TYPE", "CDS", "LDS", "EDS", "RDS", "VHDS", "CONNECTED", "IDENTITY")
	for _, p := range proxies {
		state := map[string]string{}
		for _, ts := range p.Types {
			state[ts.Type] = fmt.Sprintf("%s (%d)", ts.State, ts.Resources)
		}
		cell := func(k string) string {
			if s, ok := state[k]; ok {
				return s
			}
			return "-"
		}
		id := p.Identity
		if id == "" {
			id = "plaintext"
		}
		t.add(p.Name, p.Type, cell("CDS"), cell("LDS"), cell("EDS"), cell("RDS"), cell("VHDS"), age(p.Connected), id)
	}
	if err := t.write(c.Out); err != nil {
		return err
	}
	for _, r := range refusals(proxies) {
		if _, err := fmt.Fprintf(c.Out, "\n%s refused by %s: %s\n  %s\n", r.kind, listing(r.proxies), listing(r.resources), r.reason); err != nil {
			return err
		}
	}
	return nil
}

// refusal is one reason, with all that was refused for it.
type refusal struct {
	kind, reason       string
	proxies, resources []string
}

// refusals groups what proxies refused: a mistake in one object is usually
// refused by all of them, in every resource that it reaches.
func refusals(proxies []app.ProxyStatus) []*refusal {
	var out []*refusal
	add := func(kind, reason, proxy, resource string) {
		i := slices.IndexFunc(out, func(r *refusal) bool { return r.kind == kind && r.reason == reason })
		if i < 0 {
			i, out = len(out), append(out, &refusal{kind: kind, reason: reason})
		}
		if !slices.Contains(out[i].proxies, proxy) {
			out[i].proxies = append(out[i].proxies, proxy)
		}
		if resource != "" && !slices.Contains(out[i].resources, resource) {
			out[i].resources = append(out[i].resources, resource)
		}
	}
	for _, p := range proxies {
		for _, ts := range p.Types {
			for _, r := range ts.Rejected {
				add(ts.Type, r.Reason, p.Name, r.Name)
			}
			if ts.Message != "" && len(ts.Rejected) == 0 {
				add(ts.Type, ts.Message, p.Name, "")
			}
		}
	}
	return out
}

// listedMax is how many names a listing spells out.
const listedMax = 3

// listing is a list of names that stays short: "a, b, c and 4 more".
func listing(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "the whole response"
	case n > listedMax+1:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:listedMax], ", "), n-listedMax)
	default:
		return strings.Join(names, ", ")
	}
}
