package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const handshakesAtOnce = 4

// refused is a request that the proxy itself answers with 404, so that no
// upstream has a share in the cost; it makes the client read its tickets.
const refused = "GET /static/none HTTP/1.1\r\nHost: svc\r\n\r\n"

// handshakes opens connections one after another on a few goroutines.
func handshakes(resume bool) probe {
	return func(b *bench, c *contender) (sample, error) {
		config, err := b.authority.client()
		if err != nil {
			return sample{}, err
		}
		if resume {
			config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
		}
		for range 2 { // tickets, and what the proxy makes at first
			if _, err := shake(c, config); err != nil {
				return sample{}, err
			}
		}
		var done, resumed atomic.Int64
		var failed atomic.Pointer[error]
		m := &meter{contender: c}
		m.begin()
		var wait sync.WaitGroup
		end := m.at.Add(b.length)
		for range handshakesAtOnce {
			wait.Go(func() {
				for time.Now().Before(end) && failed.Load() == nil {
					was, err := shake(c, config)
					if err != nil {
						failed.Store(&err)
						return
					}
					done.Add(1)
					if was {
						resumed.Add(1)
					}
				}
			})
		}
		wait.Wait()
		m.end()
		if err := failed.Load(); err != nil {
			return sample{}, *err
		}
		s := m.sample(float64(done.Load()))
		if got := resumed.Load(); resume && got < done.Load()*99/100 || !resume && got > 0 {
			s.Note = fmt.Sprintf("%d of %d connections were resumed", got, done.Load())
		}
		return s, nil
	}
}

// shake opens one connection, asks, reads the answer and closes.
func shake(c *contender, config *tls.Config) (resumed bool, err error) {
	conn, err := dialTLS(c, config)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(refused)); err != nil {
		return false, err
	}
	var buffer [4096]byte
	n, err := conn.Read(buffer[:])
	if err != nil {
		return false, err
	}
	if got := buffer[:n]; !bytes.HasPrefix(got, []byte("HTTP/1.1 40")) {
		return false, errors.New("answer " + string(got[:min(n, 40)]))
	}
	return conn.ConnectionState().DidResume, nil
}

func dialTLS(c *contender, config *tls.Config) (*tls.Conn, error) {
	raw, err := net.Dial("tcp", c.listen.String())
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.SetDeadline(time.Now().Add(startPatience)); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	if err := conn.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}
