package grpc

import (
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// The content types of gRPC-Web, and those in base64. Others, such as +json,
// are not translated (Envoy: gRpcWebContentTypes).
const (
	webType      = "application/grpc-web"
	webProtoType = "application/grpc-web+proto"
	textType     = "application/grpc-web-text"
	textProto    = "application/grpc-web-text+proto"
)

// Web translates one exchange between a client of gRPC-Web and a server of
// gRPC. One goroutine may feed the request while another feeds the response.
type Web struct {
	asksText, answersText bool // in base64

	in   textDecoder
	out  textEncoder
	buf  []byte // what Response returned
	held []byte // of an answer's body that is not one of gRPC
}

// BeginWeb turns the head of a request of gRPC-Web into one of gRPC; nil: it is
// none, and stays as it is. The upstream must be asked for trailers.
func BeginWeb(h *message.Head) *Web {
	ct, _ := h.Get("content-type")
	switch string(ct) {
	case webType, webProtoType, textType, textProto:
	default:
		return nil
	}
	accept, _ := h.Get("accept")
	w := &Web{asksText: isText(ct), answersText: isText(accept)}
	h.Remove("content-length") // of the text; and gRPC needs none
	h.SetString("content-type", ContentType)
	if _, present := h.Get("grpc-accept-encoding"); !present {
		h.SetString("grpc-accept-encoding", "identity")
	}
	return w
}

func isText(ct []byte) bool { return string(ct) == textType || string(ct) == textProto }

// Request translates body bytes of the client, in place.
func (w *Web) Request(p []byte) ([]byte, error) {
	if !w.asksText {
		return p, nil
	}
	return w.in.decode(p)
}

// EndRequest says whether the request's body may end where it did.
func (w *Web) EndRequest() error { return w.in.end() }

// Head turns the head of the response into the client's; end: nothing follows
// it. When it reports true, the response is not one of gRPC and can't be passed
// on: its body goes to Hold, and the head waits for EndHeld.
func (w *Web) Head(h *message.Head, end bool) (holds bool) {
	holds = !end && !answersCall(h)
	w.held, w.out = w.held[:0], textEncoder{} // another attempt's
	h.Remove("content-length")
	h.Remove("trailer") // they come in the body
	if w.answersText {
		h.SetString("content-type", textProto)
	} else {
		h.SetString("content-type", webProtoType)
	}
	return holds
}

// answersCall reports whether the response has messages: those of gRPC, or
// those of a server that speaks gRPC-Web itself.
func answersCall(h *message.Head) bool {
	ct, _ := h.Get("content-type")
	if h.Status != http.StatusOK {
		return false
	}
	if IsType(ct) {
		return true
	}
	media, _, _ := strings.Cut(string(ct), ";")
	media = strings.TrimRight(media, " \t")
	return strings.EqualFold(media, webType) || strings.EqualFold(media, webProtoType)
}

// Hold keeps what came of a body that is not one of gRPC, for grpc-message.
func (w *Web) Hold(p []byte) {
	n := min(len(p), limit.GRPCWebHeldBytesMax-len(w.held))
	w.held = append(w.held, p[:n]...)
}

// EndHeld puts a status and what was held into the head. No body follows.
func (w *Web) EndHeld(h *message.Head, code int) {
	h.SetString("grpc-status", strconv.Itoa(code))
	h.Set("grpc-message", AppendMessage(nil, w.held))
	h.SetString("content-length", "0")
}

// Response translates body bytes of the server. After the last ones, end, the
// trailers are part of the body: the client gets none beside it. What it returns
// holds until the next call.
func (w *Web) Response(p []byte, end bool, trailers *message.Head) []byte {
	trails := end && trailers != nil && trailers.Len() > 0
	if !w.answersText && !trails {
		return p
	}
	w.buf = w.buf[:0]
	if !w.answersText {
		return w.appendTrailers(append(w.buf, p...), trailers)
	}
	w.buf = w.out.append(w.buf, p)
	if end {
		w.buf = w.out.flush(w.buf) // the server broke off within a message
	}
	if trails {
		w.out = textEncoder{}
		w.buf = w.out.append(w.buf, w.appendTrailers(nil, trailers))
	}
	return w.buf
}

// appendTrailers appends the frame of the trailers (PROTOCOL-WEB.md, "Message
// framing"), as Envoy writes it: no space follows the colon.
func (w *Web) appendTrailers(dst []byte, trailers *message.Head) []byte {
	const trailersFlag = 0x80
	at := len(dst)
	dst = append(dst, trailersFlag, 0, 0, 0, 0)
	for _, f := range trailers.Fields() {
		if len(f.Name) == 0 {
			continue
		}
		dst = append(append(dst, f.Name...), ':')
		dst = append(append(dst, f.Value...), '\r', '\n')
	}
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-prefixBytes))
	return dst
}
