package hpack

// Decoder turns the header blocks of one connection into fields. Every block of
// the connection must pass it, in order.
type Decoder struct {
	tables  *Tables
	max     int // as we allow it
	limit   int // as the peer chose, at most max
	size    int
	ring    []decoded // its length is a power of two
	newest  uint64    // entries ever added; the newest is ring[(newest-1) % len]
	count   uint64
	scratch []byte
	field   Field
}

type decoded struct {
	entry
	mark uint8
}

// NewDecoder returns a decoder whose dynamic table has at most max bytes.
func NewDecoder(tables *Tables, max int) *Decoder {
	return &Decoder{tables: tables, max: max, limit: max}
}

// Decode gives the fields of a whole block to sink.
func (d *Decoder) Decode(block []byte, sink Sink) error {
	begun := false
	for len(block) > 0 {
		c := block[0]
		var err error
		switch {
		case c&0x80 != 0:
			block, err = d.indexed(block, sink)
		case c&0xc0 == 0x40:
			block, err = d.literal(block, 6, true, sink)
		case c&0xe0 == 0x20:
			if begun {
				return errLateUpdate
			}
			if block, err = d.resize(block); err != nil {
				return err
			}
			continue
		default: // not indexed, or never
			block, err = d.literal(block, 4, false, sink)
		}
		if err != nil {
			return err
		}
		begun = true
	}
	return nil
}

// indexed is RFC 7541 §6.1.
func (d *Decoder) indexed(b []byte, sink Sink) ([]byte, error) {
	i, rest, err := number(b, 7)
	if err != nil {
		return nil, err
	}
	f := &d.field
	if !d.find(i, f) {
		return nil, ErrBlock
	}
	sink.Field(f)
	return rest, nil
}

// find fills f with the entry of an index.
func (d *Decoder) find(i uint64, f *Field) bool {
	if i == 0 || i > staticFields+d.count {
		return false
	}
	if i <= staticFields {
		e := &d.tables.static[i-1]
		*f = Field{Name: e.name, Value: e.value, NameLives: true, ValueLives: true, Static: true}
		return true
	}
	e := &d.ring[(d.newest-(i-staticFields))&uint64(len(d.ring)-1)]
	*f = Field{Name: e.name, Value: e.value, NameLives: true, ValueLives: true, Mark: &e.mark}
	return true
}

// literal is RFC 7541 §6.2.
func (d *Decoder) literal(b []byte, prefix uint8, add bool, sink Sink) ([]byte, error) {
	i, b, err := number(b, prefix)
	if err != nil {
		return nil, err
	}
	d.scratch = d.scratch[:0]
	f := &d.field
	if i == 0 {
		*f = Field{}
		if f.Name, b, err = d.text(b); err != nil {
			return nil, err
		}
	} else if !d.find(i, f) {
		return nil, ErrBlock
	}
	f.Static, f.ValueLives, f.Mark = false, false, nil
	if f.Value, b, err = d.text(b); err != nil {
		return nil, err
	}
	if add {
		d.add(f)
	}
	sink.Field(f)
	return b, nil
}

// add puts a field into the dynamic table (RFC 7541 §4.4), where its bytes
// live.
func (d *Decoder) add(f *Field) {
	size := len(f.Name) + len(f.Value) + entryBytes
	d.shrink(d.limit - size)
	if size > d.limit {
		return
	}
	if !f.NameLives {
		both := make([]byte, 0, len(f.Name)+len(f.Value))
		both = append(append(both, f.Name...), f.Value...)
		f.Name, f.Value = both[:len(f.Name):len(f.Name)], both[len(f.Name):]
	} else {
		f.Value = append([]byte(nil), f.Value...)
	}
	f.NameLives, f.ValueLives = true, true
	if d.count == uint64(len(d.ring)) {
		d.grow()
	}
	e := &d.ring[d.newest&uint64(len(d.ring)-1)]
	*e = decoded{entry: entry{f.Name, f.Value}}
	f.Mark = &e.mark
	d.newest++
	d.count++
	d.size += size
}

func (d *Decoder) grow() {
	ring := make([]decoded, max(2*len(d.ring), 16))
	for k := range d.count {
		at := d.newest - 1 - k
		ring[at&uint64(len(ring)-1)] = d.ring[at&uint64(len(d.ring)-1)]
	}
	d.ring = ring
}

// shrink drops the oldest entries until at most size bytes are left.
func (d *Decoder) shrink(size int) {
	for d.count > 0 && d.size > size {
		e := &d.ring[(d.newest-d.count)&uint64(len(d.ring)-1)]
		d.size -= len(e.name) + len(e.value) + entryBytes
		*e = decoded{}
		d.count--
	}
}

// resize is RFC 7541 §6.3.
func (d *Decoder) resize(b []byte) ([]byte, error) {
	n, rest, err := number(b, 5)
	if err != nil || n > uint64(d.max) {
		return nil, ErrBlock
	}
	d.limit = int(n)
	d.shrink(d.limit)
	return rest, nil
}

// text is a string (RFC 7541 §5.2): a slice of b, or of the scratch memory.
func (d *Decoder) text(b []byte) (s, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, ErrBlock
	}
	coded := b[0]&0x80 != 0
	n, b, err := number(b, 7)
	if err != nil || n > uint64(len(b)) {
		return nil, nil, ErrBlock
	}
	s, rest = b[:n:n], b[n:]
	if !coded {
		return s, rest, nil
	}
	from := len(d.scratch)
	if d.scratch, err = d.tables.appendDecoded(d.scratch, s); err != nil {
		return nil, nil, err
	}
	return d.scratch[from:len(d.scratch):len(d.scratch)], rest, nil
}

// number is an integer (RFC 7541 §5.1) with a prefix of so many bits.
func number(b []byte, prefix uint8) (n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, ErrBlock
	}
	most := uint64(1)<<prefix - 1
	if n = uint64(b[0]) & most; n < most {
		return n, b[1:], nil
	}
	const shiftMax = 28 // more than any length or index that we take
	for i, shift := 1, 0; i < len(b) && shift <= shiftMax; i, shift = i+1, shift+7 {
		n += uint64(b[i]&0x7f) << shift
		if b[i]&0x80 == 0 {
			return n, b[i+1:], nil
		}
	}
	return 0, nil, ErrBlock
}
