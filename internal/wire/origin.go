package wire

import (
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// MetadataKey is the filter_metadata namespace under which the origin travels
// on routes and clusters; its one field is OriginField.
const (
	MetadataKey = "tulle"
	OriginField = "origin"
)

// originBytesMax bounds an encoded origin, so that metadata stays small
// however long the names of objects are.
const originBytesMax = 64

// Origin says which field of which object a derived thing comes from. File,
// line and column are not part of it: the control plane joins them when
// somebody asks, so that a comment inserted in a file changes no resource.
type Origin struct {
	// Kind, Namespace and Name are the object's key.
	Kind, Namespace, Name string
	// Path is the field path within the object, e.g. "spec.http[0]".
	Path string
}

// IsZero reports whether the origin names no object.
func (o Origin) IsZero() bool { return o.Kind == "" && o.Name == "" }

// String is the full form, "Kind/namespace/name#path".
func (o Origin) String() string {
	return o.Kind + "/" + o.Namespace + "/" + o.Name + "#" + o.Path
}

// Encode returns the form that travels in metadata: String when it fits into
// 64 bytes, else "Kind~hash#path", whose hash is of the object's key and is
// resolved by OriginMatches against the objects at hand. A path that does not
// fit either is cut at a segment boundary: the nearest ancestor is named.
func (o Origin) Encode() string {
	if o.IsZero() {
		return ""
	}
	if s := o.String(); len(s) <= originBytesMax {
		return s
	}
	short := o.Kind + "~" + keyHash(o.Kind, o.Namespace, o.Name) + "#"
	path := o.Path
	for len(short)+len(path) > originBytesMax {
		i := strings.LastIndexAny(path, ".")
		if i < 0 {
			path = ""
			break
		}
		path = path[:i]
	}
	return short + path
}

// ParseOrigin reads what Encode wrote. For the hashed form Namespace is empty
// and Name is "~" and the hash.
func ParseOrigin(s string) (Origin, bool) {
	key, path, ok := strings.Cut(s, "#")
	if !ok {
		return Origin{}, false
	}
	if kind, hash, ok := strings.Cut(key, "~"); ok && !strings.Contains(kind, "/") {
		return Origin{Kind: kind, Name: "~" + hash, Path: path}, true
	}
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return Origin{}, false
	}
	return Origin{Kind: parts[0], Namespace: parts[1], Name: parts[2], Path: path}, true
}

// OriginMatches reports whether a parsed origin names the object with this key.
func OriginMatches(o Origin, kind, namespace, name string) bool {
	if o.Kind != kind {
		return false
	}
	if hash, ok := strings.CutPrefix(o.Name, "~"); ok && o.Namespace == "" {
		return hash == keyHash(kind, namespace, name)
	}
	return o.Namespace == namespace && o.Name == name
}

func keyHash(kind, namespace, name string) string {
	return fmt.Sprintf("%016x", xxhash.Sum64String(kind+"/"+namespace+"/"+name))
}
