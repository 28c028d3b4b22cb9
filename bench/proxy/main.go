// Command proxy measures proxies side by side in one run: the same work, the
// same Envoy bootstrap for Envoy and tulle, samples interleaved, the proxies on
// one processor and the load on another. The figure is what the work costs the
// proxy, in CPU time or memory; the claim is the ratio to Envoy in the same run.
//
//	go run ./proxy -tulle ../bin/tulle-proxy -envoy PATH [-rounds 3] [-seconds 5s] [SCENARIO...]
//
// scenario.go is the list of what is measured, loop is the load.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/bench/proxy/loop"
)

type settings struct {
	tulle, envoy, nginx, haproxy string
	rounds                       int
	length                       time.Duration
	connections                  int
	results, profile             string
	foreignMax                   float64
}

// bench is one scenario's run.
type bench struct {
	settings
	scenario  scenario
	dir       string
	authority *authority
	loop      *loop.Loop
}

func main() {
	var s settings
	flag.StringVar(&s.tulle, "tulle", "../bin/tulle-proxy", "tulle-proxy or tulle binary; empty: left out")
	flag.StringVar(&s.envoy, "envoy", "", "Envoy binary; empty: left out")
	flag.StringVar(&s.nginx, "nginx", "", "nginx binary; empty: left out")
	flag.StringVar(&s.haproxy, "haproxy", "", "haproxy binary; empty: left out")
	flag.IntVar(&s.rounds, "rounds", 3, "rounds; the median counts")
	flag.DurationVar(&s.length, "seconds", 5*time.Second, "length of one sample")
	flag.IntVar(&s.connections, "connections", idleConnections, "idle connections")
	flag.StringVar(&s.results, "results", "", "folder for the record of the run; empty: none is kept")
	flag.StringVar(&s.profile, "profile", "", "folder for profiles in place of figures; empty: figures")
	flag.Float64Var(&s.foreignMax, "foreign", 0.2, "a sample is taken again, twice at most, when others had more than this share of the proxies' processor")
	flag.Parse()
	if err := errors.Join(pin(), run(s, flag.Args())); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(s settings, names []string) error {
	all := scenarios()
	var known []string
	for _, sc := range all {
		known = append(known, sc.name)
	}
	if len(names) == 0 {
		names = known
	}
	r := newRecord(s)
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return fmt.Errorf("no scenario %q; there are %q", name, known)
		}
		t, err := measure(s, all[i])
		if err != nil {
			return fmt.Errorf("scenario %s: %w", name, err)
		}
		if s.profile == "" {
			fmt.Println(t.markdown())
			r.Tables = append(r.Tables, t)
		}
	}
	if s.profile != "" {
		return nil
	}
	return r.save(s.results)
}

// measure runs one scenario.
func measure(s settings, sc scenario) (*table, error) {
	b := &bench{settings: s, scenario: sc}
	var err error
	if b.dir, err = os.MkdirTemp("", "tulle-bench"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if b.authority, err = newAuthority(b.dir); err != nil {
		return nil, err
	}
	if b.loop, err = loop.New(sc.shape.backends()); err != nil {
		return nil, err
	}
	defer b.loop.Close()
	all, err := b.contenders()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	if s.profile != "" {
		return nil, b.profiles(all)
	}
	return b.rounds(all)
}

// rounds takes every row's sample of every contender in turn, in the opposite
// order every other round.
func (b *bench) rounds(all []*contender) (*table, error) {
	t := newTable(b.scenario, b.settings)
	running := all[:0:0]
	for _, c := range all {
		switch err := c.start(b.dir); {
		case err == nil:
			running = append(running, c)
		case c.optional:
			t.Notes = append(t.Notes, c.name+" is left out: "+strings.Join(strings.Fields(err.Error()), " "))
			c.stop()
		default:
			return nil, err
		}
		if b.scenario.fresh {
			c.stop()
		}
	}
	for round := range b.settings.rounds {
		for i := range b.scenario.rows {
			for _, c := range running {
				got, err := b.sample(b.scenario.rows[i], c)
				if errors.Is(err, errUnmeasured) {
					continue
				}
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w\n%s", c.name, b.scenario.rows[i].name, err, tail(c.logged()))
				}
				t.add(i, c.name, got)
			}
		}
		fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", b.scenario.name, round+1, b.settings.rounds)
		slices.Reverse(running)
	}
	return t, nil
}

// sample takes a sample, and again when others disturbed it or when it failed;
// the note tells of the latter, and a second failure counts.
func (b *bench) sample(r row, c *contender) (sample, error) {
	best, note := sample{Foreign: math.Inf(1)}, ""
	for range 3 {
		got, err := b.once(r, c)
		switch {
		case errors.Is(err, errUnmeasured), err != nil && note != "":
			return sample{}, err
		case err != nil:
			note = fmt.Sprintf("taken again after: %v; ", err)
			continue
		case got.Foreign < best.Foreign:
			best = got
		}
		if best.Foreign <= b.foreignMax {
			break
		}
	}
	best.Note = note + best.Note
	return best, nil
}

// once takes a sample, of a process of its own where the scenario asks for it.
func (b *bench) once(r row, c *contender) (sample, error) {
	if b.scenario.fresh {
		if err := c.start(b.dir); err != nil {
			return sample{}, err
		}
		defer c.stop()
	}
	return r.probe(b, c)
}

// tail is the end of a log.
func tail(log string) string { return log[max(0, len(log)-2000):] }
