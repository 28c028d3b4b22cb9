package loop

import (
	"fmt"
	"slices"
	"time"
)

func (l *Loop) measure() (Result, error) {
	l.latency, l.bytes, l.answered, l.measuring = make([]time.Duration, 0, 1<<20), 0, 0, true
	if l.load.Begin != nil {
		l.load.Begin()
	}
	begin := time.Now()
	l.end = begin.Add(l.load.For)
	var err error
	switch {
	case l.load.Hold:
		err = l.hold()
	case l.load.Rate == 0:
		err = l.saturate(begin)
	default:
		err = l.pace(begin)
	}
	took := time.Since(begin)
	if l.load.End != nil {
		l.load.End()
	}
	return l.result(took), err
}

func (l *Loop) saturate(begin time.Time) error {
	for _, c := range l.lanes {
		if err := l.send(c, begin); err != nil {
			return err
		}
	}
	for time.Now().Before(l.end) {
		if err := l.turn(); err != nil {
			return err
		}
	}
	return nil
}

// pace sends each request at its intended time, on the lanes in turn, and lets
// it wait for its lane when that is busy.
func (l *Loop) pace(begin time.Time) error {
	total := int(l.load.Rate * l.load.For.Seconds())
	for sent := 0; len(l.latency)+l.failed < total; {
		now := time.Now()
		for sent < total {
			due := begin.Add(time.Duration(float64(sent) / l.load.Rate * 1e9))
			if due.After(now) {
				break
			}
			c := l.lanes[sent%len(l.lanes)]
			sent++
			if c.busy {
				c.queue = append(c.queue, due)
			} else if err := l.send(c, due); err != nil {
				return err
			}
		}
		if now.After(l.end.Add(2 * time.Second)) {
			return nil
		}
		if err := l.turn(); err != nil {
			return err
		}
	}
	return nil
}

// hold opens every lane's request and waits until the backend has them all.
func (l *Loop) hold() error {
	for _, c := range l.lanes {
		if err := l.send(c, time.Now()); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); l.answered < len(l.lanes); {
		if time.Now().After(deadline) {
			return fmt.Errorf("the backend saw %d of %d streams in %s", l.answered, len(l.lanes), patience)
		}
		if err := l.turn(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loop) result(took time.Duration) Result {
	slices.Sort(l.latency)
	at := func(q float64) time.Duration {
		if len(l.latency) == 0 {
			return 0
		}
		return l.latency[min(int(q*float64(len(l.latency))), len(l.latency)-1)]
	}
	return Result{Done: len(l.latency), Failed: l.failed, Bytes: l.bytes, Seconds: took.Seconds(),
		P50: at(.5), P90: at(.9), P99: at(.99), P999: at(.999), Max: at(1)}
}
