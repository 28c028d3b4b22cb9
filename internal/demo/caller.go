package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// propagated are the request headers that a service hands on to the services it calls: a mesh can join spans into a trace only
// when the applications do this (B3, W3C Trace Context), and a route by user works only for calls that carry the user.
func propagated() []string {
	return []string{
		"x-request-id", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled",
		"x-b3-flags", "x-ot-span-context", "end-user",
	}
}

// caller makes the calls to other services, the way the environment says:
// through HTTP_PROXY when there is one (capture proxy), else to <SVC>_SERVICE_HOST:<SVC>_SERVICE_PORT, else by the service's name.
type caller struct {
	env  func(string) string
	http *http.Transport
}

func newCaller(env func(string) string) (*caller, error) {
	c := &caller{env: env}
	if p := env("HTTP_PROXY"); p != "" {
		if _, err := url.Parse(p); err != nil {
			return nil, fmt.Errorf("read HTTP_PROXY: %w", err)
		}
	}
	proxy := (&httpproxy.Config{HTTPProxy: env("HTTP_PROXY"), NoProxy: env("NO_PROXY")}).ProxyFunc()
	c.http = &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:            c.dial,
		MaxIdleConnsPerHost:    requestsInFlightMax,
		MaxConnsPerHost:        requestsInFlightMax,
		IdleConnTimeout:        idleTimeMax,
		MaxResponseHeaderBytes: headerBytesMax,
	}
	return c, nil
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// dial connects to an address by service name; addresses that the environment does not move are dialled as they are.
func (c *caller) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	name := strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(host))
	if h, p := c.env(name+"_SERVICE_HOST"), c.env(name+"_SERVICE_PORT"); h != "" && p != "" {
		address = net.JoinHostPort(h, p)
	}
	d := net.Dialer{Timeout: callTimeMax}
	return d.DialContext(ctx, network, address)
}

// get calls target on behalf of the request r and decodes its JSON answer into out.
func (c *caller) get(r *http.Request, target string, out any) (err error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	for _, h := range propagated() {
		if v := r.Header.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", target, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyBytesMax+1))
	switch {
	case err != nil:
		return fmt.Errorf("read answer of %s: %w", target, err)
	case len(body) > bodyBytesMax:
		return fmt.Errorf("answer of %s is larger than %d bytes", target, bodyBytesMax)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answered %s: %s", target, resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", target, err)
	}
	return nil
}
