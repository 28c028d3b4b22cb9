// Package hpack is HPACK (RFC 7541): header blocks in, fields out, and back. A
// Decoder and an Encoder belong to one connection and one direction; Tables is
// shared by all.
//
// What a table holds is memory of its own that never changes, so fields that
// the peer names by index are handed out without a copy and without an
// allocation; only what enters a table costs one. The encoder puts a field into
// its table when it is seen for the second time, so that values that never come
// again (request ids, dates, lengths) do not drive out those that do, and it
// never uses Huffman codes: within a mesh their bytes cost less than their
// time. golang.org/x/net/http2/hpack is the reference of the tests.
//
// Read decode.go, then encode.go.
package hpack

import (
	"errors"
	"fmt"
)

// ErrBlock means that a header block breaks a rule of RFC 7541; the connection
// can't go on (RFC 9113 §4.3).
var ErrBlock = errors.New("malformed header block")

// errLateUpdate is ErrBlock for a table size update behind a field
// (RFC 7541 §4.2).
var errLateUpdate = fmt.Errorf("%w: late size update", ErrBlock)

// Sink takes the fields of a block, one after the other.
type Sink interface{ Field(f *Field) }

// Field is one field of a block that was decoded. It is valid within the call
// of Sink.Field.
type Field struct {
	Name, Value []byte
	// NameLives and ValueLives say that the bytes never change: they may be
	// kept as they are. Other bytes are overwritten by what follows.
	NameLives, ValueLives bool
	// Static says that name and value are of RFC 7541's static table.
	Static bool
	// Mark is a note of the sink's on an entry of the dynamic table: it is zero
	// when the entry is new; nil: there is none.
	Mark *uint8
}

// entryBytes is what a table's entry counts beside its bytes (RFC 7541 §4.1).
const entryBytes = 32

// staticFields is how many fields the static table has.
const staticFields = 61

// Tables are the fixed tables. They are immutable.
type Tables struct {
	static [staticFields]entry
	nodes  [][256]node
}

type entry struct{ name, value []byte }

// node is a step of Huffman decoding by whole bytes: either on to another
// table, or a symbol of which bits bits were used.
type node struct {
	next uint16 // 0: sym is complete
	sym  uint8
	bits uint8 // 0: no code begins so
}

// NewTables builds the tables.
func NewTables() *Tables {
	t := &Tables{nodes: make([][256]node, 1)}
	for i, f := range staticTable() {
		t.static[i] = entry{[]byte(f.name), []byte(f.value)}
	}
	codes, bits := huffmanCodes()
	for sym := range codes {
		t.addCode(uint8(sym), codes[sym], bits[sym])
	}
	return t
}

func (t *Tables) addCode(sym uint8, code uint32, bits uint8) {
	at := 0
	for bits > 8 {
		bits -= 8
		i := uint8(code >> bits)
		if t.nodes[at][i].next == 0 {
			t.nodes = append(t.nodes, [256]node{})
			t.nodes[at][i] = node{next: uint16(len(t.nodes) - 1), bits: 8}
		}
		at = int(t.nodes[at][i].next)
	}
	shift := 8 - bits
	first := int(uint8(code << shift))
	for i := first; i < first+1<<shift; i++ {
		t.nodes[at][i] = node{sym: sym, bits: bits}
	}
}

// appendDecoded decodes a Huffman-coded string (RFC 7541 §5.2).
func (t *Tables) appendDecoded(dst, src []byte) ([]byte, error) {
	at := 0
	cur, have, pending := uint32(0), uint8(0), uint8(0) // pending: bits since the last symbol
	for _, b := range src {
		cur = cur<<8 | uint32(b)
		have += 8
		pending += 8
		for have >= 8 {
			n := &t.nodes[at][uint8(cur>>(have-8))]
			if n.bits == 0 {
				return dst, ErrBlock // the code of EOS
			}
			have -= n.bits
			if at = int(n.next); at == 0 {
				dst = append(dst, n.sym)
				pending = have
			}
		}
	}
	for have > 0 {
		n := &t.nodes[at][uint8(cur<<(8-have))]
		if n.bits == 0 || n.next != 0 || n.bits > have {
			break
		}
		dst = append(dst, n.sym)
		have -= n.bits
		at, pending = 0, have
	}
	// What is left must be padding: fewer than eight bits, all of them one.
	if mask := uint32(1)<<have - 1; pending > 7 || cur&mask != mask {
		return dst, ErrBlock
	}
	return dst, nil
}
