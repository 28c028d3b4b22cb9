package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// ErrUnreachable says that nobody answered at an address.
var ErrUnreachable = errors.New("not reachable")

// ErrNotFound says that what was asked for does not exist.
var ErrNotFound = errors.New("not found")

// answerBytesMax bounds what is read from a monitoring or admin port: the
// configuration of a mesh with thousands of services has some 10 MB.
const answerBytesMax = 256 << 20

// askTimeout bounds one question to a monitoring or admin port.
const askTimeout = 10 * time.Second

// Fetch reads a JSON document from a control plane's monitoring port or a
// proxy's admin port, given as "host:port", into v.
func Fetch(ctx context.Context, address, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	// Straight to the address, whatever proxies the environment names, and
	// nowhere else: a redirect is not what we asked for.
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", address, ErrUnreachable, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return fmt.Errorf("%s%s: %w: %w", address, path, ErrUnreachable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("%s%s: %w", address, path, ErrNotFound)
	default:
		return fmt.Errorf("%s%s: %s: %s", address, path, resp.Status, body)
	}
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = body
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s%s: %w", address, path, err)
	}
	return nil
}
