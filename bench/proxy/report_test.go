package main

import (
	"strings"
	"testing"
	"time"
)

// verdictOf judges a row with the samples of Envoy and of us.
func verdictOf(r row, envoy, tulle []sample) string {
	t := newTable(scenario{rows: []row{r}}, settings{})
	for i := range tulle {
		if i < len(envoy) {
			t.add(0, envoyName, envoy[i])
		}
		t.add(0, tulleName, tulle[i])
	}
	t.Rows[0].judge()
	return t.Rows[0].Verdict
}

func TestVerdictFollowsTheGoals(t *testing.T) {
	cost := func(all ...float64) (s []sample) {
		for _, c := range all {
			s = append(s, sample{Cost: c, P50: c, P99: c, P999: c})
		}
		return s
	}
	for name, c := range map[string]struct {
		row          row
		envoy, tulle []sample
		want         string
	}{
		"ratio at its goal":                      {row{goal: 0.5}, cost(10, 10, 10), cost(5, 5, 5), "met"},
		"ratio above it":                         {row{goal: 0.5}, cost(10, 10, 10), cost(5.1, 5.1, 5.1), "missed: ratio"},
		"one disturbed round of three":           {row{goal: 0.5}, cost(10, 10, 10), cost(5, 50, 5), "met"},
		"rounds pair, so that a slow hour is no": {row{goal: 0.5}, cost(10, 40, 40), cost(5, 20, 20), "met"},
		"no Envoy":                               {row{goal: 0.5}, nil, cost(5), ""},
		"an absolute goal without Envoy":         {row{most: 5}, nil, cost(6), "missed"},
		"an absolute goal":                       {row{most: 5}, cost(100), cost(5), "met"},
		"latency above":                          {row{goal: 9, latency: true}, cost(1), cost(2), "missed: p50, p99"},
		"tail above":                             {row{tail: true}, cost(1), cost(2), "missed: p99.9"},
		"no goal":                                {row{}, cost(1), cost(2), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := verdictOf(c.row, c.envoy, c.tulle)
			if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
				t.Errorf("verdict %q, want %q", got, c.want)
			}
		})
	}
}

func TestTableNamesWhatWasMeasured(t *testing.T) {
	tb := newTable(scenario{name: "h1", about: "one sidecar", rows: []row{{name: "saturated", unit: perRequest, goal: 0.28}}}, settings{rounds: 1, length: time.Second})
	tb.add(0, envoyName, sample{Cost: 40, Rate: 25000, P50: 1000, P99: 2000, P999: 3000})
	tb.add(0, tulleName, sample{Cost: 10, Rate: 100000, P50: 500, P99: 900, P999: 1000, Note: "a note", Failed: 3})
	got := tb.markdown()
	for _, want := range []string{
		"| saturated | CPU µs per request | 40.0 | 10.0 | 0.25 | ≤ 0.28 × | met |  |  | 25,000 / 100,000 | 1,000, 2,000, 3,000 | 500, 900, 1,000 | 0 % |",
		"- saturated, tulle: a note\n", "- saturated, tulle: 3 requests failed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestNumbersKeepThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "", 0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := number(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}

// Every scenario's configuration must be one that both can read: what is not
// of a shape must not be in it.
func TestBootstrapsHaveTheirShape(t *testing.T) {
	ca, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range scenarios() {
		ports, err := freePorts(3 + sc.shape.backends())
		if err != nil {
			t.Fatal(err)
		}
		all, err := sc.shape.bootstraps(ports[0], ports[1:3], ports[3:], ca)
		if err != nil || len(all) != sc.shape.sidecars {
			t.Fatalf("%s: %d bootstraps, %v", sc.name, len(all), err)
		}
		var text string
		for _, b := range all {
			one, err := encode(b)
			if err != nil {
				t.Fatal(err)
			}
			text += one
		}
		for what, want := range map[string]bool{
			"DownstreamTlsContext": sc.shape.tls || sc.shape.sidecars == 2,
			"UpstreamTlsContext":   sc.shape.sidecars == 2,
			"http2_protocol":       sc.shape.http2,
			"tcp_proxy":            sc.shape.tcp,
			"filters.http.rbac":    !sc.shape.tcp,
			"cluster-4999":         sc.shape.big,
		} {
			if strings.Contains(text, what) != want {
				t.Errorf("%s: %s is there: %v, want %v", sc.name, what, !want, want)
			}
		}
		if n := strings.Count(text, `"127.`); sc.shape.big && n < 50000 {
			t.Errorf("%d addresses", n)
		}
	}
}

func TestMetricsAreSummed(t *testing.T) {
	const text = "# HELP a_total x\na_total{b=\"c d\"} 2\na_total{b=\"e\"} 3\na_total_more 7\nplain 1.5e+06\n"
	if got := metric(text, "a_total"); got != 5 {
		t.Errorf("a_total %v", got)
	}
	if got := metric(text, "plain"); got != 1.5e6 {
		t.Errorf("plain %v", got)
	}
	if got := metric(text, "absent"); got != 0 {
		t.Errorf("absent %v", got)
	}
}
