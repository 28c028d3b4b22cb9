//go:build conformance

package grpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	wire "encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// webConn is a client of gRPC-Web over HTTP/1.1 for the code that grpc-go
// generates. It can do what browsers can't: send while it receives.
type webConn struct {
	at   string // host:port
	text bool   // base64, both ways
	http *http.Client
}

var _ grpc.ClientConnInterface = (*webConn)(nil)

func (c *webConn) contentType() string {
	if c.text {
		return "application/grpc-web-text+proto"
	}
	return "application/grpc-web+proto"
}

// Invoke implements grpc.ClientConnInterface.
func (c *webConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	st, err := c.NewStream(ctx, &grpc.StreamDesc{}, method, opts...)
	if err != nil {
		return err
	}
	if err := st.SendMsg(args); err != nil {
		return err
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	if err := st.RecvMsg(reply); err != nil {
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Internal, "no message")
		}
		return err
	}
	if err := st.RecvMsg(reply); !errors.Is(err, io.EOF) {
		return fmt.Errorf("behind the message: %w", err)
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (c *webConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	body, to := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.at+method, body)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {c.contentType()}, "Accept": {c.contentType()}, "X-Grpc-Web": {"1"}}
	if at, ok := ctx.Deadline(); ok {
		req.Header.Set("Grpc-Timeout", strconv.FormatInt(max(1, time.Until(at).Milliseconds()), 10)+"m")
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	for name, values := range md {
		for _, v := range values {
			if strings.HasSuffix(name, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			req.Header.Add(name, v)
		}
	}
	st := &webStream{ctx: ctx, conn: c, to: to, opts: opts, answered: make(chan struct{})}
	// net/http waits for who reads the request's body before it says that the context ended.
	st.leave = context.AfterFunc(ctx, func() { _ = to.CloseWithError(ctx.Err()) })
	go func() {
		defer close(st.answered)
		st.resp, st.err = c.http.Do(req) //nolint:bodyclose // Close below, or at the end of the stream
		if st.err == nil {
			st.body = bufio.NewReader(st.resp.Body)
			if c.text {
				st.body = &textReader{from: bufio.NewReader(st.resp.Body)}
			}
		}
	}()
	return st, nil
}

// webStream is one call.
type webStream struct {
	ctx  context.Context // grpc.ClientStream has a method that returns it
	conn *webConn
	to   *io.PipeWriter
	opts []grpc.CallOption
	// leave keeps the end of ctx from the request's body.
	leave func() bool

	// Complete when answered is closed.
	answered chan struct{}
	resp     *http.Response
	body     io.Reader
	err      error

	trailer metadata.MD
	done    error // of the stream, when it has ended
}

func (s *webStream) SendMsg(m any) error {
	data, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return err
	}
	frame := append(wire.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
	if s.conn.text {
		frame = base64.StdEncoding.AppendEncode(nil, frame)
	}
	if _, err := s.to.Write(frame); err != nil {
		return io.EOF // as grpc-go: RecvMsg tells why
	}
	return nil
}

func (s *webStream) CloseSend() error         { return s.to.Close() }
func (s *webStream) Context() context.Context { return s.ctx }
func (s *webStream) Trailer() metadata.MD     { return s.trailer }

func (s *webStream) Header() (metadata.MD, error) {
	<-s.answered
	if s.err != nil {
		return nil, s.failure(s.err)
	}
	return received(s.resp.Header), nil
}

// received is metadata as grpc-go shows it.
func received(h http.Header) metadata.MD {
	md := metadata.MD{}
	for name, values := range h {
		for _, v := range values {
			name := strings.ToLower(name)
			if strings.HasSuffix(name, "-bin") {
				if raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "=")); err == nil {
					v = string(raw)
				}
			}
			md.Append(name, v)
		}
	}
	return md
}

// failure is what grpc-go makes of a broken call.
func (s *webStream) failure(err error) error {
	if s.ctx.Err() != nil {
		return status.FromContextError(s.ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

// RecvMsg implements grpc.ClientStream.
func (s *webStream) RecvMsg(m any) error {
	<-s.answered
	if s.done == nil {
		switch data, err := s.receive(); {
		case err != nil:
			s.end(err)
		case data != nil:
			return proto.Unmarshal(data, m.(proto.Message))
		}
	}
	return s.done
}

// end ends the stream and fills what the caller wants to know.
func (s *webStream) end(err error) {
	s.done = err
	s.leave()
	_ = s.to.CloseWithError(io.EOF)
	if s.resp == nil {
		return
	}
	s.resp.Body.Close()
	for _, o := range s.opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = received(s.resp.Header)
		case grpc.TrailerCallOption:
			*o.TrailerAddr = s.trailer
		}
	}
}

// receive returns the next message, or how the call ended.
func (s *webStream) receive() ([]byte, error) {
	const trailersFlag = 0x80
	if s.err != nil {
		return nil, s.failure(s.err)
	}
	if ct := s.resp.Header.Get("Content-Type"); ct != s.conn.contentType() {
		return nil, status.Errorf(codes.Unknown, "status %s, content-type %q", s.resp.Status, ct)
	}
	var prefix [5]byte
	if _, err := io.ReadFull(s.body, prefix[:]); errors.Is(err, io.EOF) {
		return nil, result(s.resp.Header) // trailers only
	} else if err != nil {
		return nil, s.failure(err)
	}
	data := make([]byte, wire.BigEndian.Uint32(prefix[1:]))
	if _, err := io.ReadFull(s.body, data); err != nil {
		return nil, s.failure(err)
	}
	if prefix[0] != trailersFlag {
		return data, nil
	}
	h, err := fields(data)
	if err != nil {
		return nil, err
	}
	if n, err := s.body.Read(prefix[:]); n > 0 || !errors.Is(err, io.EOF) {
		return nil, status.Errorf(codes.Internal, "%q behind the trailers: %v", prefix[:n], err)
	}
	s.trailer = received(h)
	return nil, result(h)
}

// fields parses the trailers of gRPC-Web.
func fields(data []byte) (http.Header, error) {
	h := http.Header{}
	for line := range bytes.Lines(data) {
		name, value, ok := strings.Cut(strings.TrimSuffix(string(line), "\r\n"), ":")
		if !ok || name != strings.ToLower(name) || !bytes.HasSuffix(line, []byte("\r\n")) {
			return nil, status.Errorf(codes.Internal, "trailer line %q", line)
		}
		h.Add(name, strings.TrimLeft(value, " "))
	}
	return h, nil
}

// result is what a call's status says; io.EOF: OK.
func result(h http.Header) error {
	code, err := strconv.Atoi(h.Get("Grpc-Status"))
	if err != nil {
		return status.Errorf(codes.Internal, "grpc-status %q", h.Get("Grpc-Status"))
	}
	if code == 0 {
		return io.EOF
	}
	message, err := url.PathUnescape(h.Get("Grpc-Message"))
	if err != nil {
		return err
	}
	return status.Error(codes.Code(code), message)
}

// textReader decodes base64 in groups of four characters, each padded or not.
type textReader struct {
	from io.Reader
	rest []byte
}

func (r *textReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		var group [4]byte
		if _, err := io.ReadFull(r.from, group[:]); err != nil {
			return 0, err
		}
		var err error
		if r.rest, err = base64.StdEncoding.Strict().DecodeString(string(group[:])); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// exactly sends a request of gRPC-Web as it is and returns the answer.
func exactly(ctx context.Context, c *http.Client, url string, header http.Header, body io.Reader) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return nil, "", err
	}
	maps.Copy(req.Header, header)
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, string(data), err
}
