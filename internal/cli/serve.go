package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/observe"
)

// stateHome is where lasting state goes (XDG Base Directory Specification).
// Without a home it is the current folder: a name in the folder of temporary
// files could be taken by somebody else, who would then own our keys.
func (c *console) stateHome() string {
	if dir := c.environment("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "tulle")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".tulle"
	}
	return filepath.Join(home, ".local", "state", "tulle")
}

func (c *console) serveCommand() *cobra.Command {
	var o app.ServeOptions
	var level call.LogLevel
	var addressFile string
	cmd := &cobra.Command{
		Use:   "serve -f DIR",
		Short: "the control plane in the foreground",
		Long: `serve reads and watches Istio YAML and serves it as xDS v3, so that tulle's proxies, stock Envoy and proxyless gRPC
can be driven by it. Plaintext xDS is for loopback and serves no secrets; with --xds-tls a certificate authority runs, too.`,
		Args: call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.Files) == 0 {
				return call.Usage("serve needs -f FILE|DIR with the objects to serve")
			}
			if o.State == "" {
				o.State = c.stateHome()
			}
			o.Version = call.Version
			o.Log = observe.NewLogger(c.Err, observe.LogOptions{Level: &level})
			plane, err := app.NewControlPlane(cmd.Context(), o)
			if err != nil {
				return err
			}
			plain, secure, monitoring := plane.Addresses()
			for _, line := range []struct{ what, address string }{{"xDS", plain}, {"xDS over TLS, certificates", secure}, {"monitoring", monitoring}} {
				if line.address != "" {
					fmt.Fprintf(c.Out, "serving %s at %s\n", line.what, line.address)
				}
			}
			if addressFile != "" {
				if err := port.WriteAddresses(addressFile, plain, secure, monitoring); err != nil {
					return err
				}
			}
			return plane.Run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&o.Files, "filename", "f", nil, "file or folder with objects, watched (repeatable)")
	fl.StringVar(&o.MeshConfig, "mesh-config", "", "file with Istio's MeshConfig")
	fl.StringVar(&o.XDS, "xds", "127.0.0.1:15010", "plaintext xDS address, loopback only; empty: off")
	fl.BoolVar(&o.AnyPlaintext, "xds-anywhere", false, "allow a plaintext xDS address that other machines reach")
	fl.StringVar(&o.XDSTLS, "xds-tls", "", "address of xDS and certificates over TLS (Istio's 15012)")
	fl.StringArrayVar(&o.ServerNames, "server-name", nil, "further name or address that clients dial --xds-tls by (repeatable)")
	fl.StringVar(&o.Monitoring, "monitoring", "127.0.0.1:15014", "address of metrics and status; empty: off")
	fl.StringVar(&o.State, "state", "", "folder of the certificate authority's keys")
	fl.DurationVar(&o.CertificateTTL, "certificate-ttl", 0, "lifetime of workload certificates (24h)")
	fl.StringVar(&addressFile, "address-file", "", "write the bound addresses here, one a line (for ports asked of the kernel)")
	level.Flag(cmd)
	return cmd
}
