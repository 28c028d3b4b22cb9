package call

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Meter counts what passes through a tunnel.
type Meter interface {
	// Moved counts bytes while the tunnel is open: sent went to the endpoint.
	Moved(sent, received int64)
	// Closed counts the tunnel's end.
	Closed()
}

// Tunnel is a tunnel's connection to its endpoint. There is no head to send
// and none to come.
type Tunnel struct {
	HTTP1
	meter Meter
}

// NewTunnel is a tunnel over c.
func NewTunnel(c *cluster.Conn, buffers *conn.Buffers, clock conn.Clock, m Meter) *Tunnel {
	return &Tunnel{HTTP1: HTTP1{buffers: buffers, clock: clock, conn: c, switched: true}, meter: m}
}

// SendHead implements Call: there is none to send.
func (c *Tunnel) SendHead(*message.Head, []byte, bool) error { return nil }

// ReadHead implements Call: the tunnel is there, which is its answer.
func (c *Tunnel) ReadHead(h *message.Head) (end bool, err error) {
	h.Reset()
	h.Status = 200
	return false, nil
}

// ReadBody implements Call.
func (c *Tunnel) ReadBody(p []byte) (int, error) {
	n, err := c.HTTP1.ReadBody(p)
	c.meter.Moved(0, int64(n))
	return n, err
}

// SendBody implements Call.
func (c *Tunnel) SendBody(p []byte, end bool, trailers *message.Head) error {
	err := c.HTTP1.SendBody(p, end, trailers)
	if err == nil {
		c.meter.Moved(int64(len(p)), 0)
	}
	return err
}

// Close implements Call.
func (c *Tunnel) Close(whole bool) {
	c.meter.Closed()
	c.HTTP1.Close(whole)
}
