package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
)

func (c *console) analyzeCommand() *cobra.Command {
	var files []string
	var meshConfig string
	var output format
	cmd := &cobra.Command{
		Use:   "analyze -f FILE|DIR",
		Short: "check Istio YAML: every mistake with its place, effect and remedy",
		Long: `analyze reads objects as the control plane would and prints every problem: what is invalid, what Istio knows and
tulle does not do yet, what refers to something that is not there. Exit code 3 when there is an error.`,
		Args: call.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return call.Usage("analyze needs -f FILE|DIR with the objects to check")
			}
			found, err := app.Analyze(cmd.Context(), files, meshConfig)
			if err != nil {
				return err
			}
			if output != formatTable {
				err = structured(c.Out, output, found)
			} else {
				err = c.writeFindings(found)
			}
			if err == nil && found.Errors() > 0 {
				err = &call.Error{Code: call.Findings}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or folder with objects (repeatable)")
	cmd.Flags().StringVar(&meshConfig, "mesh-config", "", "file with Istio's MeshConfig")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (c *console) writeFindings(f *app.Findings) error {
	if len(f.Problems) > 0 {
		fmt.Fprintln(c.Out, apis.Render(f.Problems, f.Sources, c.color(c.Out)))
	}
	_, err := fmt.Fprintf(c.Out, "%d objects: %d errors, %d unsupported, %d warnings\n", f.Objects, f.Errors(), f.Count(apis.LevelUnsupported), f.Count(apis.LevelWarning))
	return err
}
