package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
)

// messageSeries has Istio's counters of messages. Their labels are those of
// both ends alone, because what the others say is known when the call is over
// (Istio's stats filter: reportHelper).
type messageSeries struct {
	asks, answers *observe.CounterVec
	series        atomic.Pointer[map[seriesKey]*Messages]
	mu            sync.Mutex // of adding to series
}

// Messages are the counters of messages between two ends: those that the client
// sent, and those that the service sent.
type Messages struct{ Asks, Answers *observe.Counter }

func (m *messageSeries) init(r *observe.Registry) {
	m.asks = r.Counter("istio_request_messages_total", "Messages that clients of gRPC sent.", peerLabels()...)
	m.answers = r.Counter("istio_response_messages_total", "Messages that services of gRPC sent.", peerLabels()...)
	m.series.Store(&map[seriesKey]*Messages{})
}

// Messages are the counters for a call of gRPC on a connection. What is not known
// before it is over, status and flags, is no label of theirs.
func (m *Meters) Messages(c *Conn, l Labels) *Messages {
	l.Flags, l.GRPCStatus, l.Status = "", "", 0
	if c.messages == nil {
		c.messages = &messagesOf{}
	}
	if of := c.messages; of.counters == nil || of.labels != l {
		of.labels, of.counters = l, m.findMessages(&l)
	}
	return c.messages.counters
}

// messagesOf are a connection's last counters of messages and what led to them.
// They stand apart because most connections carry no gRPC, and each that is idle
// would hold their 100 bytes.
type messagesOf struct {
	labels   Labels
	counters *Messages
}

func (m *Meters) findMessages(l *Labels) *Messages {
	key := l.key()
	all := &m.messages
	if s := (*all.series.Load())[key]; s != nil {
		return s
	}
	values := m.values(&key)
	s := &Messages{all.asks.With(values...), all.answers.With(values...)}
	all.mu.Lock()
	defer all.mu.Unlock()
	old := *all.series.Load()
	if len(old) >= limit.LabelSetsMax {
		return s
	}
	next := maps.Clone(old)
	next[key] = s
	all.series.Store(&next)
	return s
}
