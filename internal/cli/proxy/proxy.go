// Package proxy is the command that runs the data plane alone: `tulle proxy`
// and the program tulle-proxy, which the sidecar image carries. It reaches no
// room of the control plane (test/arch).
//
// In come the words of the call, out goes a running proxy. It keeps no state.
package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app/dataplane"
	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/observe"
)

// Run runs one command line of the program tulle-proxy and returns its exit
// code.
func Run(ctx context.Context, args []string, std call.Streams) int {
	cmd := Command("tulle-proxy", std)
	cmd.Version = call.Version
	return call.Run(ctx, cmd, args, std)
}

// Command is the command, called by words such as "tulle proxy"; its output
// goes to std.
func Command(words string, std call.Streams) *cobra.Command {
	var o dataplane.Options
	var level call.LogLevel
	var metadata, addressFile string
	cmd := &cobra.Command{
		Use:   words[strings.LastIndexByte(words, ' ')+1:] + " --xds HOST:PORT --id ID | -c BOOTSTRAP",
		Short: "the data plane in the foreground",
		Long: `A sidecar or gateway. It takes its configuration from any Istio-style xDS server, or from an Envoy v3 bootstrap:
the same file runs on Envoy. What it does not support in a bootstrap it refuses by name and place.`,
		Example: "  " + words + ` --xds 127.0.0.1:15010 --id sidecar~127.0.0.1~reviews-v1.default~default.svc.cluster.local
  ` + words + ` -c envoy.yaml`,
		Args: call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (o.Bootstrap == "") == (o.XDS == "" && o.XDSTLS == "") {
				return call.Usage("proxy needs either --xds (or --xds-tls) with --id, or -c BOOTSTRAP")
			}
			if o.Bootstrap == "" && o.ID == "" {
				return call.Usage("proxy needs --id TYPE~IP~NAME.NAMESPACE~DOMAIN, Istio's node id")
			}
			if metadata != "" {
				data, err := os.ReadFile(metadata)
				if err != nil {
					return err
				}
				if !json.Valid(data) {
					return call.Usage("--metadata %s is not JSON", metadata)
				}
				o.Metadata = data
			}
			defer holdFloor(cmd.Context())()
			o.Version = call.Version
			o.Level = &level.LevelVar
			o.Stdout = std.Out
			o.Log = observe.NewLogger(std.Err, observe.LogOptions{Level: &level})
			p, err := dataplane.New(cmd.Context(), o)
			if err != nil {
				return err
			}
			if a := p.Admin(); a != "" {
				fmt.Fprintf(std.Err, "admin at %s\n", a)
			}
			if addressFile != "" {
				if err := port.WriteAddresses(addressFile, p.Admin()); err != nil {
					return err
				}
			}
			return p.Run(cmd.Context())
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
	level.Flag(cmd)
	return cmd
}
