package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/demo"
	"github.com/tullemesh/tulle/internal/observe"
)

// downTimeout bounds the wait of `down`.
const downTimeout = 60 * time.Second

func (c *console) upCommand() *cobra.Command {
	o := app.UpOptions{}
	cmd := &cobra.Command{
		Use:   "up [DIR]",
		Short: "run the project in DIR: control plane, proxies, gateway, your processes",
		Long: `up reads DIR/tulle.yaml, which says what to run or attach, and every other YAML file below DIR (Istio, Kubernetes
Service...), unchanged and watched: edit a file, and the mesh follows. Ctrl-C or "tulle down" ends everything.`,
		Args: oneArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			var err error
			if o.Dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			screen := &screen{c: c}
			o.Changed = screen.changed
			mesh, err := c.newMesh(cmd.Context(), o)
			if err != nil {
				return c.rootless(cmd.Context(), err)
			}
			screen.head(mesh)
			return mesh.Run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&o.GatewayPort, "gateway-port", 0, "host port of the gateway instead of the project's first one; -1: any free one")
	cmd.Flags().DurationVar(&o.CertificateTTL, "certificate-ttl", 0, "lifetime of workload certificates (24h)")
	transparentFlag(cmd, &o.Transparent)
	return cmd
}

func transparentFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "transparent", false, "run every workload in a network namespace of its own, as a pod (Linux; capture: netns)")
}

// newMesh plans a mesh and prints the problems of its project.
func (c *console) newMesh(ctx context.Context, o app.UpOptions) (*app.Mesh, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.Executable, o.Environ, o.Rootless = exe, os.Environ(), c.rootlessInside
	o.Log = observe.NewLogger(c.Err, observe.LogOptions{})
	mesh, err := app.NewMesh(ctx, o)
	switch {
	case errors.Is(err, app.ErrProject):
		fmt.Fprintln(c.Err, apis.Render(mesh.Problems, map[string][]byte{filepath.Join(o.Dir, "tulle.yaml"): mesh.Text}, c.color(c.Err)))
		return nil, &call.Error{Code: call.Findings, Err: err}
	case errors.Is(err, fs.ErrNotExist):
		return nil, call.Usage("%s has no tulle.yaml\n  see it work:        tulle demo\n  take the shop's:    tulle demo --export DIR", o.Dir)
	}
	return mesh, err
}

// rootless runs our command line again in a user namespace when that is what its
// error asks for.
func (c *console) rootless(ctx context.Context, cause error) error {
	if !errors.Is(cause, app.ErrRootless) {
		return cause
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	code, err := app.RunRootless(ctx, []string{exe, "__stage"}, append([]string{exe, "__rootless"}, c.args...), os.Environ())
	if err != nil {
		return err
	}
	if code != call.OK {
		return &call.Error{Code: code}
	}
	return nil
}

// screen prints a mesh's life as lines that are only ever appended.
type screen struct {
	c     *console
	mu    sync.Mutex
	quiet bool
}

func (s *screen) head(m *app.Mesh) {
	fmt.Fprintf(s.c.Out, "tulle %s   project %s\n", call.Version, m.Project.Name)
	for _, g := range m.Gateways() {
		fmt.Fprintf(s.c.Out, "  gateway       http://%s\n", g)
	}
}

// changed prints phases that a person waits for or must know of.
func (s *screen) changed(p app.ProcessState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet {
		return
	}
	switch p.Phase {
	case app.PhaseServing:
		fmt.Fprintf(s.c.Out, "  ready         %-24s pid %d\n", p.Name, p.PID)
	case app.PhaseUnready:
		fmt.Fprintf(s.c.Out, "  NOT READY     %-24s pid %d   %s\n", p.Name, p.PID, p.LastLine)
	case app.PhaseFailed:
		fmt.Fprintf(s.c.Out, "  FAILED        %-24s %s   last line: %s\n", p.Name, p.Exit, p.LastLine)
	}
}

func (c *console) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "end the mesh that runs here",
		Args:  call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			run, err := app.FindRun(c.stateHome())
			if err != nil {
				return err
			}
			if run == nil {
				return &call.Error{Code: call.NotFound, Err: errors.New("no mesh runs here")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), downTimeout)
			defer cancel()
			if err := app.Down(ctx, run); err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "project %s ended\n", run.Project)
			return nil
		},
	}
}

// hidden are the commands that the program calls itself by.
func (c *console) hidden() []*cobra.Command {
	reap := &cobra.Command{Use: "__reap", Hidden: true, Args: call.NoArgs, RunE: func(*cobra.Command, []string) error { return app.Reap(c.In) }}
	service := &cobra.Command{Use: "__demo NAME", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return demo.Run(cmd.Context(), args[0], demo.Options{Env: c.environment, Log: observe.NewLogger(c.Err, observe.LogOptions{})})
	}}
	stage := &cobra.Command{Use: "__stage", Hidden: true, DisableFlagParsing: true, RunE: func(_ *cobra.Command, args []string) error {
		return app.EnterRootless(args, os.Environ())
	}}
	inside := &cobra.Command{Use: "__rootless", Hidden: true, DisableFlagParsing: true, RunE: func(cmd *cobra.Command, args []string) error {
		if err := app.DieWithParent(); err != nil {
			return err
		}
		again := &console{Streams: c.Streams, environment: c.environment, rootlessInside: true}
		root := again.root()
		root.SetArgs(args)
		return root.ExecuteContext(cmd.Context())
	}}
	return []*cobra.Command{reap, service, stage, inside}
}
