package validate

import (
	"encoding/json"
	"net/url"
	"strconv"

	security "istio.io/api/security/v1beta1"
)

func (c *checker) requestAuthentication(r *security.RequestAuthentication) {
	c.targets(r.Selector, r.TargetRef, r.TargetRefs)
	for i, rule := range r.JwtRules {
		if rule != nil {
			c.jwtRule(index("spec", "jwtRules", i), rule)
		}
	}
}

func (c *checker) jwtRule(at string, r *security.JWTRule) {
	each := func(field string, values []string, what string) {
		for i, v := range values {
			if v == "" {
				c.errorf(index(at, field, i), "remove it", "the %s is empty", what)
			}
		}
	}
	each("audiences", r.Audiences, "audience")
	each("fromParams", r.FromParams, "name of the parameter")
	each("spaceDelimitedClaims", r.SpaceDelimitedClaims, "name of the claim")
	each("fromCookies", r.FromCookies, "name of the cookie")
	if r.Issuer == "" && r.JwksUri == "" {
		c.errorf(at, "add issuer", "the rule has neither issuer nor jwksUri")
	}
	if r.JwksUri != "" {
		c.check(at+".jwksUri", jwksURIRule(r.JwksUri))
	}
	c.keySet(at+".jwks", r.Jwks)
	for i, h := range r.FromHeaders {
		if h.GetName() == "" {
			c.errorf(index(at, "fromHeaders", i), "add name", "the name of the header is empty")
		}
	}
	for i, o := range r.OutputClaimToHeaders {
		path := index(at, "outputClaimToHeaders", i)
		switch {
		case o.GetClaim() == "" || o.GetHeader() == "":
			c.errorf(path, "add header and claim", "header or claim is missing")
		case !strictHeader.MatchString(o.Header):
			c.errorf(path+".header", "header names have letters, digits, - and _", "%q is not the name of a header", o.Header)
		}
	}
	c.duration(at+".timeout", r.Timeout)
}

func jwksURIRule(uri string) error {
	const hint = "write https://HOST/PATH"
	u, err := url.Parse(uri)
	if err != nil {
		return broken(hint, "%q is not a URL", uri)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return broken(hint, "%q has the scheme %q, not http or https", uri, u.Scheme)
	}
	if _, err := strconv.Atoi(u.Port()); u.Port() != "" && err != nil {
		return broken(hint, "%q is not a port", u.Port())
	}
	return nil
}

// keySet checks that inline keys are a JSON Web Key Set (RFC 7517 §5) or one key, and warns of private ones.
func (c *checker) keySet(at, text string) {
	if text == "" {
		return
	}
	type key struct {
		Type    string `json:"kty"`
		Private string `json:"d"`
		Secret  string `json:"k"`
	}
	var set struct {
		key
		Keys *[]key `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		c.errorf(at, `the form is {"keys": [...]}`, "the key set is not JSON of RFC 7517")
		return
	}
	keys := []key{set.key}
	if set.Keys != nil {
		keys = *set.Keys
	}
	for i, k := range keys {
		switch {
		case k.Type != "RSA" && k.Type != "EC" && k.Type != "OKP" && k.Type != "oct":
			c.errorf(at, "kty is RSA, EC or OKP", "key %d of the set has the type %q", i, k.Type)
		case k.Private != "" || k.Secret != "":
			c.warnf(at, "remove the private part", "key %d of the set is a private key; only its public part is used", i)
		}
	}
}
