package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tullemesh/tulle/bench/proxy/loop"
)

// meter takes the proxies' CPU between two moments, and how much of their
// processor others had meanwhile.
type meter struct {
	contender  *contender
	at         time.Time
	cpu, busy  time.Duration
	took, used time.Duration
	others     time.Duration
}

func (m *meter) begin() { m.at, m.cpu, m.busy = time.Now(), m.contender.cpu(), busy() }

func (m *meter) end() {
	m.took, m.used = time.Since(m.at), m.contender.cpu()-m.cpu
	m.others = max(busy()-m.busy-m.used, 0)
}

func (m *meter) sample(units float64) sample {
	return sample{Cost: float64(m.used.Nanoseconds()) / 1000 / units, Rate: units / m.took.Seconds(), Foreign: float64(m.others) / float64(m.took), units: units}
}

// units is what a load's cost is divided by.
type units func(loop.Load, loop.Result) float64

func requests(_ loop.Load, r loop.Result) float64 { return float64(r.Done) }

// mebibytes counts one MiB up and one down as one.
func mebibytes(l loop.Load, r loop.Result) float64 {
	return float64(r.Done) * float64(l.Body) / (1 << 20)
}

// gibibytes has the cost in milliseconds: thousandths of a GiB.
func gibibytes(_ loop.Load, r loop.Result) float64 { return float64(r.Bytes) / (1 << 30) * 1000 }

const grpcFrame = 5

func messages(l loop.Load, r loop.Result) float64 {
	return float64(r.Bytes) / float64(l.Body+grpcFrame)
}

// load measures a load of the loop.
func load(l loop.Load, per units) probe {
	return func(b *bench, c *contender) (sample, error) { return b.load(c, l, per) }
}

func (b *bench) load(c *contender, l loop.Load, per units) (sample, error) {
	m := &meter{contender: c}
	l.Target, l.For, l.Hosts = c.listen, b.length, b.scenario.shape.hosts()
	l.Begin, l.End = m.begin, m.end
	runtime.GC()
	r, err := b.loop.Run(l)
	if err != nil {
		return sample{}, err
	}
	n := per(l, r)
	if n == 0 {
		return sample{}, fmt.Errorf("nothing came back in %s", l.For)
	}
	s := m.sample(n)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	s.P50, s.P99, s.P999, s.Max, s.Failed = micros(r.P50), micros(r.P99), micros(r.P999), micros(r.Max), r.Failed
	if l.Protocol == loop.Bulk {
		s.Rate /= 1000
	}
	if want := int(l.Rate * l.For.Seconds()); l.Rate > 0 && r.Done < want {
		s.Note = fmt.Sprintf("%d of %d requests of the schedule were answered", r.Done, want)
	}
	return s, nil
}

// dumped has the whole configuration read twice during the load, as istioctl
// would, which is what makes our runtime collect garbage: traffic makes none. A
// program of low priority reads it, so that the load is not late by it.
func dumped(l loop.Load) probe {
	return func(b *bench, c *contender) (sample, error) {
		var wait sync.WaitGroup
		var failed error
		wait.Go(func() {
			for range 2 {
				<-time.After(b.length / 3)
				if err := exec.Command("nice", "-n", "29", "curl", "-sSf", "-o", "/dev/null", "http://"+c.admin[0].String()+"/config_dump?include_eds").Run(); err != nil {
					failed = fmt.Errorf("read the configuration: %w", err)
				}
			}
		})
		s, err := b.load(c, l, requests)
		wait.Wait()
		return s, errors.Join(err, failed)
	}
}

// errUnmeasured is of a contender that has no such figure.
var errUnmeasured = errors.New("not measured")

// allocated is how many objects our runtime allocates for a request; others
// don't say. It also holds us to having counted every request in Istio's
// metrics, which is part of the work.
func allocated(l loop.Load) probe {
	return func(b *bench, c *contender) (sample, error) {
		if c.name != tulleName {
			return sample{}, errUnmeasured
		}
		var first, before, after string
		var failed error
		read := func(into *string) func() {
			return func() {
				_, counted := ask(c, "/memory") // has what processors have not told yet counted
				var err error
				*into, err = metrics(c)
				failed = errors.Join(failed, counted, err)
			}
		}
		l := l
		l.Target, l.For, l.End = c.listen, b.length, read(&after)
		l.Begin = func() { // what is read twice in between says what reading costs
			read(&first)()
			read(new(string))()
			read(&before)()
		}
		r, err := b.loop.Run(l)
		if err = errors.Join(err, failed); err != nil {
			return sample{}, err
		}
		// What is under way at the end is counted by one side and not yet by the other.
		counted, underWay := metric(after, "istio_requests_total")-metric(before, "istio_requests_total"), float64(l.Connections*max(l.Streams, 1))
		if math.Abs(counted-float64(r.Done)) > underWay {
			return sample{}, fmt.Errorf("%.0f of %d requests are in istio_requests_total", counted, r.Done)
		}
		const name = "go_memstats_mallocs_total"
		reading := (metric(before, name) - metric(first, name)) / 2
		return sample{Cost: max(metric(after, name)-metric(before, name)-reading, 0) / float64(r.Done), Rate: r.Rate()}, nil
	}
}

// metrics is what the admin port says in Prometheus' text.
func metrics(c *contender) (string, error) { return ask(c, "/stats/prometheus") }

// ask reads a page of the front proxy's admin port.
func ask(c *contender, path string) (string, error) {
	client := http.Client{Timeout: startPatience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + c.admin[0].String() + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(text), err
}

// metric is the sum of a metric's series.
func metric(text, name string) float64 {
	sum := 0.0
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimRight(rest, "\n"), ' '):]), 64)
		if err == nil {
			sum += value
		}
	}
	return sum
}

// collection is a line of GODEBUG=gctrace=1: the first and the third clock
// times are those for which the world stood still.
var collection = regexp.MustCompile(`(?m)^gc \d+ @\S+ \d+%: ([\d.]+)\+[\d.]+\+([\d.]+) ms clock.*?(\d+) MB goal`)

// collected notes our garbage collections during the sample.
func collected(inner probe) probe {
	return func(b *bench, c *contender) (sample, error) {
		before := len(c.logged())
		s, err := inner(b, c)
		if err != nil || c.name != tulleName {
			return s, err
		}
		all := collection.FindAllStringSubmatch(c.logged()[before:], -1)
		var pauses []float64
		goal := ""
		for _, m := range all {
			first, _ := strconv.ParseFloat(m[1], 64)
			last, _ := strconv.ParseFloat(m[2], 64)
			pauses = append(pauses, first*1000, last*1000)
			goal = m[3]
		}
		switch s.Note += fmt.Sprintf("%d garbage collections", len(all)); {
		case len(all) > 0:
			s.Note += fmt.Sprintf(", longest pause %.0f µs, sum %.0f µs, heap goal %s MB", slices.Max(pauses), sum(pauses), goal)
		}
		return s, nil
	}
}

func sum(all []float64) float64 {
	t := 0.0
	for _, v := range all {
		t += v
	}
	return t
}
