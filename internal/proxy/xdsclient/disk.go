package xdsclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/wire"
)

// The last good configuration on disk: one file for each type, replaced as a
// whole. A file is
//
//	magic | length, DeltaDiscoveryRequest (node id, type, names) | length,
//	DeltaDiscoveryResponse (resources) | SHA-256 of all before it
//
// with lengths of 4 bytes, big endian. The checksum finds damage, not forgery:
// who may write the folder may write the configuration, hence its mode 0700.
const (
	diskMagic  = "tulle xds cache 1\n"
	diskSuffix = ".xds"
	// diskBytesMax bounds one file.
	diskBytesMax = 256 << 20
	// saveDelay gathers changes, so that a storm of them is one write.
	saveDelay = time.Second
)

// errDisk is wrapped by every refusal of a file's content.
var errDisk = errors.New("cache file refused")

type disk struct {
	dir    string
	nodeID string
}

func openDisk(dir, nodeID string) (*disk, error) {
	if err := keyfile.MakeDirectory(dir); err != nil {
		return nil, fmt.Errorf("xds cache: %w", err)
	}
	return &disk{dir, nodeID}, nil
}

// path is the file of a type: the message's name and a suffix.
func (d *disk) path(typeURL string) string {
	return filepath.Join(d.dir, filepath.Base(filepath.Clean("/"+typeURL))+diskSuffix)
}

// restore hands what is on disk to the handler, before the server answers. A
// file that is refused is left where it is, named, and ignored.
func (c *Client) restore(ctx context.Context) {
	if c.disk == nil {
		return
	}
	stored := map[string]snapshot{}
	files, err := filepath.Glob(filepath.Join(c.disk.dir, "*"+diskSuffix))
	if err != nil {
		return // only a malformed pattern, which ours is not
	}
	for _, file := range files {
		snap, err := readSnapshot(file, c.disk.nodeID)
		if err != nil {
			c.opts.Log.Warn("stored configuration is ignored", slog.String("file", file), slog.Any("error", err))
			continue
		}
		stored[snap.typeURL] = snap
	}
	for _, typeURL := range append(sendingOrder(), others(stored)...) {
		snap, ok := stored[typeURL]
		if !ok || len(snap.resources) == 0 {
			continue
		}
		u := Update{Type: typeURL, Added: snap.resources, Stored: true}
		refused := c.opts.Handler.Apply(ctx, u)
		c.mu.Lock()
		ts := c.typeLocked(typeURL)
		if len(ts.want) == 0 { // the consumer has not said: what we had
			for _, n := range snap.names {
				ts.want[n] = struct{}{}
			}
		}
		ts.settle(u, refused, time.Now())
		ts.unsaved = false
		ts.forgetUnwanted()
		c.mu.Unlock()
	}
}

func others(stored map[string]snapshot) []string {
	var out []string
	for typeURL := range stored {
		if !slices.Contains(sendingOrder(), typeURL) {
			out = append(out, typeURL)
		}
	}
	slices.Sort(out)
	return out
}

// keepSaved writes what has changed, until ctx ends, and then once more.
func (c *Client) keepSaved(ctx context.Context) {
	if c.disk == nil {
		return
	}
	tick := time.NewTicker(saveDelay)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.save()
		case <-ctx.Done():
			c.save()
			return
		}
	}
}

func (c *Client) save() {
	c.mu.Lock()
	var snaps []snapshot
	for _, typeURL := range c.typesLocked() {
		ts := c.types[typeURL]
		if !ts.unsaved || typeURL == wire.SecretType {
			continue
		}
		ts.unsaved = false
		snap := snapshot{typeURL: typeURL, nodeID: c.disk.nodeID}
		for n := range ts.want {
			snap.names = append(snap.names, n)
		}
		for _, r := range ts.accepted {
			snap.resources = append(snap.resources, r)
		}
		snaps = append(snaps, snap)
	}
	c.mu.Unlock()
	for _, snap := range snaps {
		if err := keyfile.Replace(c.disk.path(snap.typeURL), snap.encode()); err != nil {
			c.opts.Log.Error("cannot store the last good configuration", slog.String("type", snap.typeURL), slog.Any("error", err))
			c.mu.Lock()
			c.typeLocked(snap.typeURL).unsaved = true
			c.mu.Unlock()
		}
	}
}

// snapshot is the content of one file.
type snapshot struct {
	typeURL, nodeID string
	names           []string
	resources       []*wire.Resource
}

func (s snapshot) encode() []byte {
	slices.Sort(s.names)
	slices.SortFunc(s.resources, func(a, b *wire.Resource) int { return strings.Compare(a.Name, b.Name) })
	// Marshal fails for invalid UTF-8 only, which these strings, having come
	// through protobuf, do not hold.
	head, _ := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: s.nodeID}, TypeUrl: s.typeURL, ResourceNamesSubscribe: s.names,
	})
	size := 0
	for _, r := range s.resources {
		size += len(r.DeltaEntry())
	}
	b := make([]byte, 0, len(diskMagic)+8+len(head)+size+sha256.Size)
	b = append(b, diskMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	b = append(b, head...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	for _, r := range s.resources {
		b = append(b, r.DeltaEntry()...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func readSnapshot(file, nodeID string) (snapshot, error) {
	f, err := os.Open(file)
	if err != nil {
		return snapshot{}, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return snapshot{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return snapshot{}, fmt.Errorf("%w: others may access it (mode %04o, want 0600)", errDisk, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, diskBytesMax+1))
	if err != nil {
		return snapshot{}, err
	}
	s, err := decodeSnapshot(b)
	if err != nil {
		return snapshot{}, err
	}
	if s.nodeID != nodeID {
		return snapshot{}, fmt.Errorf("%w: it is of node %q", errDisk, s.nodeID)
	}
	return s, nil
}

func decodeSnapshot(b []byte) (snapshot, error) {
	if len(b) > diskBytesMax {
		return snapshot{}, fmt.Errorf("%w: larger than %d bytes", errDisk, diskBytesMax)
	}
	if !bytes.HasPrefix(b, []byte(diskMagic)) || len(b) < len(diskMagic)+sha256.Size {
		return snapshot{}, fmt.Errorf("%w: not of this version", errDisk)
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return snapshot{}, fmt.Errorf("%w: damaged (checksum)", errDisk)
	}
	head, rest, ok := cutChunk(body[len(diskMagic):])
	if !ok {
		return snapshot{}, fmt.Errorf("%w: cut short", errDisk)
	}
	tail, rest, ok := cutChunk(rest)
	if !ok || len(rest) != 0 {
		return snapshot{}, fmt.Errorf("%w: wrong length", errDisk)
	}
	var req discoveryv3.DeltaDiscoveryRequest
	if err := proto.Unmarshal(head, &req); err != nil {
		return snapshot{}, fmt.Errorf("%w: %w", errDisk, err)
	}
	var resp discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(tail, &resp); err != nil {
		return snapshot{}, fmt.Errorf("%w: %w", errDisk, err)
	}
	resp.TypeUrl = req.GetTypeUrl()
	m := fromDelta(&resp)
	if len(m.refused) > 0 {
		return snapshot{}, fmt.Errorf("%w: %s", errDisk, m.refused[0].Reason)
	}
	return snapshot{typeURL: req.GetTypeUrl(), nodeID: req.GetNode().GetId(), names: req.GetResourceNamesSubscribe(), resources: m.resources}, nil
}

func cutChunk(b []byte) (chunk, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
