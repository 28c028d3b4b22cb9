package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// answerBytesMax bounds what is read of one answer.
const answerBytesMax = 1 << 20

// Target is one kind of request in a mix.
type Target struct {
	// Method and URL are what to request; an empty Method is GET.
	Method, URL string
	// Header is added to the request.
	Header http.Header
	// Version reads the version from the body of an answer with status 200; nil reads none.
	Version func(body []byte) string
}

// HTTP sends requests over HTTP/1.1 with kept connections, past any proxy of the environment.
type HTTP struct {
	targets   []Target
	transport *http.Transport
}

// NewHTTP returns a sender that takes the targets in turn; there must be at least one.
func NewHTTP(targets ...Target) (*HTTP, error) {
	if len(targets) == 0 {
		return nil, fmt.Errorf("%w: no target", ErrConfig)
	}
	for _, t := range targets {
		if _, err := http.NewRequest(t.Method, t.URL, nil); err != nil { //nolint:noctx // only checks the words
			return nil, errors.Join(ErrConfig, err)
		}
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	return &HTTP{targets: targets, transport: &http.Transport{
		DialContext: d.DialContext, MaxIdleConnsPerHost: InFlightMax, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}}, nil
}

// Send sends request number n; it has the form of Config.Send.
func (h *HTTP) Send(ctx context.Context, n uint64) Result {
	t := h.targets[n%uint64(len(h.targets))]
	req, err := http.NewRequestWithContext(ctx, t.Method, t.URL, nil)
	if err != nil {
		return Result{Err: err}
	}
	for k, v := range t.Header {
		req.Header[k] = v
	}
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		return Result{Err: err}
	}
	var body bytes.Buffer
	_, err = io.Copy(&body, io.LimitReader(resp.Body, answerBytesMax))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return Result{Err: fmt.Errorf("read answer: %w", err)}
	}
	r := Result{Status: resp.StatusCode}
	if t.Version != nil && r.Status == http.StatusOK {
		r.Version = t.Version(body.Bytes())
	}
	return r
}

// Close closes idle connections; call it after Run has returned.
func (h *HTTP) Close() { h.transport.CloseIdleConnections() }
