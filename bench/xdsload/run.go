package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// settings are run's flags.
type settings struct {
	mesh
	addr, dir, mode, server, csv   string
	proxies, pid, reps             int
	useTLS, single                 bool
	churn, exec, execLog           string
	metrics, metricsOut            string
	quiet, limit, idle, startLimit time.Duration
}

func (s *settings) flags(fs *flag.FlagSet) {
	s.mesh.flags(fs)
	fs.StringVar(&s.addr, "addr", "127.0.0.1:15010", "ADS address")
	fs.BoolVar(&s.useTLS, "tls", false, "TLS without verification and without a client certificate")
	fs.StringVar(&s.dir, "dir", "", "folder made by gen, which the churn phases edit")
	fs.IntVar(&s.proxies, "proxies", 100, "sidecars; sidecar k is an endpoint of service k modulo services")
	fs.StringVar(&s.mode, "mode", "delta", "delta, sotw, or vhds (delta, and virtual hosts as resources of their own)")
	fs.StringVar(&s.server, "server", "server", "name in the CSV")
	fs.StringVar(&s.csv, "csv", "", "append rows to this file")
	fs.IntVar(&s.pid, "pid", 0, "running server, for its CPU and memory")
	fs.StringVar(&s.exec, "exec", "", "start this server (sh -c 'exec ...'), measure it, and end it by SIGTERM")
	fs.StringVar(&s.execLog, "exec-log", "server.log", "output of -exec")
	fs.StringVar(&s.churn, "churn", "endpoint,inline,vs,svc", "phases: endpoint (WorkloadEntry address), inline (ServiceEntry endpoint), vs (header match), svc (service renamed)")
	fs.IntVar(&s.reps, "reps", 3, "repetitions of each churn phase")
	fs.BoolVar(&s.single, "first", true, "measure one proxy alone before the storm")
	fs.DurationVar(&s.quiet, "quiet", 2*time.Second, "silence that ends a phase")
	fs.DurationVar(&s.limit, "limit", 2*time.Minute, "limit of one phase")
	fs.DurationVar(&s.idle, "idle", 5*time.Second, "length of the idle phase")
	fs.DurationVar(&s.startLimit, "start-limit", time.Minute, "limit of the server's start")
	fs.StringVar(&s.metrics, "metrics", "", "Prometheus URL of the server, saved before and after the churn")
	fs.StringVar(&s.metricsOut, "metrics-out", "metrics", "prefix of those files")
}

// runLoad measures all phases.
func runLoad(args []string) (err error) {
	var s settings
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	s.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	f, err := newFleet(&s)
	if err != nil {
		return err
	}
	rep, err := newReport(s.csv, []string{s.server, s.mode, strconv.Itoa(s.services), strconv.Itoa(s.endpoints),
		strconv.Itoa(s.namespaces), strconv.Itoa(s.localities), strconv.Itoa(s.proxies)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.close()) }()
	begin := time.Now()
	stop, err := s.startServer()
	if err != nil {
		return err
	}
	defer stop()
	if err := s.awaitServer(); err != nil {
		return err
	}
	up := spreadOf([]time.Duration{time.Since(begin)})
	if err := rep.phase("startup", 0, up, 1, moment{}, f.now(s.pid)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer f.running.Wait()
	defer cancel()
	if err := s.connectAll(ctx, f, rep); err != nil {
		return err
	}
	if err := s.saveMetrics(".before"); err != nil {
		return err
	}
	if err := s.churnAll(f, rep); err != nil {
		return err
	}
	return s.saveMetrics(".after")
}

func newFleet(s *settings) (*fleet, error) {
	if s.dir == "" || s.services < 1 || s.endpoints < 1 || s.namespaces < 1 || s.localities < 1 || s.proxies < 1 {
		return nil, errors.New("run: -dir is missing, or a count is below 1")
	}
	f := &fleet{addr: s.addr, delta: s.mode != "sotw", creds: insecure.NewCredentials(), reader: newReader(), byType: map[string]*counts{}}
	switch s.mode {
	case "delta", "sotw", "vhds":
	default:
		return nil, fmt.Errorf("run: -mode %q is none of delta, sotw, vhds", s.mode)
	}
	if s.useTLS {
		f.creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	for _, t := range types() {
		f.byType[t] = &counts{}
	}
	for k := range s.proxies {
		node, err := s.node(k, s.mode == "vhds")
		if err != nil {
			return nil, err
		}
		f.proxies = append(f.proxies, &proxy{fleet: f, id: k, node: node, readyCh: make(chan struct{})})
	}
	return f, nil
}

// startServer starts -exec, if any; stop ends it.
func (s *settings) startServer() (stop func(), err error) {
	if s.exec == "" {
		return func() {}, nil
	}
	log, err := os.Create(s.execLog)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-c", "exec "+s.exec)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig follows the thread that started the child
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	s.pid = cmd.Process.Pid
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait() // its exit is not measured
		_ = log.Close()
	}, nil
}

func (s *settings) awaitServer() error {
	end := time.Now().Add(s.startLimit)
	for {
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server did not start: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// connectAll measures one proxy alone, then all others at once, then nothing.
func (s *settings) connectAll(ctx context.Context, f *fleet, rep *report) error {
	stages := []struct {
		name     string
		from, to int
	}{{"first", 0, 1}, {"storm", 1, s.proxies}}
	if !s.single {
		stages = stages[1:]
		stages[0].from = 0
	}
	for _, st := range stages {
		if st.from >= st.to {
			continue
		}
		a := f.now(s.pid)
		f.start(ctx, st.from, st.to)
		took := f.await(st.from, st.to, s.limit)
		f.settle(s.quiet)
		if err := rep.phase(st.name, 0, spreadOf(took), st.to-st.from, a, f.now(s.pid)); err != nil {
			return err
		}
	}
	a := f.now(s.pid)
	time.Sleep(s.idle)
	return rep.phase("idle", 0, spread{}, s.proxies, a, f.now(s.pid))
}

// churnAll edits the folder and waits until all proxies have each edit.
func (s *settings) churnAll(f *fleet, rep *report) error {
	tag := strconv.FormatInt(time.Now().Unix()%100000, 36)
	for phase := range strings.SplitSeq(s.churn, ",") {
		for r := 1; r <= s.reps && phase != ""; r++ {
			c, seenIn, err := makeChange(phase, tag, r)
			if err != nil {
				return err
			}
			m := &marker{types: seenIn, text: []byte(c.marker), done: make(chan struct{}), at: make([]time.Time, s.proxies), left: s.proxies}
			a := f.now(s.pid)
			f.marker.Store(m)
			start := time.Now()
			if err := replace(s.dir, c.file, c.content); err != nil {
				return err
			}
			select {
			case <-m.done:
			case <-time.After(s.limit):
			}
			f.settle(s.quiet)
			f.marker.Store(nil)
			if err := rep.phase(phase, r, spreadOf(m.latencies(start)), s.proxies, a, f.now(s.pid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeChange returns an edit that was not made before, and the types in which
// proxies see it.
func makeChange(phase, tag string, rep int) (change, []string, error) {
	x := int(time.Now().UnixMilli())%60000 + 300
	ip := fmt.Sprintf("10.%d.%d.%d", 203+rep%20, x>>8, x&0xff)
	switch phase {
	case "endpoint":
		return endpointChange(ip), []string{endpointType}, nil
	case "inline":
		return inlineChange(ip), []string{endpointType}, nil
	case "vs":
		return routeChange(fmt.Sprintf("marker-%s-%d-end", tag, rep)), []string{routeType, virtualHostType}, nil
	case "svc":
		return serviceChange(fmt.Sprintf("mutsvc-%s-%d", tag, rep)), []string{clusterType}, nil
	}
	return change{}, nil, fmt.Errorf("run: -churn %q is none of endpoint, inline, vs, svc", phase)
}

func (s *settings) saveMetrics(suffix string) error {
	if s.metrics == "" {
		return nil
	}
	resp, err := http.Get(s.metrics)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return os.WriteFile(s.metricsOut+suffix, b, 0o644)
}
