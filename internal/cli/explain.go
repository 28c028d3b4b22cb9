package cli

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
)

// explainFlags are the flags of `tulle explain` in text form.
type explainFlags struct {
	question  app.Question
	proxyType string
	proxyIPs  []string
	address   string
	headers   []string
	output    format
}

func (c *console) explainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain -f FILE|DIR --port N [flags]",
		Short: "why: what happens to a request, by the code that would do it",
		Long: `explain decides one connection or request over configuration files: no mesh needs to run.
The decision comes from the very code that the proxy runs.`,
		Example: `  tulle explain -f istio/ --port 9080 --host reviews --path /reviews/0 -H end-user:jason
  tulle explain -f istio/ --proxy-type gateway --labels istio=ingressgateway --port 80 --host shop.example`,
		Args: call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.parse()
			if err != nil {
				return err
			}
			answer, err := app.Explain(cmd.Context(), q)
			if err != nil {
				return err
			}
			if answer.Refused > 0 {
				fmt.Fprintf(c.Err, "note: %d errors or unsupported fields in the files do not count here; tulle analyze tells them\n", answer.Refused)
			}
			if f.output != formatTable {
				return structured(c.Out, f.output, answer)
			}
			return writeAnswer(c.Out, answer)
		},
	}
	fl := cmd.Flags()
	q := &f.question
	fl.StringArrayVarP(&q.Files, "filename", "f", nil, "file or folder with objects (repeatable)")
	fl.StringVar(&q.MeshConfig, "mesh-config", "", "file with Istio's MeshConfig")
	fl.StringVar(&f.proxyType, "proxy-type", "sidecar", "sidecar or gateway")
	fl.StringArrayVar(&f.proxyIPs, "proxy-ip", nil, "address of the workload (repeatable)")
	fl.StringVar(&q.Namespace, "namespace", "default", "namespace of the proxy")
	fl.StringToStringVar(&q.Labels, "labels", nil, "labels of the workload, k=v,...")
	fl.StringToStringVar(&q.Metadata, "proxy-metadata", nil, "node metadata, k=v,...")
	fl.BoolVar(&q.Inbound, "inbound", false, "the connection arrives at the workload")
	fl.StringVar(&f.address, "address", "", "destination address")
	fl.IntVar(&q.Port, "port", 0, "destination port")
	fl.StringVar(&q.Protocol, "protocol", "http", "http, http2 or tcp")
	fl.StringVar(&q.TLS, "tls", "none", "none, tls or mtls")
	fl.StringVar(&q.SNI, "sni", "", "server name of the TLS ClientHello")
	fl.StringVar(&q.ALPN, "alpn", "", "application protocols of the ClientHello, comma separated")
	fl.StringVar(&q.Host, "host", "", "Host header")
	fl.StringVar(&q.Path, "path", "/", "request path")
	fl.StringVar(&q.Method, "method", "GET", "request method")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "request header, name:value (repeatable)")
	outputFlag(cmd, &f.output, formatJSON, formatYAML)
	return cmd
}

// parse checks the flags and completes the question.
func (f *explainFlags) parse() (app.Question, error) {
	q := f.question
	if len(q.Files) == 0 {
		return q, call.Usage("explain needs -f FILE|DIR with the objects to decide over")
	}
	if q.Port < 1 || q.Port > 65535 {
		return q, call.Usage("explain needs --port between 1 and 65535")
	}
	switch f.proxyType {
	case "sidecar":
	case "gateway", "router":
		q.Gateway = true
	default:
		return q, call.Usage("--proxy-type %q: sidecar or gateway", f.proxyType)
	}
	if !slices.Contains([]string{"http", "http2", "tcp"}, q.Protocol) {
		return q, call.Usage("--protocol %q: http, http2 or tcp", q.Protocol)
	}
	if !slices.Contains([]string{"none", "tls", "mtls"}, q.TLS) {
		return q, call.Usage("--tls %q: none, tls or mtls", q.TLS)
	}
	if !strings.HasPrefix(q.Path, "/") {
		return q, call.Usage("--path %q does not begin with /", q.Path)
	}
	for _, s := range f.proxyIPs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return q, call.Usage("--proxy-ip: %w", err)
		}
		q.ProxyIPs = append(q.ProxyIPs, a)
	}
	if f.address != "" {
		a, err := netip.ParseAddr(f.address)
		if err != nil {
			return q, call.Usage("--address: %w", err)
		}
		q.Address = a
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return q, call.Usage("-H %q is not name:value", h)
		}
		q.Headers = append(q.Headers, [2]string{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)})
	}
	return q, nil
}

// skippedMax is how many things of one stage that were passed over are printed:
// a mesh has thousands of hosts. JSON has them all.
const skippedMax = 3

// writeAnswer prints the stages with the file and line behind each, then what
// it comes to.
func writeAnswer(out io.Writer, a *app.Answer) error {
	w := bufio.NewWriter(out)
	n := 0
	for i := 0; i < len(a.Trace); {
		stage := a.Trace[i].Stage
		from := i
		for i < len(a.Trace) && a.Trace[i].Stage == stage {
			i++
		}
		skipped := 0
		for _, s := range a.Trace[from:i] {
			if s.Verdict == "skipped" {
				if skipped++; skipped > skippedMax {
					continue
				}
			}
			n++
			writeStep(w, n, &s)
		}
		if more := skipped - skippedMax; more > 0 {
			fmt.Fprintf(w, "      %-12s ... and %d more that do not match\n", stage, more)
		}
	}
	for _, p := range a.Origin {
		fmt.Fprintf(w, "    by %s %s/%s %s%s\n", p.Kind, p.Namespace, p.Name, p.Path, at(&p))
	}
	fmt.Fprintf(w, "  = %s\n", conclusion(a))
	return w.Flush()
}

// mark is for or against; a dash is neither.
func mark(verdict string) string {
	switch verdict {
	case "chosen", "allowed":
		return "✓"
	case "denied", "failed":
		return "×"
	}
	return "-"
}

func writeStep(w io.Writer, n int, s *app.Step) {
	name := s.Name
	if name == "" {
		name = "(unnamed)"
	}
	fmt.Fprintf(w, "%3d %s %-12s %s", n, mark(s.Verdict), s.Stage, name)
	if s.Why != "" {
		fmt.Fprintf(w, "  (%s)", s.Why)
	}
	if s.Origin != nil {
		fmt.Fprint(w, at(s.Origin))
	}
	fmt.Fprintln(w)
}

// at is the place in the files, when there is one.
func at(p *app.Place) string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("  %s:%d:%d", p.File, p.Line, p.Column)
}

func conclusion(a *app.Answer) string {
	switch {
	case a.Error != "":
		return fmt.Sprintf("%s: %s", a.Decision, strings.ReplaceAll(a.Error, "_", " "))
	case a.Missing != "":
		return fmt.Sprintf("%s %d: no cluster %s", a.Decision, a.Status, a.Missing)
	case len(a.Weights) > 1:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(a.Weights)) {
			parts = append(parts, fmt.Sprintf("%s (weight %d)", name, a.Weights[name]))
		}
		return "forward to " + strings.Join(parts, ", ")
	case a.Cluster != "":
		return fmt.Sprintf("%s to %s", a.Decision, a.Cluster)
	case a.Status != 0:
		return fmt.Sprintf("%s %d", a.Decision, a.Status)
	}
	return a.Decision
}
