package cli

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/observe"
)

func (c *console) proxyCommand() *cobra.Command {
	var o app.ProxyOptions
	var level logLevel
	var metadata, addressFile string
	cmd := &cobra.Command{
		Use:   "proxy --xds HOST:PORT --id ID | -c BOOTSTRAP",
		Short: "the data plane in the foreground",
		Long: `proxy is a sidecar or gateway. It takes its configuration from any Istio-style xDS server, or from an Envoy v3 bootstrap:
the same file runs on Envoy. What it does not support in a bootstrap it refuses by name and place.`,
		Example: `  tulle proxy --xds 127.0.0.1:15010 --id sidecar~127.0.0.1~reviews-v1.default~default.svc.cluster.local
  tulle proxy -c envoy.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (o.Bootstrap == "") == (o.XDS == "" && o.XDSTLS == "") {
				return usageError("proxy needs either --xds (or --xds-tls) with --id, or -c BOOTSTRAP")
			}
			if o.Bootstrap == "" && o.ID == "" {
				return usageError("proxy needs --id TYPE~IP~NAME.NAMESPACE~DOMAIN, Istio's node id")
			}
			if metadata != "" {
				data, err := os.ReadFile(metadata)
				if err != nil {
					return err
				}
				if !json.Valid(data) {
					return usageError("--metadata %s is not JSON", metadata)
				}
				o.Metadata = data
			}
			o.Version = Version
			o.Level = &level.level
			o.Stdout = c.Out
			o.Log = observe.NewLogger(c.Err, observe.LogOptions{Level: &level.level})
			proxy, err := app.NewProxy(cmd.Context(), o)
			if err != nil {
				return err
			}
			if a := proxy.Admin(); a != "" {
				fmt.Fprintf(c.Err, "admin at %s\n", a)
			}
			if addressFile != "" {
				if err := writeAddresses(addressFile, proxy.Admin()); err != nil {
					return err
				}
			}
			return proxy.Run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.Bootstrap, "config", "c", "", "Envoy v3 bootstrap, YAML or JSON")
	fl.StringVar(&o.XDS, "xds", "", "plaintext xDS server")
	fl.StringVar(&o.XDSTLS, "xds-tls", "", "xDS server over mutual TLS; certificates come from it, too")
	fl.StringVar(&o.ServerName, "xds-name", "istiod.istio-system.svc", "name that the server's certificate must have")
	fl.StringVar(&o.Roots, "roots", "", "file with the roots of the server's certificate, for --xds-tls")
	fl.StringVar(&o.Token, "token", "", "file with the join token, for the first certificate")
	fl.StringVar(&o.TrustDomain, "trust-domain", "", "trust domain of the workload (cluster.local)")
	fl.StringVar(&o.ID, "id", "", "node id: sidecar~IP~NAME.NS~NS.svc.cluster.local")
	fl.StringVar(&metadata, "metadata", "", "file with node metadata, JSON (Istio's keys)")
	fl.StringVar(&o.Admin, "admin", "127.0.0.1:15000", "admin address, loopback; empty: off")
	fl.StringVar(&o.DNS, "dns", "", "answer the workload's name queries at this address, from the server's name table (DNS_CAPTURE)")
	fl.StringVar(&o.State, "state", "", "folder for the last good configuration and certificate; empty: none is kept")
	fl.StringVar(&addressFile, "address-file", "", "write the bound admin address here")
	level.flag(cmd)
	return cmd
}
