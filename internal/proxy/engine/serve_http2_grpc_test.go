package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// echoService answers unary calls and streams with what they sent; a message
// "fail" gets an error, "hang" waits until the caller leaves.
func echoService(t testing.TB, left chan<- struct{}) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handle := func(ctx context.Context, m *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		switch m.GetValue() {
		case "fail":
			return nil, status.Error(codes.ResourceExhausted, "no more: 100 % used")
		case "hang":
			<-ctx.Done()
			left <- struct{}{}
			return nil, ctx.Err()
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
		return wrapperspb.String(m.GetValue() + "!"), nil
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Say", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := &wrapperspb.StringValue{}
			if err := dec(m); err != nil {
				return nil, err
			}
			return handle(ctx, m)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			for {
				m := &wrapperspb.StringValue{}
				if err := st.RecvMsg(m); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				out, err := handle(st.Context(), m)
				if err != nil {
					return err
				}
				if err := st.SendMsg(out); err != nil {
					return err
				}
			}
		}}},
	}, struct{}{})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return netip.MustParseAddrPort(l.Addr().String())
}

func grpcClient(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func callContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestGRPCCallsPassEndToEnd(t *testing.T) {
	left := make(chan struct{}, 1)
	p := start(t, &setup{routes: []*router.Route{to("/test.Echo", "echo"), to("/test.Down", "down")},
		clusters: []*cluster.Spec{speaking(true, "echo", echoService(t, left)), speaking(true, "down", dead(t))}})
	c := grpcClient(t, p.addr())
	ctx := callContext(t)
	out := &wrapperspb.StringValue{}

	t.Run("unary with trailers", func(t *testing.T) {
		var trailer metadata.MD
		if err := c.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out, grpc.Trailer(&trailer)); err != nil || out.GetValue() != "hi!" {
			t.Fatalf("%q, %v", out.GetValue(), err)
		}
		if got := trailer.Get("x-trailer"); len(got) != 1 || got[0] != "t" {
			t.Errorf("trailer %q", got)
		}
	})
	t.Run("error of the service", func(t *testing.T) {
		err := c.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("fail"), out)
		if s := status.Convert(err); s.Code() != codes.ResourceExhausted || s.Message() != "no more: 100 % used" {
			t.Errorf("%v", err)
		}
	})
	t.Run("big messages", func(t *testing.T) {
		big := strings.Repeat("x", 3<<20)
		if err := c.Invoke(ctx, "/test.Echo/Say", wrapperspb.String(big), out); err != nil || out.GetValue() != big+"!" {
			t.Errorf("%d bytes, %v", len(out.GetValue()), err)
		}
	})
	t.Run("bidirectional stream", func(t *testing.T) {
		st, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Talk")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := st.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			if err := st.RecvMsg(out); err != nil || out.GetValue() != fmt.Sprint(i, "!") && out.GetValue() != fmt.Sprintf("%d!", i) {
				t.Fatalf("message %d: %q, %v", i, out.GetValue(), err)
			}
		}
		_ = st.CloseSend()
		if err := st.RecvMsg(out); !errors.Is(err, io.EOF) {
			t.Errorf("the end came as %v", err)
		}
	})
	t.Run("caller that leaves", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if err := c.Invoke(short, "/test.Echo/Say", wrapperspb.String("hang"), out); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v", err)
		}
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Error("the service still works")
		}
	})
	for path, want := range map[string]codes.Code{"/test.Down/Say": codes.Unavailable, "/test.None/Say": codes.Unimplemented} {
		if err := c.Invoke(ctx, path, wrapperspb.String("hi"), out); status.Code(err) != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	p.stop()
	var b strings.Builder
	if err := p.registry.WritePrometheus(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`grpc_response_status="0"`, `grpc_response_status="8"`, `grpc_response_status="14",response_flags="UF"`, `grpc_response_status="12",response_flags="NR"`} {
		found := false
		for line := range strings.Lines(b.String()) {
			found = found || strings.HasPrefix(line, "istio_requests_total{") && strings.Contains(line, `request_protocol="grpc"`) &&
				strings.Contains(line, `response_code="200"`) && strings.Contains(line, want)
		}
		if !found {
			t.Errorf("no series with %s", want)
		}
	}
}
