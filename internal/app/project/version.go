package project

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// ports reads port or ports: a number with the service's protocol, or a list of numbers and of {name, port, protocol}.
func (d *decoder) ports(service *document.Node, f map[string]*document.Node, path string) []Port {
	protocol := "http"
	if n := f["protocol"]; n != nil {
		protocol = d.word(n, path+".protocol", protocols())
	}
	single, many := f["port"], f["ports"]
	switch {
	case single != nil && many != nil:
		d.report(path+".ports", many.Place(), problem.CodeOneof, "port and ports are both set", "remove one of them")
		return nil
	case single != nil:
		return []Port{{Name: protocol, Number: d.port(single, path+".port"), Protocol: protocol}}
	case many == nil:
		d.at(service, path+".port", "a service has a port: the one that callers use", "port: 8080")
		return nil
	}
	items := d.list(many, path+".ports")
	if len(items) > limit.ProjectPortsMax || len(items) == 0 {
		d.at(many, path+".ports", fmt.Sprintf("%d ports, allowed are 1 to %d", len(items), limit.ProjectPortsMax), "")
		return nil
	}
	var ports []Port
	for i, n := range items {
		ipath := document.Index(path+".ports", i)
		p := Port{Protocol: protocol}
		suffix := ""
		if n.Kind == document.Map {
			pf := d.mapping(n, ipath, "name", "port", "protocol")
			if pf["protocol"] != nil {
				p.Protocol = d.word(pf["protocol"], ipath+".protocol", protocols())
			}
			if pf["port"] == nil {
				d.at(n, ipath+".port", "a port has a number", "{name: admin, port: 9090}")
				continue
			}
			p.Number = d.port(pf["port"], ipath+".port")
			suffix = d.label(pf["name"], ipath+".name", "")
		} else {
			p.Number = d.port(n, ipath)
		}
		p.Name = portName(p.Protocol, suffix, p.Number, len(items))
		d.uniquePort(n, ipath, p, ports)
		ports = append(ports, p)
	}
	return ports
}

// portName is protocol-name, as Istio reads the protocol from it; without a name the number tells several ports apart.
func portName(protocol, name string, number uint16, ports int) string {
	switch {
	case name == protocol || strings.HasPrefix(name, protocol+"-"):
		return name
	case name != "":
		return protocol + "-" + name
	case ports == 1:
		return protocol
	}
	return protocol + "-" + strconv.Itoa(int(number))
}

func (d *decoder) uniquePort(n *document.Node, path string, p Port, before []Port) {
	for _, b := range before {
		switch {
		case b.Number == p.Number:
			d.at(n, path, fmt.Sprintf("port %d is written twice", p.Number), "remove one of them")
		case b.Name == p.Name:
			d.at(n, path, fmt.Sprintf("port name %q is used twice", p.Name), "name them differently")
		}
	}
}

// version overlays v with the fields that are written at path.
func (d *decoder) version(v *Version, f map[string]*document.Node, path string, ports []Port) {
	if n := f["run"]; n != nil {
		v.Run = d.command(n, path+".run")
	}
	if n := f["attach"]; n != nil {
		v.Attach = d.attach(n, path+".attach", ports)
	}
	if n := f["replicas"]; n != nil {
		v.Replicas = d.number(n, path+".replicas", 1, limit.ProjectReplicasMax)
	}
	v.Env = d.stringMap(f["env"], path+".env", v.Env, badVariable)
	v.Labels = d.stringMap(f["labels"], path+".labels", v.Labels, badLabel)
	if n := f["ready"]; n != nil {
		s := d.text(n, path+".ready", "/healthz")
		switch {
		case s == "tcp":
			v.Ready = Ready{}
		case strings.HasPrefix(s, "/") && !strings.ContainsAny(s, " \t\r\n#"):
			v.Ready = Ready{Path: s}
		case s != "":
			d.at(n, path+".ready", fmt.Sprintf("%q is neither a path nor tcp", s), `ready: /healthz  requests that path at the first port;  ready: tcp  waits until the port is open`)
		}
	}
	if n := f["publish"]; n != nil {
		v.Publish = d.publish(n, path+".publish", ports)
	}
	v.Capture = d.capture(f["capture"], path+".capture", v.Capture)
	if n := f["cwd"]; n != nil {
		v.Dir = d.text(n, path+".cwd", "./backend")
	}
}

// command reads a line for the shell, or a list of words.
func (d *decoder) command(n *document.Node, path string) Command {
	if n.Kind != document.List {
		s := d.text(n, path, `"./web --port $PORT"`)
		if s != "" && strings.TrimSpace(s) == "" {
			d.at(n, path, "the command is blank", `"./web --port $PORT"`)
		}
		return Command{Shell: s}
	}
	var c Command
	for i, w := range n.Items {
		c.Words = append(c.Words, d.text(w, document.Index(path, i), `["./web", "--port", "$PORT"]`))
	}
	if len(c.Words) == 0 {
		d.at(n, path, "the command has no words", `["./web", "--port", "$PORT"]`)
	}
	return c
}

// attach reads an address for the only port, or a mapping of port names to addresses.
func (d *decoder) attach(n *document.Node, path string, ports []Port) map[string]netip.AddrPort {
	addresses := map[string]netip.AddrPort{}
	if n.Kind != document.Map {
		if len(ports) > 1 {
			d.at(n, path, fmt.Sprintf("the service has %d ports, attach names one address", len(ports)), "attach: {"+ports[0].Name+`: "127.0.0.1:7001", ...}`)
		}
		if len(ports) == 1 {
			addresses[ports[0].Name] = d.addrPort(n, path)
		}
		return addresses
	}
	var known []string
	for _, p := range ports {
		known = append(known, p.Name)
	}
	f := d.mapping(n, path, known...)
	for _, name := range known {
		if f[name] == nil {
			d.at(n, document.Join(path, name), fmt.Sprintf("port %s has no address", name), name+`: "127.0.0.1:7001"`)
			continue
		}
		addresses[name] = d.addrPort(f[name], document.Join(path, name))
	}
	return addresses
}

// addrPort reads IP:port, localhost:port, :port or a port on loopback.
func (d *decoder) addrPort(n *document.Node, path string) netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if n.Kind == document.Int {
		return netip.AddrPortFrom(loopback, d.port(n, path))
	}
	s := d.text(n, path, `"127.0.0.1:7001"`)
	if s == "" {
		return netip.AddrPort{}
	}
	written := s
	if rest, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + rest
	} else if strings.HasPrefix(s, ":") {
		s = "127.0.0.1" + s
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().Zone() != "" {
		d.at(n, path, fmt.Sprintf("%q is not an address with a port", written), `"127.0.0.1:7001", or the port alone`)
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// publish reads a list of ports and of "host:port" pairs.
func (d *decoder) publish(n *document.Node, path string, ports []Port) []Publish {
	var all []Publish
	for i, item := range d.list(n, path) {
		ipath := document.Index(path, i)
		host, inner, pair := strings.Cut(item.Text, ":")
		if !pair {
			inner = host
		}
		h, err := strconv.ParseUint(host, 10, 16)
		p, err2 := strconv.ParseUint(inner, 10, 16)
		if err != nil || err2 != nil || h == 0 {
			d.at(item, ipath, fmt.Sprintf("%q is neither a port nor a pair of ports", item.Text), `8080, or "18080:8080" for host port 18080`)
			continue
		}
		if !slices.ContainsFunc(ports, func(x Port) bool { return x.Number == uint16(p) }) {
			d.at(item, ipath, fmt.Sprintf("the service has no port %d", p), "publish a port of the service")
			continue
		}
		if slices.ContainsFunc(all, func(x Publish) bool { return x.Host == uint16(h) }) {
			d.at(item, ipath, fmt.Sprintf("host port %d is published twice", h), "remove one of them")
			continue
		}
		all = append(all, Publish{Host: uint16(h), Port: uint16(p)})
	}
	return all
}

// badVariable says why a process cannot have a variable, or nothing.
func badVariable(name, value string) string {
	if name == "" || name[0] >= '0' && name[0] <= '9' || strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		return fmt.Sprintf("%q is not the name of an environment variable", name)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Sprintf("the value of %s holds a zero byte, which ends a variable", name)
	}
	if name == "PORT" || strings.HasPrefix(name, "PORT_") || name == "TULLE" || strings.HasPrefix(name, "TULLE_") {
		return fmt.Sprintf("%s is set by the mesh; a variable may hold its value, such as  SERVER_PORT: $PORT", name)
	}
	return ""
}

// badLabel says why a workload cannot have a label, or nothing. Keys and values follow Kubernetes.
func badLabel(key, value string) string {
	switch key {
	case "app", "version":
		return fmt.Sprintf("label %s is the %s's name", key, map[string]string{"app": "service", "version": "version"}[key])
	case tlsModeLabel:
		return fmt.Sprintf("label %s follows from capture", key)
	}
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		prefix, name = "x", key
	}
	if name == "" || !isLabelText(name) || !isLabelText(prefix) || len(key) > 253 {
		return fmt.Sprintf("%q is not the key of a label", key)
	}
	if !isLabelText(value) {
		return fmt.Sprintf("%q is not the value of a label: at most 63 letters, digits, dashes, underscores and dots, a letter or digit first and last", value)
	}
	return ""
}

// isLabelText tells what may stand as a label's value: nothing, or at most 63 of these, no punctuation first and last.
func isLabelText(s string) bool {
	alnum := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' }
	if s == "" {
		return true
	}
	return len(s) <= 63 && alnum(rune(s[0])) && alnum(rune(s[len(s)-1])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !alnum(r) && r != '-' && r != '_' && r != '.' })
}
