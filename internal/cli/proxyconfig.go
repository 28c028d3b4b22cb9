package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
)

func (c *console) proxyConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "proxy-config",
		Aliases: []string{"pc"},
		Short:   "what a proxy holds: listeners, routes, clusters, endpoints, secrets",
		Long:    "proxy-config reads the admin port of a proxy, tulle's or Envoy's: by the name of a workload of the running mesh, or by --admin HOST:PORT.",
		Args:    call.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	add := func(name, alias, short string, rows func(*app.ProxyConfig) (*table, any)) {
		cmd.AddCommand(c.proxyConfigPart(name, alias, short, rows))
	}
	add("listeners", "listener", "listeners and their filter chains", func(p *app.ProxyConfig) (*table, any) {
		t := newTable("LISTENER", "ADDRESS", "PORT", "MATCH", "DESTINATION")
		for _, r := range p.Listeners {
			t.add(r.Listener, r.Address, strconv.Itoa(int(r.Port)), r.Match, r.Destination)
		}
		return t, p.Listeners
	})
	add("routes", "route", "routes with the object behind each", func(p *app.ProxyConfig) (*table, any) {
		t := newTable("NAME", "VHOST NAME", "DOMAINS", "MATCH", "DESTINATION", "ORIGIN")
		for _, r := range p.Routes {
			t.add(r.RouteConfig, r.VirtualHost, r.Domains, r.Match, r.Destination, r.Origin)
		}
		return t, p.Routes
	})
	add("clusters", "cluster", "clusters", func(p *app.ProxyConfig) (*table, any) {
		t := newTable("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE")
		for _, r := range p.Clusters {
			host, port, subset, direction := r.Host, strconv.Itoa(r.Port), r.Subset, r.Direction
			if direction == "" {
				host, port, direction = r.Name, "-", "-"
			}
			if subset == "" {
				subset = "-"
			}
			t.add(host, port, subset, direction, r.Type, r.Origin)
		}
		return t, p.Clusters
	})
	add("endpoints", "endpoint", "endpoints with their health", func(p *app.ProxyConfig) (*table, any) {
		t := newTable("ENDPOINT", "STATUS", "WEIGHT", "LOCALITY", "CLUSTER")
		for _, r := range p.Endpoints {
			t.add(r.Address, r.Health, strconv.Itoa(int(r.Weight)), r.Locality, r.Cluster)
		}
		return t, p.Endpoints
	})
	add("secrets", "secret", "certificates and roots, without keys", func(p *app.ProxyConfig) (*table, any) {
		t := newTable("RESOURCE NAME", "SERIAL", "UPDATED")
		for _, r := range p.Secrets {
			t.add(r.Name, r.Version, r.Updated)
		}
		return t, p.Secrets
	})
	return cmd
}

func (c *console) proxyConfigPart(name, alias, short string, rows func(*app.ProxyConfig) (*table, any)) *cobra.Command {
	var admin string
	var output format
	cmd := &cobra.Command{
		Use: name + " [WORKLOAD]", Aliases: []string{alias}, Short: short, Args: oneArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := c.admin(admin, args)
			if err != nil {
				return err
			}
			config, err := app.FetchProxyConfig(cmd.Context(), address)
			if err != nil {
				return failed(err)
			}
			t, raw := rows(config)
			if output != formatTable {
				return structured(c.Out, output, map[string]any{name: raw})
			}
			return t.write(c.Out)
		},
	}
	cmd.Flags().StringVar(&admin, "admin", "", "admin address of the proxy")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

// admin finds a proxy's admin address: given, or by the workload's name in the
// running mesh.
func (c *console) admin(given string, args []string) (string, error) {
	if given != "" {
		return given, nil
	}
	if len(args) == 0 {
		return "", call.Usage("name a workload of the running mesh, or give --admin HOST:PORT")
	}
	run, err := app.FindRun(c.stateHome())
	if err != nil {
		return "", err
	}
	if run == nil {
		return "", &call.Error{Code: call.Unreachable, Err: fmt.Errorf("no mesh runs here; give --admin HOST:PORT, or start one with: tulle demo")}
	}
	var names []string
	for _, p := range run.Proxies {
		if p.Name == args[0] || strings.HasPrefix(p.Name, args[0]+".") {
			return p.Admin, nil
		}
		names = append(names, p.Name)
	}
	return "", &call.Error{Code: call.NotFound, Err: fmt.Errorf("no proxy %q; there are %s", args[0], strings.Join(names, ", "))}
}
