// Command proxy measures proxies side by side in one run: the same work, the
// same Envoy bootstrap for Envoy and tulle, rounds interleaved, the proxy on
// one processor and the load loop on another. The figure is the proxy's CPU
// time per request; the claim is the ratio to Envoy in the same run.
//
//	go run ./proxy -tulle ../bin/tulle -envoy PATH [-nginx PATH] [-rounds 3] [-seconds 5] [-scenario h1|mtls]
package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/bench/proxy/loop"
	"golang.org/x/sys/unix"
)

type settings struct {
	tulle, envoy, nginx string
	rounds              int
	seconds             time.Duration
	scenario            string
	rates               []float64
	dir                 string
}

func main() {
	var s settings
	flag.StringVar(&s.tulle, "tulle", "../bin/tulle", "tulle binary")
	flag.StringVar(&s.envoy, "envoy", "", "Envoy binary; empty: left out")
	flag.StringVar(&s.nginx, "nginx", "", "nginx binary; empty: left out")
	flag.IntVar(&s.rounds, "rounds", 3, "rounds; the median counts")
	flag.DurationVar(&s.seconds, "seconds", 5*time.Second, "length of one sample")
	flag.StringVar(&s.scenario, "scenario", "h1", "h1: one plaintext proxy; mtls: two proxies with mutual TLS between them")
	flag.Parse()
	s.rates = []float64{1000, 5000, 0}
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// sample is one contender's figure at one rate.
type sample struct {
	micros   float64
	rps      float64
	p50, p99 time.Duration
}

func run(s settings) error {
	dir, err := os.MkdirTemp("", "tulle-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	contenders, backend, err := contenders(s)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range contenders {
			c.stop()
		}
	}()
	for _, c := range contenders {
		if err := c.start(); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	pin(0)
	results := map[string]map[float64][]sample{}
	for range s.rounds {
		for _, rate := range s.rates {
			for _, c := range contenders {
				got, err := measure(c, backend, rate, s.seconds)
				if err != nil {
					return fmt.Errorf("%s at %s: %w", c.name, rateName(rate), err)
				}
				if results[c.name] == nil {
					results[c.name] = map[float64][]sample{}
				}
				results[c.name][rate] = append(results[c.name][rate], got)
			}
		}
	}
	report(s, contenders, results)
	return nil
}

// pin puts the calling thread on one processor where there are several.
func pin(cpu int) {
	if runtime.NumCPU() < 2 {
		return
	}
	var set unix.CPUSet
	set.Set(cpu)
	_ = unix.SchedSetaffinity(0, &set)
}

func measure(c *contender, backend netip.AddrPort, rate float64, length time.Duration) (sample, error) {
	before := c.cpu()
	res, err := loop.Run(loop.Load{Target: c.listen, Backend: backend, Body: 1024, Connections: 64, Rate: rate, For: length, Head: []byte(requestHead)})
	if err != nil {
		return sample{}, err
	}
	spent := c.cpu() - before
	return sample{micros: float64(spent.Microseconds()) / float64(res.Done), rps: res.Rate(), p50: res.P50, p99: res.P99}, nil
}

const requestHead = "GET /api/v1/items/42?x=1 HTTP/1.1\r\nHost: svc.default.svc.cluster.local\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nx-tenant: blue\r\ncookie: session=0123456789abcdef\r\n\r\n"

func rateName(rate float64) string {
	if rate == 0 {
		return "saturated"
	}
	return fmt.Sprintf("%g rps", rate)
}

func report(s settings, contenders []*contender, results map[string]map[float64][]sample) {
	fmt.Printf("scenario %s, %d rounds of %s, 64 keep-alive connections, 1 KiB answers; median CPU per request\n\n", s.scenario, s.rounds, s.seconds)
	fmt.Printf("%-10s %-10s %12s %10s %10s %10s %10s\n", "rate", "proxy", "CPU µs/req", "× Envoy", "rps", "p50 µs", "p99 µs")
	for _, rate := range s.rates {
		for _, c := range contenders {
			m := median(results[c.name][rate])
			ratio := "-"
			if e, ok := results["envoy"]; ok {
				ratio = fmt.Sprintf("%.2f", m.micros/median(e[rate]).micros)
			}
			fmt.Printf("%-10s %-10s %12.1f %10s %10.0f %10d %10d\n", rateName(rate), c.name, m.micros, ratio, m.rps, m.p50.Microseconds(), m.p99.Microseconds())
		}
	}
	fmt.Println()
	for _, c := range contenders {
		fmt.Printf("%-10s RSS %s\n", c.name, c.memory())
	}
}

func median(all []sample) sample {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b sample) int { return int(a.micros*1000) - int(b.micros*1000) })
	return sorted[len(sorted)/2]
}

// write puts text into a file of the run's folder and returns its path.
func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(strings.TrimLeft(text, "\n")), 0o600)
}
