package project_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/limit"
)

// repeated is a text so many times, each with its number.
func repeated(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i+1)
	}
	return b.String()
}

// TestProjectsHaveLargestSizes: at one less and at the limit a project runs, at one more it is refused for that alone.
func TestProjectsHaveLargestSizes(t *testing.T) {
	const service = "services:\n  web:\n    run: ./web\n    port: 1\n"
	for _, c := range []struct {
		name, says string
		most       int
		project    func(n int) string
	}{
		{"services", "501 services, the limit is 500", limit.ProjectServicesMax, func(n int) string {
			return "services:\n" + repeated(n, "  s%d: {run: ./web, port: 1}\n")
		}},
		{"ports", "51 ports, allowed are 1 to 50", limit.ProjectPortsMax, func(n int) string {
			return "services:\n  web:\n    run: ./web\n    ports: [" + repeated(n, "{name: http-p%[1]d, port: %[1]d},") + "]\n"
		}},
		{"versions", "51 versions, the limit is 50", limit.ProjectVersionsMax, func(n int) string {
			return service + "    versions: {" + repeated(n, "v%d: {},") + "}\n"
		}},
		{"replicas", "51 is outside of 1 to 50", limit.ProjectReplicasMax, func(n int) string {
			return service + fmt.Sprintf("    replicas: %d\n", n)
		}},
		{"workloads", "1001 workloads, the limit is 1000", limit.ProjectWorkloadsMax, func(n int) string {
			rest := n - (n-1)/limit.ProjectReplicasMax*limit.ProjectReplicasMax
			return "services:\n" + repeated((n-1)/limit.ProjectReplicasMax, fmt.Sprintf("  s%%d: {run: ./web, port: 1, replicas: %d}\n", limit.ProjectReplicasMax)) +
				fmt.Sprintf("  last: {run: ./web, port: 1, replicas: %d}\n", rest)
		}},
		{"variables", "501 entries, the limit is 500", limit.ProjectVariablesMax, func(n int) string {
			return service + "    env: {" + repeated(n, "V%d: x,") + "}\n"
		}},
	} {
		for _, n := range []int{c.most - 1, c.most, c.most + 1} {
			p, problems := project.Decode("tulle.yaml", []byte(c.project(n)))
			if n <= c.most {
				if p == nil || len(problems) != 0 {
					t.Errorf("%d %s: refused, %.300v", n, c.name, problems)
				}
				continue
			}
			if p != nil || len(problems) != 1 || problems[0].Message != c.says {
				t.Errorf("%d %s: want the one problem %q, got %.300v", n, c.name, c.says, problems)
			}
		}
	}
}
