package project_test

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/demo"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMistakesAreReportedAllAndInPlace(t *testing.T) {
	const path = "testdata/refused.txtar"
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(a.Files); i += 2 {
		in, want := a.Files[i], &a.Files[i+1]
		t.Run(in.Name, func(t *testing.T) {
			if want.Name != in.Name+".want" {
				t.Fatalf("%s stands where %s.want should", want.Name, in.Name)
			}
			p, problems := project.Decode("tulle.yaml", in.Data)
			if p != nil {
				t.Error("the project was accepted")
			}
			var got strings.Builder
			for _, p := range problems {
				fmt.Fprintf(&got, "%d:%d %s %s: %s", p.Position.Line, p.Position.Column, p.Code, p.Path, p.Message)
				if p.Code == problem.CodeUnknownField || p.Code == problem.CodeEnum {
					fmt.Fprintf(&got, " (%s)", p.Hint)
				}
				got.WriteByte('\n')
				if p.Level != problem.Error || p.Effect == "" || p.Position.File != "tulle.yaml" {
					t.Errorf("%s: level %q, effect %q, file %q", p.Message, p.Level, p.Effect, p.Position.File)
				}
			}
			if *update {
				want.Data = []byte(got.String())
			} else if d := cmp.Diff(string(want.Data), got.String()); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, text string) *project.Project {
	t.Helper()
	p, problems := project.Decode("tulle.yaml", []byte(text))
	for _, p := range problems {
		t.Error(p)
	}
	if p == nil {
		t.FailNow()
	}
	return p
}

// fixed are addresses as Assign gives them, but the same in every run.
func fixed(p *project.Project) map[string]project.Address {
	all, next := map[string]project.Address{}, uint16(41001)
	for _, w := range p.Workloads() {
		a := project.Address{IP: w.Service.Listen, Ports: map[string]uint16{}, App: map[string]netip.AddrPort{}}
		for _, port := range w.Service.Ports {
			a.App[port.Name] = netip.AddrPortFrom(w.Service.Listen, next)
			a.Ports[port.Name] = next + 1000
			next++
		}
		all[w.Name] = a
	}
	return all
}

func TestProjectCompilesToOrdinaryObjects(t *testing.T) {
	in, err := os.ReadFile("testdata/bookinfo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := decode(t, string(in))
	got, processes, err := project.Compile(p, "/home/me/bookinfo", fixed(p))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	log.Write(got)
	log.WriteString("---\n# Processes\n")
	mesh := map[string]string{"HTTP_PROXY": "http://127.0.0.1:5", "TULLE_WORKLOAD": "w"}
	for _, x := range processes {
		vars := x.Variables()
		for k, v := range mesh {
			vars[k] = v
		}
		words, env := x.Command([]string{"PATH=/bin", "HTTP_PROXY=http://corp:3128", "LOG=info"}, vars)
		fmt.Fprintf(&log, "# %s in %s: %q ready %q\n#   %s\n", x.Workload.Name, x.Dir, words, x.Workload.Version.Ready.Path, strings.Join(env, " "))
	}
	const golden = "testdata/bookinfo.golden.yaml"
	if *update {
		if err := os.WriteFile(golden, log.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), log.String()); d != "" {
		t.Errorf("compiled (-want +got):\n%s", d)
	}
	if _, _, err := project.Compile(p, "/", nil); err == nil {
		t.Error("compiled without addresses")
	}
}

func TestVersionsInheritFromTheirService(t *testing.T) {
	p := decode(t, `
services:
  a:
    port: 80
    run: ./a
    ready: /ok
    cwd: src
    env: {A: 1, B: 2}
    versions:
      v1: {}
      v2: {attach: 7001, env: {B: 3}, ready: tcp}
`)
	v1, v2 := p.Services[0].Versions[0], p.Services[0].Versions[1]
	if v1.Run.Shell != "./a" || v1.Ready.Path != "/ok" || v1.Dir != "src" || !cmp.Equal(v1.Env, map[string]string{"A": "1", "B": "2"}) {
		t.Errorf("v1 %+v", v1)
	}
	if !v2.Run.Empty() || v2.Attach["http"] != netip.MustParseAddrPort("127.0.0.1:7001") || v2.Ready.Path != "" || !cmp.Equal(v2.Env, map[string]string{"A": "1", "B": "3"}) {
		t.Errorf("v2 %+v", v2)
	}
}

func TestAssignedPortsAreFreeAndDistinct(t *testing.T) {
	p := decode(t, `
services:
  a: {ports: [80, 81], run: ./a, replicas: 20}
  b: {port: 80, run: ./b, capture: none, listen: 127.0.0.9}
  c: {port: 80, attach: "127.0.0.1:7001"}
  d: {port: 80, attach: "127.0.0.1:7002", capture: none}
  e: {ports: [80, 81], run: ./e, capture: netns}
`)
	own := netip.MustParseAddr("10.77.0.5")
	kept := ports(t)
	got, err := project.Assign(t.Context(), p, map[string]netip.Addr{"e-v1": own}, kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Settle(); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.AddrPort]string{}
	claim := func(what string, a netip.AddrPort) {
		if other, taken := seen[a]; taken {
			t.Errorf("%s and %s both have %s", other, what, a)
		}
		seen[a] = what
		var lc net.ListenConfig
		ln, err := lc.Listen(t.Context(), "tcp", a.String())
		if err != nil {
			t.Errorf("%s has %s: %v", what, a, err)
			return
		}
		_ = ln.Close()
	}
	for r := range 20 {
		name := fmt.Sprintf("a-v1-%d", r+1)
		for _, port := range []string{"http-80", "http-81"} {
			claim(name+" app", got[name].App[port])
			claim(name+" proxy", netip.AddrPortFrom(got[name].IP, got[name].Ports[port]))
		}
	}
	b := got["b-v1"]
	claim("b", b.App["http"])
	if b.App["http"] != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), b.Ports["http"]) || b.IP.String() != "127.0.0.9" {
		t.Errorf("without a proxy the published port is the application's: %+v", b)
	}
	if c := got["c-v1"]; c.App["http"].Port() != 7001 || c.Ports["http"] == 7001 || c.Ports["http"] == 0 {
		t.Errorf("attached behind a proxy: %+v", c)
	}
	if d := got["d-v1"]; d.App["http"].Port() != 7002 || d.Ports["http"] != 7002 {
		t.Errorf("attached without a proxy: %+v", d)
	}
	if e := got["e-v1"]; e.IP != own || e.Ports["http-81"] != 81 || e.App["http-80"] != netip.AddrPortFrom(own, 80) {
		t.Errorf("in a namespace: %+v", e)
	}
	if _, err := project.Assign(t.Context(), p, nil, ports(t)); err == nil {
		t.Error("assigned a workload of a namespace without its address")
	}
}

func TestReplicasAndWorkloadsHaveLimits(t *testing.T) {
	services := func(n, replicas int) string {
		var b strings.Builder
		b.WriteString("services:\n")
		for i := range n {
			fmt.Fprintf(&b, "  s%d: {port: 80, run: x, replicas: %d}\n", i, replicas)
		}
		return b.String()
	}
	for text, ok := range map[string]bool{
		services(20, 50): true, services(21, 50): false, services(500, 2): true, services(501, 1): false,
	} {
		if p, problems := project.Decode("tulle.yaml", []byte(text)); (p != nil) != ok {
			t.Errorf("accepted %v, want %v: %v", p != nil, ok, problems)
		}
	}
}

func TestTheShopIsAProject(t *testing.T) {
	b, err := demo.Files().Open(project.FileName)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(b); err != nil {
		t.Fatal(err)
	}
	p := decode(t, text.String())
	var names []string
	ports := map[string]uint16{}
	for _, s := range p.Services {
		names = append(names, s.Name)
		ports[s.Name] = s.Ports[0].Number
	}
	if !slices.Equal(names, demo.Names()) {
		t.Errorf("services %v, the binary has %v", names, demo.Names())
	}
	if want := map[string]uint16{"web": 8080, "catalog": 8080, "recommendations": 8080, "payment": 8080, "ledger": 9000, "provider": 80}; !cmp.Equal(ports, want) {
		t.Errorf("ports %v, the services call %v", ports, want)
	}
	if len(p.Workloads()) != 7 {
		t.Errorf("%d workloads, want 7", len(p.Workloads()))
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"testdata/bookinfo.yaml", "testdata/refused.txtar"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		for _, file := range txtar.Parse(b).Files {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, problems := project.Decode("tulle.yaml", data)
		if p == nil {
			if len(problems) == 0 {
				t.Fatal("refused without a problem")
			}
			return
		}
		one, _, err := project.Compile(p, "/", fixed(p))
		if err != nil {
			t.Fatal(err)
		}
		if two, _, _ := project.Compile(p, "/", fixed(p)); !bytes.Equal(one, two) {
			t.Fatal("equal input compiled to different text")
		}
	})
}
