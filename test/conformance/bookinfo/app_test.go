//go:build conformance

package bookinfo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// role is the environment variable by which the test's binary is one of
// bookinfo's applications, version the one that says which version of it.
const (
	role    = "BOOKINFO"
	version = "BOOKINFO_VERSION"
)

// services are the sample's own Service objects.
func services(dir string) []string {
	var out []string
	for _, name := range []string{"bookinfo.yaml", "bookinfo-db.yaml", "bookinfo-mysql.yaml"} {
		out = append(out, filepath.Join(dir, "platform", "kube", name))
	}
	return out
}

// project writes the sample as a project: tulle.yaml for the processes, the
// sample's files for all else.
func project(t *testing.T, dir string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString("name: bookinfo\nservices:\n")
	for _, s := range []struct {
		name, account, protocol string
		port                    int
		versions                []string
	}{
		{"productpage", "bookinfo-productpage", "http", 9080, []string{"v1"}},
		{"details", "bookinfo-details", "http", 9080, []string{"v1", "v2"}},
		{"reviews", "bookinfo-reviews", "http", 9080, []string{"v1", "v2", "v3"}},
		{"ratings", "bookinfo-ratings", "http", 9080, []string{"v1", "v2", "v2-mysql", "v2-mysql-vm"}},
		{"mongodb", "default", "mongo", 27017, []string{"v1"}},
		{"mysqldb", "default", "tcp", 3306, []string{"v1"}},
	} {
		ready := ""
		if s.protocol == "http" {
			ready = "ready: /health, "
		}
		fmt.Fprintf(&text, "  %s:\n    port: %d\n    protocol: %s\n    serviceAccount: %s\n    versions:\n", s.name, s.port, s.protocol, s.account)
		for _, v := range s.versions {
			fmt.Fprintf(&text, "      %s: {%srun: [%q], env: {%s: %s, %s: %s}}\n", v, ready, exe, role, s.name, version, v)
		}
	}
	text.WriteString("gateway: {ports: [8080]}\ncapture: proxy\n")
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "tulle.yaml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(services(dir), filepath.Join(dir, "networking", "bookinfo-gateway.yaml")) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, filepath.Base(path)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// serve is one of the applications.
func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	name := os.Getenv(role)
	if name == "mongodb" || name == "mysqldb" {
		return database(ctx, l, name)
	}
	a := &application{version: os.Getenv(version), client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: readers}}}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p, err := a.answer(r, name)
		if err != nil {
			http.Error(w, name+" "+a.version+": "+err.Error(), http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(p)
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-done:
		return err
	}
}

// database greets with its name and hangs up.
func database(ctx context.Context, l net.Listener, name string) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, name+"\n")
		}()
	}
}

// application is one version of a service that speaks HTTP.
type application struct {
	version string
	client  *http.Client
}

// answer says who made the page, and asks the services that bookinfo's own
// would ask.
func (a *application) answer(r *http.Request, name string) (Page, error) {
	var p Page
	var err error
	switch name {
	case "details":
		p.Details = a.version
	case "productpage":
		if err = a.ask(r, "http://details:9080/details/0", &p); err == nil {
			err = a.ask(r, "http://reviews:9080/reviews/0", &p)
		}
	case "reviews":
		p.Reviews = a.version
		if a.version != "v1" {
			err = a.ask(r, "http://ratings:9080/ratings/0", &p)
		}
	case "ratings":
		p.Ratings = a.version
		switch a.version {
		case "v2":
			p.Database, err = greeting(r.Context(), "MONGODB")
		case "v2-mysql", "v2-mysql-vm":
			p.Database, err = greeting(r.Context(), "MYSQLDB")
		}
	}
	return p, err
}

// ask adds to a page what another service says.
func (a *application) ask(r *http.Request, url string, p *Page) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if user := r.Header.Get("end-user"); user != "" {
		req.Header.Set("end-user", user)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return json.Unmarshal(body, p)
}

// greeting reads the first line of a database, by the address that the mesh
// gives in the environment.
func greeting(ctx context.Context, service string) (string, error) {
	at := net.JoinHostPort(os.Getenv(service+"_SERVICE_HOST"), os.Getenv(service+"_SERVICE_PORT"))
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}
