package dns

import (
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of istio.networking.nds.v1.NameTable, whose Go type is in no module: table (a map, so entries of key 1 and value 2), and
// of its NameInfo. Unknown fields are passed over, as protobuf wants it (alt_hosts among them, which Istio has stopped to fill).
const (
	fieldTable     = 1
	fieldKey       = 1
	fieldValue     = 2
	fieldIPs       = 1
	fieldRegistry  = 2
	fieldShortName = 3
	fieldNamespace = 4
)

// ErrNameTable is wrapped by every refusal of ParseNameTable.
var ErrNameTable = errors.New("name table refused")

// ParseNameTable reads a serialized istio.networking.nds.v1.NameTable, which an xDS server sends to a node with DNS_CAPTURE.
func ParseNameTable(b []byte) (map[string]Entry, error) {
	hosts := map[string]Entry{}
	err := eachField(b, func(field protowire.Number, value []byte) error {
		if field != fieldTable {
			return nil
		}
		var host string
		var e Entry
		err := eachField(value, func(field protowire.Number, value []byte) (err error) {
			switch field {
			case fieldKey:
				host = string(value)
			case fieldValue:
				e, err = parseNameInfo(value)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("host %q: %w", host, err)
		}
		hosts[host] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNameTable, err)
	}
	return hosts, nil
}

func parseNameInfo(b []byte) (Entry, error) {
	var e Entry
	err := eachField(b, func(field protowire.Number, value []byte) error {
		switch field {
		case fieldIPs:
			ip, err := netip.ParseAddr(string(value))
			if err != nil {
				return err
			}
			e.IPs = append(e.IPs, ip)
		case fieldRegistry:
			e.Registry = string(value)
		case fieldShortName:
			e.ShortName = string(value)
		case fieldNamespace:
			e.Namespace = string(value)
		}
		return nil
	})
	return e, err
}

// eachField calls take for every field of a message that has bytes; others are passed over.
func eachField(b []byte, take func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := take(field, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
