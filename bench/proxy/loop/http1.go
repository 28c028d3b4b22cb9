package loop

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// traceParent is the W3C trace context of every request, as a traced mesh has.
const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// h1request is a GET, or a POST with upload bytes.
func h1request(host string, upload int) []byte {
	method, length := "GET", ""
	if upload > 0 {
		method, length = "POST", "content-type: application/octet-stream\r\ncontent-length: "+strconv.Itoa(upload)+"\r\n"
	}
	head := method + " /api/v1/items/42?x=1 HTTP/1.1\r\nHost: " + host +
		"\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nx-tenant: blue\r\ncookie: session=0123456789abcdef\r\ntraceparent: " + traceParent + "\r\n" + length + "\r\n"
	return append([]byte(head), bytes.Repeat([]byte{'u'}, upload)...)
}

func h1answer(body int) []byte {
	head := "HTTP/1.1 200 OK\r\nserver: tiny\r\ncontent-type: text/plain\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\ncontent-length: " + strconv.Itoa(body) + "\r\n\r\n"
	return append([]byte(head), bytes.Repeat([]byte{'x'}, body)...)
}

// message takes HTTP/1.1 messages with a Content-Length out of a stream.
type message struct {
	head []byte
	body int // bytes outstanding; meaningful when inBody
	in   bool
}

// take consumes data up to the end of a message; start is called with the
// complete head.
func (m *message) take(data []byte, start func(head []byte) error) (rest []byte, body int, done bool, err error) {
	if !m.in {
		seen := max(len(m.head)-3, 0)
		m.head = append(m.head, data...)
		i := bytes.Index(m.head[seen:], []byte("\r\n\r\n"))
		if i < 0 {
			return nil, 0, false, nil
		}
		end := seen + i + 4
		if err := start(m.head[:end]); err != nil {
			return nil, 0, false, err
		}
		if m.body, err = contentLength(m.head[:end]); err != nil {
			return nil, 0, false, err
		}
		data = data[len(data)-(len(m.head)-end):]
		m.head, m.in = m.head[:0], true
	}
	n := min(m.body, len(data))
	m.body -= n
	if m.body > 0 {
		return nil, n, false, nil
	}
	m.in = false
	return data[n:], n, true, nil
}

const lengthField = "\r\ncontent-length:"

// contentLength is the head's Content-Length; 0 without one.
func contentLength(head []byte) (int, error) {
	for i := 0; i+len(lengthField) < len(head); i++ {
		if head[i] == '\r' && strings.EqualFold(string(head[i:i+len(lengthField)]), lengthField) {
			value, _, _ := bytes.Cut(head[i+len(lengthField):], []byte("\r\n"))
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, nil
}

type h1client struct {
	conn
	lane    *lane
	request []byte
	message message
}

func (c *h1client) send(*lane) error { return c.write(c.request) }

func (c *h1client) ready(events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := c.flush(); err != nil {
			return err
		}
	}
	data, err := c.read()
	if err != nil || data == nil {
		return err
	}
	if !c.lane.busy {
		return errors.New("an answer to no request")
	}
	rest, n, done, err := c.message.take(data, func(head []byte) error {
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answer %q", head[:min(len(head), 40)])
		}
		return nil
	})
	c.loop.bytes += int64(n)
	if err != nil || !done {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes after an answer", len(rest))
	}
	return c.loop.finish(c.lane, true)
}

type h1server struct {
	conn
	message message
}

func (s *h1server) ready(events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	data, err := s.read()
	if err != nil { // the proxy may close its idle connections
		s.loop.drop(s.fd)
		return nil //nolint:nilerr // said above
	}
	for len(data) > 0 {
		rest, _, done, err := s.message.take(data, func([]byte) error { return nil })
		if err != nil {
			return err
		}
		data = rest
		if !done {
			return nil
		}
		s.loop.answered++
		if err := s.write(s.loop.answer); err != nil {
			return err
		}
	}
	return nil
}
