package failure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

func TestEveryKindOfFailureHasItsAnswer(t *testing.T) {
	details := map[string]Kind{}
	for k := range kindCount {
		a := answerTo(k)
		if a.Detail == "" {
			t.Errorf("kind %d has no answer", k)
		}
		if a.Status != 0 && a.Status < 200 || a.Status > 599 {
			t.Errorf("kind %d is answered with %d", k, a.Status)
		}
		details[a.Detail] = k
	}
	// A timeout is one to operators, whether the route or a call's own deadline set it.
	if want := int(kindCount) - 1; len(details) != want {
		t.Errorf("%d details of %d kinds, want %d", len(details), kindCount, want)
	}
	if a := answerTo(kindCount); a != (Answer{}) {
		t.Errorf("no kind is answered with %+v", a)
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	refused := &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}
	cases := []struct {
		name   string
		of     func(error) *Failure
		err    error
		want   Kind
		flag   string
		status int
	}{
		{"no endpoint", OfConnect, cluster.ErrNoHost, NoHealthyHost, "UH", 503},
		{"a threshold", OfConnect, cluster.ErrOverflow, Overflow, "UO", 503},
		{"a connect that is late", OfConnect, context.DeadlineExceeded, ConnectTimeout, "UF", 503},
		{"a handshake that is late", OfConnect, os.ErrDeadlineExceeded, ConnectTimeout, "UF", 503},
		{"a refused connect", OfConnect, refused, ConnectFailed, "UF", 503},
		{"an endpoint without extended CONNECT", OfCall, http2.ErrNoSwitch, NotSupported, "", 403},
		{"a stream that was reset", OfCall, &http2.ResetError{Code: http2.InternalError}, RemoteReset, "UR", 503},
		{"a stream that broke a rule", OfCall, &http2.StreamError{}, BadResponse, "UPE", 502},
		{"a connection that broke a rule", OfCall, &http2.ConnError{}, BadResponse, "UPE", 502},
		{"a response that broke a rule", OfCall, http1.ErrStatus, BadResponse, "UPE", 502},
		{"a client that reset its stream", OfClient, &http2.ResetError{Code: http2.Cancel}, ClientReset, "DR", 0},
		{"a client whose connection ended", OfClient, io.EOF, ClientLeft, "DC", 0},
		{"a connection that was closed", OfCall, io.EOF, Reset, "UC", 503},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := c.of(fmt.Errorf("to 127.0.0.1: %w", c.err))
			if a := f.Answer(); f.Kind != c.want || a.Flag != c.flag || a.Status != c.status {
				t.Errorf("kind %d, %+v; want kind %d", f.Kind, a, c.want)
			}
			if !errors.Is(f, c.err) && !errors.Is(f, io.ErrUnexpectedEOF) {
				t.Errorf("%v does not tell its cause", f)
			}
			if strings.Contains(f.Answer().Body, "127.0.0.1") {
				t.Errorf("the client is told where: %s", f.Answer().Body)
			}
		})
	}
}

func TestAnswersTellWhatIsKnown(t *testing.T) {
	cases := []struct {
		name    string
		failure Failure
		want    Answer
	}{
		{"the codec chooses the status", Failure{Kind: BadRequest, Cause: &http1.Error{Status: 431}}, Answer{Side: Downstream, Status: 431, Body: "Request Header Fields Too Large"}},
		{"an incomplete request", Failure{Kind: DurationTimeout, Detail: Incomplete}, Answer{Status: 408, Body: "downstream duration timeout"}},
		{"a policy", Failure{Kind: Denied, Detail: "ns[shop]-policy[cart]-rule[0]"}, Answer{Status: 403, Detail: "rbac_access_denied_matched_policy[ns[shop]-policy[cart]-rule[0]]", Body: "RBAC: access denied"}},
		{"a client's reset", Failure{Kind: ClientReset, Cause: &http2.ResetError{Code: http2.Cancel}}, Answer{Side: Downstream, Flag: "DR", Detail: "http2.remote_reset"}},
		{"a client's reset without an error", Failure{Kind: ClientReset, Cause: &http2.ResetError{Code: http2.NoError}}, Answer{Side: Downstream, Flag: "DR"}},
		{"a client's reset without an error, behind its request", Failure{Kind: ClientReset, Cause: &http2.ResetError{Code: http2.NoError, Complete: true}}, Answer{Side: Downstream, Detail: "http2.remote_reset"}},
		{"a client's reset behind its request", Failure{Kind: ClientReset, Cause: &http2.ResetError{Code: http2.Cancel, Complete: true}}, Answer{Side: Downstream, Flag: "DR"}},
		{"a client's refusal", Failure{Kind: ClientReset, Cause: &http2.ResetError{Code: http2.RefusedStream}}, Answer{Side: Downstream, Flag: "DR", Detail: "http2.remote_refuse"}},
		{"no policy allows", Failure{Kind: Denied}, Answer{Status: 403, Detail: "rbac_access_denied_matched_policy[none]", Body: "RBAC: access denied"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := c.failure.Answer()
			if got.Side != c.want.Side || got.Status != c.want.Status || got.Body != c.want.Body || c.failure.Kind == ClientReset && got.Flag != c.want.Flag || c.want.Detail != "" && got.Detail != c.want.Detail {
				t.Errorf("got %+v", got)
			}
		})
	}
}
