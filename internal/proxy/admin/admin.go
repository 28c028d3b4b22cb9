// Package admin is the proxy's admin port: Envoy's read endpoints as far as
// istioctl, Kiali and Prometheus read them, and the few that change something.
//
// In comes a Proxy, the view of the running engine that the composition root
// gives; out goes an http.Handler. It owns no state. Changes are POST only
// (Envoy documentation, "Administration interface"), and the Host header must
// name an address or localhost, so that no web page can reach the port by DNS
// rebinding. Read admin.go first, then dump.go and clusters.go.
package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/wire"
)

// State is the proxy's life cycle state in Envoy's words
// (envoy.admin.v3.ServerInfo.State).
type State string

// The states.
const (
	Initializing State = "PRE_INITIALIZING"
	Live         State = "LIVE"
	Draining     State = "DRAINING"
)

// Proxy is what the admin port can see and do.
type Proxy interface {
	// State is the life cycle state; only Live is ready.
	State() State
	// Started is when the process began.
	Started() time.Time
	// Node is the node id with its metadata as JSON.
	Node() (id, cluster string, metadata json.RawMessage)
	// Resources are the accepted resources of a type, sorted by name.
	Resources(typeURL string) []Resource
	// Rejected are resources whose newest version was refused.
	Rejected() []Rejection
	// Clusters is the live state of all clusters, sorted by name.
	Clusters() []Cluster
	// Listeners are the listening addresses by listener name.
	Listeners() []Listener
	// Secrets are the certificates in use, without keys.
	Secrets() []Secret
	// WriteMetrics writes Prometheus text.
	WriteMetrics(w io.Writer) error
	// Drain ends listeners; Quit ends the process gracefully.
	Drain(Drain)
	Quit()
	// FailHealth makes a live proxy not ready, as a draining one, until it is
	// taken back; nothing else changes.
	FailHealth(bool)
	// Level reads and sets the log level.
	Level() slog.Level
	SetLevel(slog.Level)
}

// Drain says which listeners end and how (Envoy documentation, "Administration
// interface", POST /drain_listeners). The process goes on.
type Drain struct {
	// InboundOnly leaves listeners alone whose traffic_direction is another.
	InboundOnly bool
	// Graceful asks clients to go elsewhere for the time of a drain first, in
	// which new ones are still served; else nobody new is taken from now on, and
	// open connections go on.
	Graceful bool
	// SkipExit lets the listeners be when the time of a graceful drain is over.
	SkipExit bool
}

// Resource is one accepted xDS resource.
type Resource struct {
	*wire.Resource
	Updated time.Time
	// Static: it came with the bootstrap.
	Static bool
}

// Rejection says why a resource was refused.
type Rejection struct {
	TypeURL, Name, Version, Reason string
	At                             time.Time
}

// Listener is a bound listener.
type Listener struct {
	Name      string
	Addresses []netip.AddrPort
}

// Secret is a certificate or a root bundle in use.
type Secret struct {
	Name     string
	Serial   string
	URI      string
	DNS      []string
	From, To time.Time
	Roots    int
	Updated  time.Time
}

// Cluster is the live state of a cluster.
type Cluster struct {
	Name      string
	AddedBy   string // "via_api", or "static"
	Endpoints []Endpoint
	// Assignment is what the endpoints are called in EDS; empty: they are not
	// from there.
	Assignment string
	Limits     Limits
}

// Limits are a cluster's thresholds.
type Limits struct{ Connections, Pending, Requests, Retries uint32 }

// Endpoint is the live state of one endpoint.
type Endpoint struct {
	Address                     string // "ip:port" or a pipe's path
	Hostname                    string
	Health                      string // "HEALTHY", "UNHEALTHY", "DRAINING", "DEGRADED"
	Weight                      uint32
	Priority                    uint32
	Region, Zone, SubZone       string
	Connections, ConnectFails   uint64 // cx_total, cx_connect_fail
	ActiveConnections           uint64
	Requests, Errors, Successes uint64 // rq_total, rq_error, rq_success
	ActiveRequests, Timeouts    uint64 // rq_active, rq_timeout
}

// Handler serves the admin port. version is what /server_info tells.
func Handler(p Proxy, version string) http.Handler {
	h := &handler{p: p, version: version}
	return CheckHost(pages{
		"/":                 {get: h.index},
		"/ready":            {get: h.ready},
		"/server_info":      {get: h.serverInfo},
		"/config_dump":      {get: h.configDump},
		"/clusters":         {get: h.clusters},
		"/listeners":        {get: h.listeners},
		"/certs":            {get: h.certs},
		"/stats/prometheus": {get: h.metrics},
		"/stats":            {get: h.metrics},
		"/memory":           {get: h.memory},
		"/rejected":         {get: h.rejected},
		"/logging":          {get: h.logging, post: h.logging},
		"/drain_listeners":  {post: h.drain},
		"/healthcheck/fail": {post: h.health(true)},
		"/healthcheck/ok":   {post: h.health(false)},
		"/quitquitquit":     {post: h.quit},
	})
}

// page is what a path answers; nil: the method is not allowed.
type page struct {
	get, post func(http.ResponseWriter, *http.Request) error
}

// pages are the port's paths. http.ServeMux would look up the file and line of
// each pattern's registration, which maps debug tables into a proxy's memory.
type pages map[string]page

// ServeHTTP implements http.Handler.
func (p pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at, ok := p[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	serve, allow := at.get, []string{http.MethodGet, http.MethodHead} // HEAD is GET without the content (RFC 9110 §9.3.2)
	switch {
	case r.Method == http.MethodPost:
		serve = at.post
	case !slices.Contains(allow, r.Method):
		serve = nil
	}
	if serve != nil {
		answer(serve)(w, r)
		return
	}
	if at.get == nil {
		allow = nil
	}
	if at.post != nil {
		allow = append(allow, http.MethodPost)
	}
	w.Header().Set("Allow", strings.Join(allow, ", ")) // RFC 9110 §15.5.6
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
}

// answer turns a handler's error into a 500 with its text.
func answer(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// CheckHost refuses requests whose Host is a name other than localhost or one
// of names: a page of another origin that had its name resolved to our address
// sends its own name.
func CheckHost(next http.Handler, names ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" && !slices.Contains(names, host) {
			http.Error(w, fmt.Sprintf("host %q is not this port's: use localhost or an address", host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type handler struct {
	p       Proxy
	version string
}

func (h *handler) index(w http.ResponseWriter, _ *http.Request) error {
	_, err := io.WriteString(w, `tulle admin
GET  /ready /server_info /config_dump /clusters /listeners /certs /stats/prometheus /memory /rejected /logging
POST /logging?level=debug|info|warning|error /drain_listeners?inboundonly&graceful&skip_exit /healthcheck/fail /healthcheck/ok /quitquitquit
`)
	return err
}

func (h *handler) ready(w http.ResponseWriter, _ *http.Request) error {
	s := h.p.State()
	if s != Live {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, err := fmt.Fprintln(w, s)
	return err
}

func (h *handler) metrics(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path == "/stats" && r.URL.Query().Get("format") != "prometheus" {
		http.Error(w, "only format=prometheus is served", http.StatusBadRequest)
		return nil
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	return h.p.WriteMetrics(w)
}

func (h *handler) listeners(w http.ResponseWriter, _ *http.Request) error {
	for _, l := range h.p.Listeners() {
		for _, a := range l.Addresses {
			if _, err := fmt.Fprintf(w, "%s::%s\n", l.Name, a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *handler) rejected(w http.ResponseWriter, _ *http.Request) error {
	type row struct {
		Type    string    `json:"type"`
		Name    string    `json:"name"`
		Version string    `json:"version"`
		Reason  string    `json:"reason"`
		At      time.Time `json:"at"`
	}
	rows := []row{}
	for _, r := range h.p.Rejected() {
		rows = append(rows, row{r.TypeURL, r.Name, r.Version, r.Reason, r.At})
	}
	return writeJSON(w, map[string]any{"rejected": rows})
}

func (h *handler) logging(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		levels := map[string]slog.Level{"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn, "error": slog.LevelError}
		level, ok := levels[r.URL.Query().Get("level")]
		if !ok {
			http.Error(w, "level is one of debug, info, warning, error", http.StatusBadRequest)
			return nil
		}
		h.p.SetLevel(level)
	}
	_, err := fmt.Fprintf(w, "active loggers:\n  tulle: %s\n", strings.ToLower(h.p.Level().String()))
	return err
}

// drain takes Envoy's options; that one stands there counts, not its value.
func (h *handler) drain(w http.ResponseWriter, r *http.Request) error {
	var d Drain
	for option := range r.URL.Query() {
		switch option {
		case "inboundonly":
			d.InboundOnly = true
		case "graceful":
			d.Graceful = true
		case "skip_exit":
			d.SkipExit = true
		default:
			http.Error(w, fmt.Sprintf("unknown option %q: there are inboundonly, graceful and skip_exit", option), http.StatusBadRequest)
			return nil
		}
	}
	if d.SkipExit && !d.Graceful {
		http.Error(w, "skip_exit requires graceful", http.StatusBadRequest)
		return nil
	}
	h.p.Drain(d)
	_, err := io.WriteString(w, "OK\n")
	return err
}

// health answers what Envoy does to "/healthcheck/fail" and "/healthcheck/ok".
func (h *handler) health(fails bool) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		h.p.FailHealth(fails)
		_, err := io.WriteString(w, "OK\n")
		return err
	}
}

func (h *handler) quit(w http.ResponseWriter, _ *http.Request) error {
	_, err := io.WriteString(w, "OK\n")
	h.p.Quit()
	return err
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(v)
}
