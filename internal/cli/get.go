package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/app"
)

func (c *console) getCommand() *cobra.Command {
	var address string
	var output format
	cmd := &cobra.Command{
		Use:   "get [KIND|services|proxies|problems]",
		Short: "list what the control plane holds",
		Example: `  tulle get virtualservices
  tulle get problems`,
		Args: oneArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			control, err := c.control(address)
			if err != nil {
				return err
			}
			what := "objects"
			if len(args) == 1 {
				what = strings.ToLower(args[0])
			}
			t, raw, err := c.collect(cmd, control, what)
			if err != nil {
				return failed(err)
			}
			if output != formatTable {
				return structured(c.Out, output, map[string]any{"items": raw})
			}
			return t.write(c.Out)
		},
	}
	c.controlFlag(cmd, &address)
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (c *console) collect(cmd *cobra.Command, control, what string) (*table, any, error) {
	switch what {
	case "services", "proxies", "problems":
		status, err := app.FetchStatus(cmd.Context(), control)
		if err != nil {
			return nil, nil, err
		}
		t, raw := statusRows(status, what)
		return t, raw, nil
	}
	objects, err := app.FetchObjects(cmd.Context(), control)
	if err != nil {
		return nil, nil, err
	}
	t := newTable("KIND", "NAMESPACE", "NAME", "PLACE")
	picked := []app.ObjectStatus{}
	for _, o := range objects {
		if what != "objects" && strings.ToLower(o.Kind) != what && strings.ToLower(o.Kind)+"s" != what {
			continue
		}
		picked = append(picked, o)
		t.add(o.Kind, o.Namespace, o.Name, o.File+":"+strconv.Itoa(o.Line))
	}
	if what != "objects" && len(picked) == 0 {
		return nil, nil, fmt.Errorf("no object of kind %q: %w", what, app.ErrNotFound)
	}
	return t, picked, nil
}

func statusRows(s *app.MeshStatus, what string) (*table, any) {
	switch what {
	case "services":
		t := newTable("NAMESPACE", "NAME", "HOST", "PORTS", "ADDRESSES", "ENDPOINTS")
		for _, v := range s.Services {
			t.add(v.Namespace, v.Name, v.Host, strings.Join(v.Ports, " "), strings.Join(v.Addresses, " "), fmt.Sprintf("%d/%d", v.Ready, v.Endpoints))
		}
		return t, s.Services
	case "proxies":
		t := newTable("NAME", "TYPE", "SYNCED", "CONNECTED")
		for _, p := range s.Proxies {
			t.add(p.Name, p.Type, strconv.FormatBool(p.Synced), age(p.Connected))
		}
		return t, s.Proxies
	}
	t := newTable("LEVEL", "CODE", "OBJECT", "PLACE", "MESSAGE")
	for _, p := range s.Problems {
		t.add(string(p.Level), p.Code, p.Key.String(), p.Position.String(), p.Message)
	}
	return t, s.Problems
}
