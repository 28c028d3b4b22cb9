package app

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/proxy/admin"
	"github.com/tullemesh/tulle/internal/wire"
)

// MeshStatus is what a control plane knows of its mesh at one moment.
type MeshStatus struct {
	Version    string          `json:"version"`
	Started    time.Time       `json:"started"`
	Generation string          `json:"generation"`
	Objects    int             `json:"objects"`
	Problems   []apis.Problem  `json:"problems"`
	Services   []ServiceStatus `json:"services"`
	Proxies    []ProxyStatus   `json:"proxies"`
}

// ServiceStatus is one service of the mesh.
type ServiceStatus struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Host      string   `json:"host"`
	Ports     []string `json:"ports"`
	Addresses []string `json:"addresses"`
	// Ready of Endpoints answer.
	Ready     int    `json:"ready"`
	Endpoints int    `json:"endpoints"`
	External  bool   `json:"external"`
	MTLS      string `json:"mtls"`
	// Traffic is nil where no proxy has reported any.
	Traffic *Traffic `json:"traffic,omitempty"`
}

// ProxyStatus is one connected proxy.
type ProxyStatus struct {
	Name      string       `json:"name"`
	ID        string       `json:"id"`
	Type      string       `json:"type"`
	Version   string       `json:"version"`
	Identity  string       `json:"identity"`
	Connected time.Time    `json:"connected"`
	Mode      string       `json:"mode"`
	Synced    bool         `json:"synced"`
	Types     []TypeStatus `json:"types"`
}

// TypeStatus is the state of one xDS type at one proxy.
type TypeStatus struct {
	Type      string           `json:"type"`
	Resources int              `json:"resources"`
	State     string           `json:"state"` // SYNCED, STALE, NOT SENT, NACKED
	Rejected  []wire.Rejection `json:"rejected,omitempty"`
	Message   string           `json:"message,omitempty"`
}

// ObjectStatus is one accepted object.
type ObjectStatus struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	File      string `json:"file"`
	Line      int    `json:"line"`
}

// monitor serves the monitoring port (Istio's 15014). What names objects, files
// and proxies checks the Host header as the admin port does; metrics and
// probes are asked by whatever name a scraper knows.
func (c *ControlPlane) monitor() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = c.metrics.WritePrometheus(w)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(c.options.Version + "\n"))
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if c.current.Load() == nil {
			http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	inside := func(pattern string, answer func() any) {
		mux.Handle(pattern, admin.CheckHost(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { respond(w, answer()) }), c.options.serverNames()...))
	}
	inside("GET /debug/syncz", func() any { return xds.Syncz(c.server.Status()) })
	inside("GET /tulle/v1/status", func() any { return c.Status() })
	inside("GET /tulle/v1/objects", func() any { return c.objects() })
	return mux
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// Status describes the mesh as the control plane sees it now.
func (c *ControlPlane) Status() MeshStatus {
	s := MeshStatus{Version: c.options.Version, Started: c.started, Problems: []apis.Problem{}, Services: []ServiceStatus{}, Proxies: []ProxyStatus{}}
	if g := c.current.Load(); g != nil {
		s.Generation = g.Version()
		s.Objects = len(g.set.Objects)
		s.Problems = append(s.Problems, g.problems...)
		for _, svc := range g.snapshot.Services() {
			s.Services = append(s.Services, serviceStatus(g.snapshot, svc))
		}
	}
	for _, p := range c.server.Status() {
		s.Proxies = append(s.Proxies, proxyStatus(p))
	}
	return s
}

func serviceStatus(s *model.Snapshot, svc *registry.Service) ServiceStatus {
	out := ServiceStatus{Namespace: svc.Namespace, Name: svc.Name, Host: svc.Hostname, External: svc.External, Ports: []string{}, Addresses: []string{}}
	seen := map[string]bool{}
	for _, p := range svc.Ports {
		out.Ports = append(out.Ports, portText(p))
		for _, e := range s.Endpoints(svc, p.Number) {
			key := e.Host + e.Pipe
			for _, a := range e.Addresses {
				key += a.String()
			}
			key += e.Workload
			if seen[key] {
				continue
			}
			seen[key] = true
			out.Endpoints++
			if e.Ready && !e.Draining {
				out.Ready++
			}
		}
	}
	for _, a := range svc.Addresses {
		out.Addresses = append(out.Addresses, a.Addr().String())
	}
	if len(out.Addresses) == 0 && svc.AutoAddress.IsValid() {
		out.Addresses = append(out.Addresses, svc.AutoAddress.String())
	}
	out.MTLS = "-"
	if !svc.External {
		switch s.PeerAuth(svc.Namespace, svc.Selector).Mode {
		case model.MTLSStrict:
			out.MTLS = "STRICT"
		case model.MTLSDisable:
			out.MTLS = "DISABLE"
		default:
			out.MTLS = "PERMISSIVE"
		}
	}
	return out
}

func portText(p registry.Port) string {
	text := p.Name
	if text == "" {
		text = "port"
	}
	return text + ":" + strconv.Itoa(p.Number)
}

func proxyStatus(p xds.ProxyStatus) ProxyStatus {
	out := ProxyStatus{Name: p.Node.Name + "." + p.Node.Namespace, ID: p.Node.ID, Type: string(p.Node.Type), Version: p.Node.UserAgentVersion,
		Identity: p.Peer, Connected: p.Connected, Mode: "sotw", Synced: true, Types: []TypeStatus{}}
	if p.Delta {
		out.Mode = "delta"
	}
	for _, t := range p.Types {
		ts := TypeStatus{Type: wire.ShortType(t.TypeURL), Resources: t.Held, State: "SYNCED"}
		switch {
		case t.Rejected != nil:
			ts.State, ts.Rejected, ts.Message = "NACKED", t.Rejected.Resources, t.Rejected.Message
		case t.SentNonce == "":
			ts.State = "NOT SENT"
		case t.SentNonce != t.AckedNonce:
			ts.State = "STALE"
		}
		if !t.Synced() {
			out.Synced = false
		}
		out.Types = append(out.Types, ts)
	}
	return out
}

func (c *ControlPlane) objects() []ObjectStatus {
	out := []ObjectStatus{}
	if g := c.current.Load(); g != nil {
		for _, o := range g.set.Objects {
			at := o.Position("")
			out = append(out, ObjectStatus{Kind: o.Key.Kind, Namespace: o.Key.Namespace, Name: o.Key.Name, File: at.File, Line: at.Line})
		}
	}
	return out
}
