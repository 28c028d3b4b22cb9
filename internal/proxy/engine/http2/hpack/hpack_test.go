package hpack

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collected is a sink that copies what it gets, as "name: value".
type collected struct{ fields []string }

func (c *collected) Field(f *Field) {
	c.fields = append(c.fields, string(f.Name)+": "+string(f.Value))
}

// reference decodes with golang.org/x/net.
type reference struct {
	*hpack.Decoder
	fields []string
}

func newReference(table uint32) *reference {
	r := &reference{}
	r.Decoder = hpack.NewDecoder(table, func(f hpack.HeaderField) { r.fields = append(r.fields, f.Name+": "+f.Value) })
	return r
}

func (r *reference) block(b []byte) ([]string, error) {
	r.fields = nil
	if _, err := r.Write(b); err != nil {
		return nil, err
	}
	return r.fields, r.Close()
}

func request(i int) [][2]string {
	return [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/shop.Cart/Add"}, {":authority", "cart.shop:8080"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"x-request-id", fmt.Sprint("id-", i)}, {"grpc-timeout", fmt.Sprint(i, "m")},
		{"user-agent", "grpc-go/1.85"}, {"x-tenant", []string{"blue", "green", ""}[i%3]}, {"accept-encoding", "gzip, deflate"},
	}
}

func TestBlocksOfAConnectionAreReadBack(t *testing.T) {
	for _, limit := range []int{4096, 200, 0} {
		e, r := NewEncoder(limit), newReference(uint32(limit))
		d := NewDecoder(NewTables(), limit)
		for i := range 300 {
			var want []string
			b := e.Begin(nil)
			for _, f := range request(i) {
				want = append(want, f[0]+": "+f[1])
				b = e.Append(b, []byte(f[0]), []byte(f[1]))
			}
			b = e.AppendNever(b, []byte("authorization"), []byte("secret"))
			want = append(want, "authorization: secret")
			got, err := r.block(b)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("limit %d, block %d: x/net reads %q, %v", limit, i, got, err)
			}
			var c collected
			if err := d.Decode(b, &c); err != nil || !slices.Equal(c.fields, want) {
				t.Fatalf("limit %d, block %d: %q, %v", limit, i, c.fields, err)
			}
		}
	}
}

func TestWhatComesAgainTakesOneByte(t *testing.T) {
	e := NewEncoder(4096)
	var sizes []int
	for i := range 40 {
		b := e.Begin(nil)
		for _, f := range request(3) {
			b = e.Append(b, []byte(f[0]), []byte(f[1]))
		}
		for j := range 20 { // none of these comes again
			b = e.Append(b, []byte("x-once"), fmt.Append(nil, i, "-", j))
		}
		sizes = append(sizes, len(b))
	}
	if first, last := sizes[0], sizes[39]; last > first-60 || e.count > 20 {
		t.Errorf("blocks of %d and %d bytes, %d entries", first, last, e.count)
	}
}

func TestTheTablesSizeFollowsThePeer(t *testing.T) {
	e, r := NewEncoder(4096), newReference(4096)
	send := func(fields ...[2]string) {
		t.Helper()
		b := e.Begin(nil)
		var want []string
		for _, f := range fields {
			b = e.Append(b, []byte(f[0]), []byte(f[1]))
			want = append(want, f[0]+": "+f[1])
		}
		if got, err := r.block(b); err != nil || !slices.Equal(got, want) {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	for range 4 {
		send(request(1)...)
	}
	e.SetLimit(60) // smaller than two entries, then larger again before a block
	e.SetLimit(2000)
	for range 4 {
		send(request(2)...)
	}
	e.SetLimit(0)
	for range 4 {
		send(request(1)...)
	}
	if e.size != 0 || e.count != 0 {
		t.Errorf("%d bytes in %d entries", e.size, e.count)
	}
}

func TestMalformedBlocksAreRefused(t *testing.T) {
	for name, b := range map[string]string{
		"index 0":                     "\x80",
		"index beyond the tables":     "\xbf",
		"name index beyond":           "\x7f\x00\x01a",
		"cut after the index":         "\x41",
		"cut within a string":         "\x40\x05ab",
		"endless integer":             "\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"integer without an end":      "\xff\x80",
		"size update behind a field":  "\x82\x20",
		"size update beyond the most": "\x3f\xe2\x1f",
		"padding of eight bits":       "\x40\x82\x1f\xff\x01a",
		"padding of zeros":            "\x40\x81\x18\x01a",
		"the code of EOS":             "\x40\x84\xff\xff\xff\xff\x01a",
	} {
		var c collected
		if err := NewDecoder(NewTables(), 4096).Decode([]byte(b), &c); err == nil {
			t.Errorf("%s passed: %q", name, c.fields)
		}
		if _, err := newReference(4096).block([]byte(b)); err == nil && name != "size update behind a field" { // x/net minds only when its table has entries
			t.Errorf("%s passes x/net", name)
		}
	}
}

func TestDecodingByIndexDoesNotAllocate(t *testing.T) {
	e, d := NewEncoder(4096), NewDecoder(NewTables(), 4096)
	var b []byte
	sink := &counter{}
	one := func() {
		b = e.Begin(b[:0])
		for _, f := range [...][2]string{{":path", "/shop.Cart/Add"}, {":authority", "cart"}, {"x-tenant", "blue"}} {
			b = e.Append(b, []byte(f[0]), []byte(f[1]))
		}
		if err := d.Decode(b, sink); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		one()
	}
	if n := testing.AllocsPerRun(100, one); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

type counter struct{ n int }

func (c *counter) Field(*Field) { c.n++ }

func FuzzBlocks(f *testing.F) {
	f.Add([]byte("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"), []byte("\x82\xbe"))
	f.Add([]byte("\x3f\x01\x40\x01a\x01b"), []byte("\x20\x3f\xe1\x1f\x40\x02ab\x83\x1c\x64\x5f"))
	f.Add([]byte("\x40\x82\x1f\xff\x01a"), []byte("\x00\x01a\x01b\x10\x01a\x01b"))
	tables := NewTables()
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first) > 1<<14 || len(second) > 1<<14 {
			return
		}
		d, r := NewDecoder(tables, 4096), newReference(4096)
		for _, b := range [][]byte{first, second} {
			want, wantErr := r.block(b)
			var c collected
			err := d.Decode(b, &c)
			if errors.Is(err, errLateUpdate) || err == nil && wantErr != nil && strings.Contains(wantErr.Error(), "size update MUST") {
				return // x/net takes late updates of an empty table, and not the second of two early ones (RFC 7541 §4.2 allows both)
			}
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("block %x: %v, x/net %v", b, err, wantErr)
			}
			if err != nil {
				return
			}
			if !slices.Equal(c.fields, want) {
				t.Fatalf("block %x: %q, x/net %q", b, c.fields, want)
			}
			if d.size > 4096 || d.count > 128 {
				t.Fatalf("%d bytes in %d entries", d.size, d.count)
			}
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add("a: b\nc: d", uint16(4096))
	f.Add(":path: /\nx: "+strings.Repeat("y", 300), uint16(64))
	f.Fuzz(func(t *testing.T, lines string, limit uint16) {
		e, r := NewEncoder(int(limit)), newReference(uint32(limit))
		for range 4 {
			b := e.Begin(nil)
			var want []string
			for line := range bytes.SplitSeq([]byte(lines), []byte("\n")) {
				name, value, _ := bytes.Cut(line, []byte(": "))
				if len(name) == 0 {
					continue
				}
				b = e.Append(b, name, value)
				want = append(want, string(name)+": "+string(value))
			}
			if got, err := r.block(b); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
			e.SetLimit(int(limit) / 2)
			r.SetMaxDynamicTableSize(uint32(limit) / 2)
			r.SetAllowedMaxDynamicTableSize(uint32(limit))
		}
	})
}
