package match

import "net/http"

// KnownStatus reports whether a status code is a registered one (IANA HTTP
// Status Code Registry), which is what Istio asks of those in retryOn.
func KnownStatus(code int) bool { return http.StatusText(code) != "" }
