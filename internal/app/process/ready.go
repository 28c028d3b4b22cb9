package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// The pause between two probes grows from probePauseMin to probePauseMax: a fast service is seen at once, a slow one is not hammered.
const (
	probePauseMin = 10 * time.Millisecond
	probePauseMax = time.Second
	// probeTimeMax bounds one probe.
	probeTimeMax = 2 * time.Second
)

// wait returns nil when the process serves, or the context's error.
func (r Ready) wait(ctx context.Context) error {
	if r.Address == "" {
		return ctx.Err()
	}
	pause := probePauseMin
	for {
		err := r.probe(ctx)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(pause*3/2, probePauseMax)
	}
}

// probe tries once.
func (r Ready) probe(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeMax)
	defer cancel()
	dial := r.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	if r.Path == "" {
		conn, err := dial(ctx, "tcp", r.Address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: dial, MaxResponseHeaderBytes: 64 << 10}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Address+r.Path, nil)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", r.Path, resp.Status)
	}
	return nil
}
