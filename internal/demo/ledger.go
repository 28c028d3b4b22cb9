package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ledger is the shop's TCP service. Its protocol is lines, and the server speaks first, which is what a mesh must not wait on:
//
//	S: LEDGER 1 <version>
//	C: POST <cents>        S: OK <entry> <balance>   or   ERR <reason>
//	C: QUIT                S: BYE, and closes
type ledger struct {
	s     *service
	slots chan struct{}

	// Guarded by mu.
	mu      sync.Mutex
	entries uint64
	balance int64
	open    map[net.Conn]struct{}
}

func newLedger(s *service) *ledger {
	return &ledger{s: s, slots: make(chan struct{}, ledgerConnectionsMax), open: map[net.Conn]struct{}{}}
}

// serve accepts until ctx ends, then closes what is open: a posting is one line and is never cut, as replies are written before the next read.
func (l *ledger) serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() {
		_ = ln.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.open {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; a reply in progress is still written
		}
	})
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
		select {
		case l.slots <- struct{}{}:
		default:
			_, _ = io.WriteString(c, "ERR too many connections\n")
			_ = c.Close()
			continue
		}
		l.mu.Lock()
		l.open[c] = struct{}{}
		l.mu.Unlock()
		wg.Go(func() {
			if err := l.converse(ctx, c); err != nil {
				l.s.log.Debug("ledger connection ended", slog.Any("error", err))
			}
			l.mu.Lock()
			delete(l.open, c)
			l.mu.Unlock()
			_ = c.Close()
			<-l.slots
		})
	}
}

// converse speaks the protocol on one connection until the client leaves, errs or ctx ends.
func (l *ledger) converse(ctx context.Context, c net.Conn) error {
	if _, err := fmt.Fprintf(c, "LEDGER 1 %s\n", l.s.version()); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, ledgerLineBytesMax)
	for {
		if err := c.SetDeadline(time.Now().Add(idleTimeMax)); err != nil {
			return err
		}
		if ctx.Err() != nil { // after SetDeadline, which may have undone the wake-up of serve
			return nil
		}
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			_, err = fmt.Fprintf(c, "ERR a line is at most %d bytes\n", ledgerLineBytesMax)
			return err
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return nil
			}
			return err
		}
		reply, last := l.reply(ctx, strings.TrimRight(string(line), "\r\n"))
		if _, err := io.WriteString(c, reply+"\n"); err != nil || last {
			return err
		}
	}
}

// reply answers one line and says whether it ends the conversation.
func (l *ledger) reply(ctx context.Context, line string) (reply string, last bool) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "QUIT":
		return "BYE", true
	case "POST":
		cents, err := strconv.ParseInt(rest, 10, 64)
		if err != nil || cents <= 0 || cents > ledgerAmountMax {
			return fmt.Sprintf("ERR amount must be 1 to %d cents", ledgerAmountMax), false
		}
		fails, err := l.s.switches.apply(ctx)
		if err != nil || fails {
			return "ERR failing because its fail switch is on", err != nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.entries++
		l.balance += cents
		return fmt.Sprintf("OK %d %d", l.entries, l.balance), false
	}
	return "ERR unknown verb, known are POST and QUIT", false
}

// post writes one posting to the ledger, over a connection of its own, and returns the number of its entry.
func (c *caller) post(ctx context.Context, cents int64) (entry uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeMax)
	defer cancel()
	conn, err := c.dial(ctx, "tcp", ledgerAddress)
	if err != nil {
		return 0, fmt.Errorf("connect to ledger: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r := bufio.NewReaderSize(conn, ledgerLineBytesMax)
	banner, err := r.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read banner of ledger: %w", err)
	}
	if !strings.HasPrefix(banner, "LEDGER 1 ") {
		return 0, fmt.Errorf("ledger greets with %q", strings.TrimSpace(banner))
	}
	if _, err := fmt.Fprintf(conn, "POST %d\nQUIT\n", cents); err != nil {
		return 0, fmt.Errorf("write to ledger: %w", err)
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read answer of ledger: %w", err)
	}
	var balance int64
	if _, err := fmt.Sscanf(line, "OK %d %d\n", &entry, &balance); err != nil {
		return 0, fmt.Errorf("ledger answered %q", strings.TrimSpace(line))
	}
	return entry, nil
}
