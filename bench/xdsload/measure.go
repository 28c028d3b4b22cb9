package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a process has used.
type usage struct {
	cpu      float64 // seconds
	rss, hwm float64 // MiB: now, and the most so far
}

// readUsage reads /proc; a pid of 0, or a process that is gone, has used
// nothing.
func readUsage(pid int) (u usage) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if pid == 0 || err != nil {
		return u
	}
	// After the command's name in parentheses; fields 14 and 15 of proc(5), in
	// ticks of 10 ms.
	rest := stat[strings.LastIndexByte(string(stat), ')')+2:]
	f := strings.Fields(string(rest))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	u.cpu = (user + system) / 100
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			u.rss = kb / 1024
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kb); err == nil {
			u.hwm = kb / 1024
		}
	}
	return u
}

func ownCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// spread summarizes durations, in milliseconds.
type spread struct {
	n                          int
	first, p50, p90, p99, last float64
}

func spreadOf(d []time.Duration) spread {
	if len(d) == 0 {
		return spread{}
	}
	slices.Sort(d)
	q := func(p float64) float64 {
		i := int(p*float64(len(d))+0.9999) - 1
		return float64(d[max(0, min(i, len(d)-1))].Microseconds()) / 1000
	}
	return spread{len(d), q(0), q(.5), q(.9), q(.99), q(1)}
}

// moment is all counters at one time; a phase is the difference of two.
type moment struct {
	server usage
	client float64 // seconds of CPU
	errs   int64
	totals [3]int64 // messages, bytes, resources
	byType map[string][3]int64
}

func (f *fleet) now(pid int) moment {
	get := func(c *counts) [3]int64 { return [3]int64{c.msgs.Load(), c.bytes.Load(), c.resources.Load()} }
	m := moment{server: readUsage(pid), client: ownCPU(), errs: f.errs.Load(), totals: get(&f.totals), byType: map[string][3]int64{}}
	for t, c := range f.byType {
		m.byType[t] = get(c)
	}
	return m
}

// report prints phases for people and writes them as CSV rows.
type report struct {
	fixed []string // the first columns: server, mode and sizes
	csv   *csv.Writer
	close func() error
}

func header() []string {
	return []string{
		"server", "mode", "services", "endpoints", "namespaces", "localities", "proxies", "phase", "rep", "n_ok",
		"first_ms", "p50_ms", "p90_ms", "p99_ms", "last_ms", "msgs", "bytes", "bytes_per_proxy",
		"server_cpu_s", "server_cpu_ms_per_proxy", "server_rss_mib", "server_hwm_mib", "client_cpu_s", "stream_errors",
	}
}

// newReport appends to path, or only prints when path is empty.
func newReport(path string, fixed []string) (*report, error) {
	r := &report{fixed: fixed, close: func() error { return nil }}
	if path == "" {
		return r, nil
	}
	_, err := os.Stat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	r.csv = csv.NewWriter(file)
	r.close = func() error {
		r.csv.Flush()
		return errors.Join(r.csv.Error(), file.Close())
	}
	if fresh {
		return r, r.csv.Write(header())
	}
	return r, nil
}

// phase tells one phase of some proxies.
func (r *report) phase(name string, rep int, s spread, proxies int, a, b moment) error {
	msgs, size := b.totals[0]-a.totals[0], b.totals[1]-a.totals[1]
	cpu := b.server.cpu - a.server.cpu
	fmt.Printf("%-9s rep=%d ok=%d/%d first=%.0f p50=%.0f p90=%.0f p99=%.0f last=%.0f ms | %d msgs %.2f MB (%.1f kB/proxy) | server cpu %.2fs (%.1f ms/proxy) rss %.0f MiB hwm %.0f | client cpu %.2fs errs %d\n",
		name, rep, s.n, proxies, s.first, s.p50, s.p90, s.p99, s.last, msgs, float64(size)/1e6, float64(size)/1e3/float64(proxies),
		cpu, cpu*1e3/float64(proxies), b.server.rss, b.server.hwm, b.client-a.client, b.errs-a.errs)
	for _, t := range types() {
		if n := b.byType[t][0] - a.byType[t][0]; n > 0 {
			fmt.Printf("            %s: %d msgs, %d resources, %.1f kB/proxy\n", t[strings.LastIndexByte(t, '.')+1:], n,
				b.byType[t][2]-a.byType[t][2], float64(b.byType[t][1]-a.byType[t][1])/1e3/float64(proxies))
		}
	}
	if r.csv == nil {
		return nil
	}
	g := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
	i := func(v int64) string { return strconv.FormatInt(v, 10) }
	row := append(slices.Clone(r.fixed), name, strconv.Itoa(rep), strconv.Itoa(s.n), g(s.first), g(s.p50), g(s.p90), g(s.p99), g(s.last),
		i(msgs), i(size), i(size/int64(proxies)), g(cpu), g(cpu*1e3/float64(proxies)), g(b.server.rss), g(b.server.hwm), g(b.client-a.client), i(b.errs-a.errs))
	if err := r.csv.Write(row); err != nil {
		return err
	}
	r.csv.Flush()
	return r.csv.Error()
}
