package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The entries of the index. A key is a letter for its kind, then its parts, each
// behind a zero byte, which none of them can contain. A value is JSON: readable
// with any Badger tool, and open for more fields. docs/disk-format.md lists them.
const (
	kindBlob          = "b" // digest: a blob that is stored, whatever repository it is of
	kindLayer         = "l" // repository, digest: a blob that the remote serves there
	kindManifest      = "m" // repository, digest: a manifest that the remote serves there
	kindReferrers     = "f" // repository, digest: that the remote has said what refers to it
	kindReferrersPart = "g" // repository, digest, number: a part of what refers to it
	kindSubject       = "s" // repository, digest, digest of a manifest there: which refers to it
	kindListed        = "h" // repository, digest: a manifest that is in a list of referrers there
	kindNamed         = "n" // repository, digest: content that a manifest there names
	kindRepo          = "r" // repository
	kindTag           = "t" // repository, tag
	kindBound         = "o" // name: the remote where it was found
	kindParts         = "p" // digest: what a manifest consists of
	kindUse           = "u" // digest: how a manifest was used
	kindSums          = "c" // digest: the sums of the parts of a blob that is stored
	kindMeta          = "z" // facts about the index
)

// The entries of kindMeta.
const (
	// metaComplete tells that the index covers all references, and since when.
	metaComplete = "complete, with parts"
	// metaClean tells that the index was closed as it should be, so that its
	// account of the stored blobs can be trusted.
	metaClean = "clean"
	// metaTurns tells how much remotes have brought.
	metaTurns = "turns"
	// metaScrub tells how far the scrub has come.
	metaScrub = "scrub"
)

// cleanRecord tells what was known when the index was closed.
type cleanRecord struct {
	// Used is how many bytes the stored blobs take, and Contents how many there are.
	Used     *int64 `json:"s,omitempty"`
	Contents *int64 `json:"n,omitempty"`
}

// completeRecord tells since when the index covers all references, in Unix seconds.
type completeRecord struct {
	Since int64 `json:"t,omitempty"`
}

type blobRecord struct {
	Size int64 `json:"s"`
}

// contentRecord describes a manifest, a layer, or what a manifest names.
type contentRecord struct {
	MediaType string `json:"m,omitempty"` // of manifests
	Size      int64  `json:"s"`
}

type tagRecord struct {
	Digest digest.Digest `json:"d"`
	// Validated is when the remote has last confirmed the tag, in Unix
	// nanoseconds; 0 is never.
	Validated int64 `json:"v,omitempty"`
	// Asked is when that was heard, and Old that it could not be confirmed then, from a
	// remote that is a cache itself.
	Asked int64 `json:"a,omitempty"`
	Old   bool  `json:"o,omitempty"`
}

// referrersRecord is what refers to a manifest.
type referrersRecord struct {
	// Validated is when the remote has said so, in Unix nanoseconds.
	Validated int64 `json:"v"`
	// Due tells that something is known that the remote has not said then.
	Due bool `json:"d,omitempty"`
	// Parts is how many entries of kindReferrersPart have Manifests.
	Parts     int             `json:"n,omitempty"`
	Manifests []v1.Descriptor `json:"-"`
}

func key(kind string, parts ...string) []byte {
	k := []byte(kind)
	for _, p := range parts {
		k = append(append(k, 0), p...)
	}
	return k
}

// put is the change that stores v under k.
func put(k []byte, v any) Change {
	value, err := json.Marshal(v)
	if err != nil { // the records above always marshal
		panic(fmt.Sprintf("cache: record for %q: %v", k, err))
	}
	return Change{Key: k, Value: value}
}

// record reads an entry of the index into v. The error of one that is not there
// satisfies [absent].
func (c *Cache) record(ctx context.Context, k []byte, v any) error {
	value, err := c.opts.Index.Get(ctx, k)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("entry %q of the index: %w", k, err)
	}
	return nil
}

// names yields the last parts of the keys that consist of kind, parts and one
// more, which are greater than after.
func (c *Cache) names(ctx context.Context, after string, kind string, parts ...string) iter.Seq2[string, error] {
	prefix := append(key(kind, parts...), 0)
	from := prefix
	if after != "" {
		from = append(append(bytes.Clone(prefix), after...), 0)
	}
	return func(yield func(string, error) bool) {
		for e, err := range c.opts.Index.Scan(ctx, prefix, from) {
			if err != nil {
				yield("", err)
				return
			}
			if !yield(string(e.Key[len(prefix):]), nil) {
				return
			}
		}
	}
}
