package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/tullemesh/tulle/bench/proxy/loop"
)

func memoryAtStart(_ *bench, c *contender) (sample, error) {
	<-time.After(settle)
	return inMB(c), nil
}

func inMB(c *contender) sample {
	resident, anonymous := c.memory()
	return sample{Cost: float64(resident) / 1e6, Note: fmt.Sprintf("%.1f MB of it anonymous", float64(anonymous)/1e6)}
}

func memoryAfterLoad(b *bench, c *contender) (sample, error) {
	if _, err := b.load(c, http1(0), requests); err != nil {
		return sample{}, err
	}
	<-time.After(settle)
	return inMB(c), nil
}

// idle opens many connections, each used for one request or not at all, and
// divides what the process has grown by.
func idle(secure, used bool) probe {
	return func(b *bench, c *contender) (sample, error) {
		var open []io.Closer
		defer func() {
			for _, o := range open {
				_ = o.Close()
			}
		}()
		dial, err := b.dialer(c, secure)
		if err != nil {
			return sample{}, err
		}
		grow := func(n int) error {
			for range n {
				conn, err := dial()
				if err != nil {
					return fmt.Errorf("after %d connections: %w", len(open), err)
				}
				open = append(open, conn)
				if used {
					if err := exchange(conn); err != nil {
						return fmt.Errorf("on connection %d: %w", len(open), err)
					}
				}
			}
			return nil
		}
		const first = 32 // what the first connections bring up is not theirs
		if err := grow(first); err != nil {
			return sample{}, err
		}
		<-time.After(settle)
		before, _ := c.memory()
		heapBefore, err := heap(c)
		if err != nil {
			return sample{}, err
		}
		n := b.connections
		if c.name == haproxyName {
			n = min(n, haproxyConnections-2*first)
		}
		if err := grow(n); err != nil {
			return sample{}, err
		}
		<-time.After(settle)
		after, _ := c.memory()
		heapAfter, err := heap(c)
		if err != nil {
			return sample{}, err
		}
		s := sample{Cost: float64(after-before) / float64(n), Note: fmt.Sprintf("%d connections, %.1f → %.1f MB", n, float64(before)/1e6, float64(after)/1e6)}
		if heapAfter > 0 {
			s.Note += fmt.Sprintf("; %.0f bytes each of it on the heap", (heapAfter-heapBefore)/float64(n))
		}
		return s, nil
	}
}

// heap is what the program's own allocator has given out, garbage included; 0
// of those that don't say.
func heap(c *contender) (float64, error) {
	switch c.name {
	case tulleName:
		text, err := metrics(c)
		return metric(text, "go_memstats_heap_alloc_bytes"), err
	case envoyName:
		text, err := ask(c, "/memory")
		if err != nil {
			return 0, err
		}
		var answer struct {
			Allocated float64 `json:"allocated,string"`
		}
		return answer.Allocated, json.Unmarshal([]byte(text), &answer)
	}
	return 0, nil
}

func (b *bench) dialer(c *contender, secure bool) (func() (net.Conn, error), error) {
	if !secure {
		return func() (net.Conn, error) { return net.Dial("tcp", c.listen.String()) }, nil
	}
	config, err := b.authority.client()
	if err != nil {
		return nil, err
	}
	return func() (net.Conn, error) { return dialTLS(c, config) }, nil
}

// exchange asks for what the proxy answers itself and reads all of the answer,
// which is known to have no body or a short one.
func exchange(conn net.Conn) error {
	if _, err := io.WriteString(conn, refused); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return err
	}
	var buffer [4096]byte
	n, err := conn.Read(buffer[:])
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(buffer[:n], []byte("HTTP/1.1 40")) {
		return errors.New("answer " + string(buffer[:min(n, 40)]))
	}
	return nil
}

// waiting has the backend keep every stream waiting.
func waiting(b *bench, c *contender) (sample, error) {
	const n = streamConns * streamsPerConn
	var before, after int
	_, err := b.loop.Run(loop.Load{Protocol: loop.HTTP2, Connections: streamConns, Streams: streamsPerConn, Upload: 64, Body: 64, Hold: true,
		Target: c.listen, Hosts: b.scenario.shape.hosts(), For: b.length,
		Begin: func() { <-time.After(settle); before, _ = c.memory() },
		End:   func() { <-time.After(settle); after, _ = c.memory() }})
	if err != nil {
		return sample{}, err
	}
	return sample{Cost: float64(after-before) / n, Note: fmt.Sprintf("%.1f → %.1f MB", float64(before)/1e6, float64(after)/1e6)}, nil
}
