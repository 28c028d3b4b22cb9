//go:build conformance

// Package bookinfo_test runs Istio's bookinfo sample on the real mesh: its YAML unmodified, Go stand-ins in place of its applications,
// capture proxy, under PERMISSIVE and STRICT.
//
// The sample is read from TULLE_ISTIO_DATA or ../shared/data/istio beside the checkout. Each routing rule of the sample is put in place
// as its user would (the file is copied into the project), and the pages that come through the gateway are counted by the versions that
// made them. What is not enforced yet must be refused by place: testdata/refused.golden. Read this file first, then app_test.go.
package bookinfo_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

var (
	update = flag.Bool("update", false, "rewrite the golden file")
	binary string // built once for all tests by TestMain
)

func TestMain(m *testing.M) {
	suite := program.Suite{
		Build: func(dir string) (err error) {
			binary, err = program.Build(context.Background(), dir, program.Tulle)
			return err
		},
		Leaks: func() error { return goleak.Find() },
	}
	if os.Getenv(role) != "" {
		suite.Part = serve
	}
	suite.Main(m)
}

// samples is the sample's folder.
func samples(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "istio")
	}
	dir = filepath.Join(dir, "samples", "bookinfo")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Istio's sample is not at %s", dir)
		}
		t.Skipf("Istio's sample is not at %s: set TULLE_ISTIO_DATA", dir)
	}
	return dir
}

// split is the share in per cent of each version of a service.
type split map[string]int

// rule is one file of the sample, and what pages show under it.
type rule struct {
	file string
	// rules are the subsets' definitions, another file of the sample.
	rules string
	// others and jason are the versions of reviews that users see; details and ratings are one version each, empty where it doesn't matter.
	others, jason    split
	details, ratings string
	database         string
	pages            int
	// tolerance is in points; 0 for what must be exact.
	tolerance float64
}

func rules() []rule {
	const all, mutual, random = "destination-rule-all.yaml", "destination-rule-all-mtls.yaml", "destination-rule-reviews.yaml"
	v1, v2, v3 := split{"v1": 100}, split{"v2": 100}, split{"v3": 100}
	return []rule{
		{file: "virtual-service-all-v1.yaml", rules: mutual, others: v1, jason: v1, details: "v1", pages: 100},
		{file: "virtual-service-reviews-test-v2.yaml", rules: all, others: v1, jason: v2, pages: 100},
		{file: "virtual-service-reviews-jason-v2-v3.yaml", rules: all, others: v3, jason: v2, pages: 100},
		{file: "virtual-service-reviews-v3.yaml", rules: random, others: v3, jason: v3, pages: 100},
		{file: "virtual-service-reviews-90-10.yaml", rules: all, others: split{"v1": 90, "v2": 10}, pages: 10_000, tolerance: 1},
		{file: "virtual-service-reviews-80-20.yaml", rules: all, others: split{"v1": 80, "v2": 20}, pages: 1000, tolerance: 5},
		{file: "virtual-service-reviews-50-v3.yaml", rules: all, others: split{"v1": 50, "v3": 50}, pages: 1000, tolerance: 6},
		{file: "virtual-service-reviews-v2-v3.yaml", rules: random, others: split{"v2": 50, "v3": 50}, pages: 1000, tolerance: 6},
		{file: "virtual-service-details-v2.yaml", rules: all, details: "v2", pages: 100},
		{file: "virtual-service-ratings-db.yaml", rules: all, others: v3, ratings: "v2", database: "mongodb", pages: 100},
		{file: "virtual-service-ratings-mysql.yaml", rules: all, others: v3, ratings: "v2-mysql", database: "mysqldb", pages: 100},
		{file: "virtual-service-ratings-mysql-vm.yaml", rules: all, others: v3, ratings: "v2-mysql-vm", database: "mysqldb", pages: 100},
	}
}

func TestBookinfo(t *testing.T) {
	dir := samples(t)
	m := meshrun.Up(t, binary, project(t, dir))
	inbound := m.Inbound(t, "productpage-v1")
	for _, mode := range []string{"PERMISSIVE", "STRICT"} {
		t.Run(mode, func(t *testing.T) {
			m.Write(t, "mtls.yaml", fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec:\n  mtls: {mode: %s}\n", mode))
			m.Await(t, 10*time.Second, "the mode is in force", func() bool {
				return meshrun.OK(t.Context(), "http://"+inbound+"/health") == (mode == "PERMISSIVE")
			})
			for _, r := range rules() {
				t.Run(r.file, func(t *testing.T) { r.check(t, m, dir) })
			}
			if plain := meshrun.OK(t.Context(), "http://"+inbound+"/health"); plain != (mode == "PERMISSIVE") {
				t.Errorf("a caller without a certificate is admitted: %v", plain)
			}
		})
	}
}

// check puts the rule in place and counts pages.
func (r rule) check(t *testing.T, m *meshrun.Mesh, dir string) {
	for name, file := range map[string]string{"rules.yaml": r.rules, "routes.yaml": r.file} {
		text, err := os.ReadFile(filepath.Join(dir, "networking", file))
		if err != nil {
			t.Fatal(err)
		}
		m.Write(t, name, string(text))
	}
	status := inSync(t, m)
	for _, p := range status.Problems {
		if p.Refuses() {
			t.Errorf("refused: %v", p)
		}
	}
	r.await(t, m)
	began := time.Now()
	pages := browse(t, m, r.pages, "")
	t.Logf("%d pages in %v: %v", r.pages, time.Since(began).Round(time.Millisecond), pages.reviews)
	pages.hold(t, "anybody", r.others, r)
	if r.jason != nil {
		browse(t, m, 100, "jason").hold(t, "jason", r.jason, r)
	}
}

// await waits until pages look like the rule: an edit is live within
// milliseconds, but not in no time.
func (r rule) await(t *testing.T, m *meshrun.Mesh) {
	t.Helper()
	var p Page
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("the last page: %+v %v", p, err)
		}
	}()
	m.Await(t, 5*time.Second, "pages look like the rule", func() bool {
		ok := true
		for range 10 {
			p, err = page(t.Context(), m, "")
			ok = ok && err == nil && (r.others == nil || r.others[p.Reviews] > 0) &&
				(r.details == "" || p.Details == r.details) && (r.ratings == "" || p.Ratings == r.ratings)
		}
		return ok
	})
}

// inSync waits until every proxy has accepted what the files say.
func inSync(t *testing.T, m *meshrun.Mesh) *app.MeshStatus {
	t.Helper()
	var s *app.MeshStatus
	m.Await(t, 10*time.Second, "every proxy is in sync", func() bool {
		var err error
		s, err = app.FetchStatus(t.Context(), m.Running.Monitoring)
		return err == nil && len(s.Proxies) == len(m.Running.Proxies) && !slices.ContainsFunc(s.Proxies, func(p app.ProxyStatus) bool { return !p.Synced })
	})
	return s
}

// Page is what a page shows of who made it.
type Page struct {
	Details  string `json:"details,omitempty"`
	Reviews  string `json:"reviews,omitempty"`
	Ratings  string `json:"ratings,omitempty"`
	Database string `json:"database,omitempty"`
}

// page asks the gateway for one page.
func page(ctx context.Context, m *meshrun.Mesh, user string) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Gateway+"/productpage", nil)
	if err != nil {
		return Page{}, err
	}
	if user != "" {
		req.Header.Set("end-user", user)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer resp.Body.Close()
	var p Page
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != http.StatusOK {
		return p, fmt.Errorf("status %s, %+v: %w", resp.Status, p, err)
	}
	return p, nil
}

// tally counts pages by who made them.
type tally struct {
	mu                                   sync.Mutex
	n                                    int
	reviews, details, ratings, databases map[string]int
	errors                               []string
}

// readers ask for pages at a time.
const readers = 8

// browse asks for n pages.
func browse(t *testing.T, m *meshrun.Mesh, n int, user string) *tally {
	t.Helper()
	c := &tally{n: n, reviews: map[string]int{}, details: map[string]int{}, ratings: map[string]int{}, databases: map[string]int{}}
	work := make(chan struct{})
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for range work {
				p, err := page(t.Context(), m, user)
				c.mu.Lock()
				if err != nil {
					c.errors = append(c.errors, err.Error())
				}
				c.reviews[p.Reviews]++
				c.details[p.Details]++
				c.ratings[p.Ratings]++
				c.databases[p.Database]++
				c.mu.Unlock()
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	return c
}

// hold fails the test where the pages are not as the rule says.
func (c *tally) hold(t *testing.T, who string, want split, r rule) {
	t.Helper()
	if len(c.errors) > 0 {
		t.Errorf("%s: %d of %d pages failed; first: %s", who, len(c.errors), c.n, c.errors[0])
	}
	if want != nil {
		for version, n := range c.reviews {
			if share := 100 * float64(n) / float64(c.n); share < float64(want[version])-r.tolerance || share > float64(want[version])+r.tolerance {
				t.Errorf("%s: %.2f%% of pages have reviews %s, want %d%% within %v points", who, share, version, want[version], r.tolerance)
			}
		}
		for version := range want {
			if c.reviews[version] == 0 {
				t.Errorf("%s: no page has reviews %s", who, version)
			}
		}
	}
	for _, x := range []struct {
		what, want string
		got        map[string]int
	}{{"details", r.details, c.details}, {"ratings", r.ratings, c.ratings}, {"database", r.database, c.databases}} {
		if x.want != "" && x.got[x.want] != c.n {
			t.Errorf("%s: %s is %v, want %s always", who, x.what, x.got, x.want)
		}
	}
}

// TestWhatIsNotEnforcedYetIsRefusedByPlace holds every file of the sample to
// its problems: those of the rules above have none that refuse.
func TestWhatIsNotEnforcedYetIsRefusedByPlace(t *testing.T) {
	dir := samples(t)
	var got strings.Builder
	for _, sub := range []string{"networking", "policy", "gateway-api"} {
		files, err := filepath.Glob(filepath.Join(dir, sub, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatal(sub, err)
		}
		for _, file := range files {
			fmt.Fprintf(&got, "%s/%s\n", sub, filepath.Base(file))
			inputs := append(services(dir), file)
			if strings.HasPrefix(filepath.Base(file), "virtual-service-") {
				inputs = append(inputs, filepath.Join(dir, "networking", "destination-rule-all.yaml"))
			}
			f, err := app.Analyze(t.Context(), inputs, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range f.Problems {
				if p.Refuses() && p.Position.File == file {
					fmt.Fprintf(&got, "  %d:%d %s %s %s %s: %s\n", p.Position.Line, p.Position.Column, p.Level, p.Code, p.Key.Kind, p.Path, p.Message)
				}
			}
		}
	}
	golden := filepath.Join("testdata", "refused.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Error(d)
	}
}
