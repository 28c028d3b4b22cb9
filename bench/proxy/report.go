package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// record is what a run leaves behind.
type record struct {
	Date     time.Time
	Machine  machine
	Versions map[string]string
	Rounds   int
	Length   string
	Tables   []*table
}

func newRecord(s settings) *record {
	r := &record{Date: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Versions: map[string]string{}, Rounds: s.rounds, Length: s.length.String()}
	for name, command := range map[string][]string{
		envoyName: {s.envoy, "--version"}, tulleName: {s.tulle, "--version"}, nginxName: {s.nginx, "-v"}, haproxyName: {s.haproxy, "-v"},
	} {
		if command[0] != "" {
			r.Versions[name] = version(command[0], command[1:]...)
		}
	}
	return r
}

func (r *record) save(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	var names []string
	for _, t := range r.Tables {
		names = append(names, t.Scenario)
	}
	path := filepath.Join(dir, r.Date.Format("2006-01-02T1504")+"-"+strings.Join(names, "-")+".json")
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// table is one scenario's result.
type table struct {
	Scenario, About string
	Load            string // the load average before
	Rows            []*figures
	Notes           []string `json:",omitempty"`
	rounds          int
	length          time.Duration
}

// figures is one row of every contender.
type figures struct {
	Name, Unit string
	Goal       string              `json:",omitempty"`
	Samples    map[string][]sample // by contender, in the order of the rounds
	Medians    map[string]sample
	Ratios     map[string]float64 // to Envoy: the median of the rounds' ratios
	Verdict    string             `json:",omitempty"`
	row        row
}

func newTable(sc scenario, s settings) *table {
	t := &table{Scenario: sc.name, About: sc.about, Load: thisMachine().LoadBefore, rounds: s.rounds, length: s.length}
	for _, r := range sc.rows {
		t.Rows = append(t.Rows, &figures{Name: r.name, Unit: r.unit, Goal: r.words(), Samples: map[string][]sample{}, row: r})
	}
	return t
}

func (t *table) add(row int, name string, s sample) {
	f := t.Rows[row]
	f.Samples[name] = append(f.Samples[name], s)
}

// words are the row's goals.
func (r row) words() string {
	var all []string
	if r.goal > 0 {
		all = append(all, fmt.Sprintf("≤ %.2f ×", r.goal))
	}
	if r.most > 0 {
		all = append(all, "≤ "+number(r.most))
	}
	if r.peer != "" {
		all = append(all, "≤ "+r.peer)
	}
	if r.latency {
		all = append(all, "p50, p99 ≤ Envoy")
	}
	if r.tail {
		all = append(all, "p99.9 ≤ Envoy")
	}
	return strings.Join(all, "; ")
}

// judge fills in medians, ratios and the verdict.
func (f *figures) judge() {
	f.Medians, f.Ratios = map[string]sample{}, map[string]float64{}
	for name, samples := range f.Samples {
		f.Medians[name] = median(samples)
		if base := f.Samples[envoyName]; len(base) == len(samples) && name != envoyName {
			var ratios []float64
			for i := range samples {
				ratios = append(ratios, samples[i].Cost/base[i].Cost)
			}
			slices.Sort(ratios)
			f.Ratios[name] = ratios[len(ratios)/2]
		}
	}
	ours, present := f.Medians[tulleName]
	envoy, paired := f.Medians[envoyName]
	if !present || f.Goal == "" || !paired && f.row.most == 0 {
		return
	}
	var missed []string
	check := func(ok bool, what string) {
		if !ok {
			missed = append(missed, what)
		}
	}
	if f.row.goal > 0 && paired {
		check(f.Ratios[tulleName] <= f.row.goal, "ratio")
	}
	if f.row.most > 0 {
		check(ours.Cost <= f.row.most, f.Unit)
	}
	if peer, ok := f.Medians[f.row.peer]; ok {
		check(ours.Cost <= peer.Cost, f.row.peer)
	}
	if f.row.latency && paired {
		check(ours.P50 <= envoy.P50, "p50")
		check(ours.P99 <= envoy.P99, "p99")
	}
	if f.row.tail && paired {
		check(ours.P999 <= envoy.P999, "p99.9")
	}
	f.Verdict = "met"
	if len(missed) > 0 {
		f.Verdict = "**missed: " + strings.Join(missed, ", ") + "**"
	}
}

// median takes each figure's own median.
func median(all []sample) sample {
	at := func(get func(sample) float64) float64 {
		var values []float64
		for _, s := range all {
			values = append(values, get(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	m := sample{Cost: at(func(s sample) float64 { return s.Cost }), Rate: at(func(s sample) float64 { return s.Rate }),
		P50: at(func(s sample) float64 { return s.P50 }), P99: at(func(s sample) float64 { return s.P99 }), P999: at(func(s sample) float64 { return s.P999 }),
		Max: at(func(s sample) float64 { return s.Max }), Foreign: at(func(s sample) float64 { return s.Foreign }), Note: all[len(all)-1].Note}
	for _, s := range all {
		m.Failed += s.Failed
	}
	return m
}

// markdown is the table as the documentation has it: a line for each row.
func (t *table) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "### %s\n\n%s. Median of %d × %s; load average before %s.\n\n", t.Scenario, t.About, t.rounds, t.length, t.Load)
	out.WriteString("| work | unit | Envoy | tulle | tulle ÷ Envoy | goal | | nginx | haproxy | a second, Envoy / tulle | p50, p99, p99.9 µs of Envoy | of tulle | others' share |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	notes := t.Notes
	for _, f := range t.Rows {
		f.judge()
		envoy, tulle := f.Medians[envoyName], f.Medians[tulleName]
		cost := func(name string) string {
			m, ok := f.Medians[name]
			switch {
			case !ok:
				return ""
			case m.Cost == 0:
				return "0"
			}
			return number(m.Cost)
		}
		foreign := 0.0
		for _, name := range []string{envoyName, tulleName, nginxName, haproxyName} {
			m := f.Medians[name]
			foreign = max(foreign, m.Foreign)
			if m.Note != "" {
				notes = append(notes, fmt.Sprintf("%s, %s: %s", f.Name, name, m.Note))
			}
			if m.Failed > 0 {
				notes = append(notes, fmt.Sprintf("%s, %s: %d requests failed", f.Name, name, m.Failed))
			}
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %.0f %% |\n", f.Name, f.Unit, cost(envoyName), cost(tulleName), number(f.Ratios[tulleName]),
			f.Goal, f.Verdict, cost(nginxName), cost(haproxyName), pair(number(envoy.Rate), number(tulle.Rate)), envoy.percentiles(), tulle.percentiles(), foreign*100)
	}
	out.WriteString("\n")
	for _, n := range notes {
		fmt.Fprintf(&out, "- %s\n", n)
	}
	return out.String()
}

func (s sample) percentiles() string {
	if s.P50 == 0 {
		return ""
	}
	return number(s.P50) + ", " + number(s.P99) + ", " + number(s.P999)
}

// pair writes two figures of which both may be missing.
func pair(a, b string) string {
	if a == "" && b == "" {
		return ""
	}
	return a + " / " + b
}

// number writes a figure with three significant digits or all before the
// point; nothing for 0.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return ""
	case a < 0.1:
		return fmt.Sprintf("%.3f", v)
	case a < 10:
		return fmt.Sprintf("%.2f", v)
	case a < 100:
		return fmt.Sprintf("%.1f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
