// Package date is what responses have for a Date (RFC 9110 §6.6.1): formatted
// once a second, for all connections.
package date

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// Cache is the Date header's value of the current second. The zero value
// is ready; all connections share one.
type Cache struct {
	value atomic.Pointer[second]
}

type second struct {
	until int64 // of the clock
	text  string
}

// Value returns it, by the clock of the connections: formatting it for each
// response would cost more than the rest of the head.
func (c *Cache) Value(clock conn.Clock) string {
	now := clock.Now()
	if d := c.value.Load(); d != nil && now < d.until {
		return d.text
	}
	t := time.Now()
	left := time.Second - time.Duration(t.Nanosecond())
	d := &second{now + int64(left), t.UTC().Format(http.TimeFormat)}
	c.value.Store(d)
	return d.text
}
