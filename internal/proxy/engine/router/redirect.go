package router

import (
	"bytes"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// AppendLocation appends the value of the Location header, as Envoy builds it
// (Http::Utility::newUri). m is the match of the route that redirects.
func (d *Redirect) AppendLocation(dst []byte, m *Match, req *fact.Request) []byte {
	scheme := d.scheme(req)
	dst = append(dst, scheme...)
	dst = append(dst, "://"...)
	if d.Host != "" {
		dst = append(dst, d.Host...)
	} else {
		dst = append(dst, redirectHost(req, scheme, d.Port != 0)...)
	}
	if d.Port != 0 {
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, int64(d.Port), 10)
	}
	return d.appendPath(dst, m, req)
}

func (d *Redirect) scheme(req *fact.Request) string {
	switch {
	case d.Scheme != "":
		return d.Scheme
	case d.HTTPSRedirect, string(req.Scheme) == "https":
		return "https"
	}
	return "http"
}

func (d *Redirect) appendPath(dst []byte, m *Match, req *fact.Request) []byte {
	query := req.Path[len(req.PathOnly()):]
	if d.Path == "" {
		start := len(dst)
		dst = appendRewritten(dst, m, req, d.PrefixRewrite, d.RegexRewrite, d.RegexSubst)
		if d.StripQry {
			if i := bytes.IndexByte(dst[start:], '?'); i >= 0 {
				dst = dst[:start+i]
			}
		}
		return dst
	}
	dst = append(dst, d.Path...)
	// A query of path_redirect takes the place of the request's and is never
	// stripped.
	if d.StripQry || bytes.IndexByte([]byte(d.Path), '?') >= 0 {
		return dst
	}
	return append(dst, query...)
}

// redirectHost is the request's authority, without its port when the redirect
// sets one, or when the scheme changes and the port was the old scheme's own.
func redirectHost(req *fact.Request, scheme string, newPort bool) []byte {
	host := withoutPort(req.Authority)
	port := req.Authority[len(host):]
	if len(port) == 0 {
		return req.Authority
	}
	proto, present := req.Header("x-forwarded-proto")
	if !present {
		proto = req.Scheme
	}
	old := string(proto)
	if newPort || (scheme != old && ((old == "https" && string(port) == ":443") || (old == "http" && string(port) == ":80"))) {
		return host
	}
	return req.Authority
}

// AppendTLSLocation appends the Location of a virtual host that wants TLS: the
// same URL with https.
func AppendTLSLocation(dst []byte, req *fact.Request) []byte {
	return (&Redirect{HTTPSRedirect: true}).AppendLocation(dst, &Match{}, req)
}
