// Package rawhttp is a table of raw HTTP/1.1 requests and responses with what
// RFC 9110 and RFC 9112 make of them, and with published techniques that make
// two parsers disagree. It is data: nothing comes in, and out go cases, which
// tests run through the engine (test/conformance/http1) and give to fuzzers as
// seeds. Read this file first; the others are the table, by theme.
package rawhttp

// Request is a case of a client's bytes.
type Request struct {
	Name string // the situation
	RFC  string // the rule's place
	Raw  string // what the client sends; another request follows
	// Status refuses: this answer comes last, the connection ends, and no
	// backend sees a complete message behind those of Saw. 0: all is forwarded.
	Status int
	// Saw are the messages that a backend sees:
	//
	//	METHOD target host (field: value; field: value) chunked "body" {trailer: value}
	//
	// Fields are in the order of their names. What every request gets of the
	// proxy is left out, and so are an empty part and the length that the body
	// has.
	Saw []string
	// Ends: the proxy closes the connection after the last message of Saw.
	Ends bool
	// Alone: nothing follows, the client closes its half.
	Alone bool
	As    Setting
}

// Setting is how the connection manager of a case differs from a sidecar's.
type Setting uint8

// The settings.
const (
	Sidecar       Setting = iota
	HTTP10                // takes HTTP/1.0
	HTTP1Only             // does not look for HTTP/2
	Gateway               // faces clients outside of the mesh
	PathAsIs              // normalizes no path
	AnswersExpect         // answers expectations itself
)

// Response is a case of a server's bytes.
type Response struct {
	Name, RFC string
	Raw       string // what the server answers
	Method    string // of the request; empty: GET
	Fields    string // of the request
	// Saw are the messages that the client sees, informational ones included:
	//
	//	status (field: value; field: value) chunked "body" {trailer: value}
	Saw []string
	// Closes: the server closes its connection after Raw.
	Closes bool
	// Broken: the client either gets 502, or a message that does not end.
	Broken bool
	// Ends: the client's connection ends behind the answer.
	Ends bool
	// AtOnce: the bytes come in one piece only, because what comes later may
	// come after the next request, and then nobody can know whose it is.
	AtOnce bool
}

// Requests are all cases of requests by theme.
func Requests() map[string][]Request {
	return map[string][]Request{
		"framing":   framingRequests(),
		"chunks":    chunkRequests(),
		"lines":     lineRequests(),
		"fields":    fieldRequests(),
		"targets":   targetRequests(),
		"hops":      hopRequests(),
		"smuggling": smugglingRequests(),
		"pipelines": pipelineRequests(),
	}
}

// Responses are all cases of responses by theme.
func Responses() map[string][]Response {
	return map[string][]Response{
		"framing":       framingResponses(),
		"heads":         headResponses(),
		"informational": informationalResponses(),
		"desync":        desyncResponses(),
	}
}

// bad is a request that must be refused with a status.
func bad(name, rfc string, status int, raw string) Request {
	return Request{Name: name, RFC: rfc, Status: status, Raw: raw}
}

// good is what must be forwarded as these messages.
func good(name, rfc, raw string, saw ...string) Request {
	return Request{Name: name, RFC: rfc, Raw: raw, Saw: saw}
}

// last is what must be forwarded, and the connection ends after it.
func last(name, rfc, raw string, saw ...string) Request {
	return Request{Name: name, RFC: rfc, Raw: raw, Saw: saw, Ends: true}
}

// cut is a message that breaks off because the client ends its direction.
func cut(name, rfc, raw string) Request { return Request{Name: name, RFC: rfc, Raw: raw, Alone: true} }

// with makes the manager another.
func (r Request) with(s Setting) Request {
	r.As = s
	return r
}

// gives is a response that goes on as these messages.
func gives(name, rfc, raw string, saw ...string) Response {
	return Response{Name: name, RFC: rfc, Raw: raw, Saw: saw}
}

// refused is a response that is answered 502.
func refused(name, rfc, raw string) Response {
	return Response{Name: name, RFC: rfc, Raw: raw, Saw: []string{"502"}}
}

// breaks is a response that is refused when its head may have gone on.
func breaks(name, rfc, raw string) Response {
	return Response{Name: name, RFC: rfc, Raw: raw, Broken: true}
}

// to makes the request's method another.
func (r Response) to(method string) Response {
	r.Method = method
	return r
}

// closing makes the server close behind its bytes.
func (r Response) closing() Response {
	r.Closes = true
	return r
}

// ending makes the client's connection end.
func (r Response) ending() Response {
	r.Ends = true
	return r
}

// offering makes the request offer an upgrade to WebSocket.
func (r Response) offering() Response {
	r.Fields = "Connection: upgrade\r\nUpgrade: websocket\r\n"
	return r
}
