package hpack

import (
	"bytes"
	"hash/maphash"
)

// Encoder turns fields into the header blocks of one connection.
type Encoder struct {
	seed   maphash.Seed
	limit  int  // of the dynamic table's bytes
	least  int  // the smallest limit since the last block
	resize bool // the next block says limit
	size   int
	ring   []encoded // its length is a power of two
	newest uint64    // entries ever added
	count  uint64

	// Both are caches keyed by hash: one that is overwritten costs bytes, never
	// a wrong answer, because entries are compared.
	slots [slotsLen]uint64 // which entry: its number, from 1
	seen  [seenLen]uint32  // fields that were sent without entering the table
}

const (
	slotsLen = 256
	seenLen  = 64
)

// encoded is an entry; its memory is used again by those that follow.
type encoded struct {
	text []byte
	name int // bytes of text
}

// NewEncoder returns an encoder for a peer that allows a dynamic table of limit
// bytes.
func NewEncoder(limit int) *Encoder {
	return &Encoder{seed: maphash.MakeSeed(), limit: limit, least: limit}
}

// SetLimit follows the peer's SETTINGS_HEADER_TABLE_SIZE; the next block says
// so (RFC 7541 §4.2). A limit that went down and up again empties the table:
// golang.org/x/net takes the second of two updates only then.
func (e *Encoder) SetLimit(limit int) {
	if limit == e.limit && !e.resize {
		return
	}
	e.limit, e.least, e.resize = limit, min(e.least, limit), true
	if e.least < limit {
		e.least = 0
	}
	e.shrink(e.least)
}

// Begin begins a block.
func (e *Encoder) Begin(dst []byte) []byte {
	if !e.resize {
		return dst
	}
	if e.least < e.limit {
		dst = appendNumber(dst, 0x20, 5, uint64(e.least))
	}
	dst = appendNumber(dst, 0x20, 5, uint64(e.limit))
	e.least, e.resize = e.limit, false
	return dst
}

// Append encodes one field.
func (e *Encoder) Append(dst, name, value []byte) []byte {
	if i := staticField(name, value); i > 0 {
		return appendNumber(dst, 0x80, 7, i)
	}
	nameHash := maphash.Bytes(e.seed, name)
	hash := maphash.Bytes(e.seed, value) ^ nameHash*0x9e3779b97f4a7c15
	if i := e.find(hash, name, value, true); i > 0 {
		return appendNumber(dst, 0x80, 7, staticFields+i)
	}
	i := e.nameIndex(name, nameHash)
	if at := &e.seen[hash%seenLen]; *at != uint32(hash>>32) {
		*at = uint32(hash >> 32)
		return appendLiteral(dst, 0, 4, i, name, value)
	}
	dst = appendLiteral(dst, 0x40, 6, i, name, value)
	e.add(name, value, nameHash, hash)
	return dst
}

// AppendNever encodes a field that must not enter a table, here or further on
// (RFC 7541 §7.1.3).
func (e *Encoder) AppendNever(dst, name, value []byte) []byte {
	return appendLiteral(dst, 0x10, 4, e.nameIndex(name, maphash.Bytes(e.seed, name)), name, value)
}

func (e *Encoder) nameIndex(name []byte, hash uint64) uint64 {
	if i := staticName(name); i > 0 {
		return i
	}
	if i := e.find(hash, name, nil, false); i > 0 {
		return staticFields + i
	}
	return 0
}

// find returns the place of an entry in the dynamic table, from 1, or 0.
func (e *Encoder) find(hash uint64, name, value []byte, whole bool) uint64 {
	number := e.slots[hash%slotsLen]
	if number == 0 || e.newest-number >= e.count {
		return 0
	}
	f := &e.ring[(number-1)&uint64(len(e.ring)-1)]
	if !bytes.Equal(f.text[:f.name], name) || whole && !bytes.Equal(f.text[f.name:], value) {
		return 0
	}
	return e.newest - number + 1
}

func (e *Encoder) add(name, value []byte, nameHash, hash uint64) {
	size := len(name) + len(value) + entryBytes
	e.shrink(e.limit - size)
	if size > e.limit {
		return
	}
	if e.count == uint64(len(e.ring)) {
		e.grow()
	}
	f := &e.ring[e.newest&uint64(len(e.ring)-1)]
	f.text, f.name = append(append(f.text[:0], name...), value...), len(name)
	e.newest++
	e.count++
	e.size += size
	e.slots[hash%slotsLen], e.slots[nameHash%slotsLen] = e.newest, e.newest
}

func (e *Encoder) grow() {
	ring := make([]encoded, max(2*len(e.ring), 16))
	for k := range e.count {
		at := e.newest - 1 - k
		ring[at&uint64(len(ring)-1)] = e.ring[at&uint64(len(e.ring)-1)]
	}
	e.ring = ring
}

func (e *Encoder) shrink(size int) {
	for e.count > 0 && e.size > size {
		e.size -= len(e.ring[(e.newest-e.count)&uint64(len(e.ring)-1)].text) + entryBytes
		e.count--
	}
}

func appendLiteral(dst []byte, kind byte, prefix uint8, nameIndex uint64, name, value []byte) []byte {
	dst = appendNumber(dst, kind, prefix, nameIndex)
	if nameIndex == 0 {
		dst = append(appendNumber(dst, 0, 7, uint64(len(name))), name...)
	}
	return append(appendNumber(dst, 0, 7, uint64(len(value))), value...)
}

// appendNumber is RFC 7541 §5.1.
func appendNumber(dst []byte, first byte, prefix uint8, n uint64) []byte {
	most := uint64(1)<<prefix - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}
