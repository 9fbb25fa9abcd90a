package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"registry-module/gc"
)

// idOf is what stands for content when it is decided what to keep: the first 64 bits of
// its digest. Where two contents share one they are kept or removed together.
func idOf(dgst string) gc.ID {
	const digits = 16
	if _, hex, ok := strings.Cut(dgst, ":"); ok && len(hex) >= digits {
		if id, err := strconv.ParseUint(hex[:digits], 16, 64); err == nil {
			return gc.ID(id)
		}
	}
	h := fnv.New64a() // it is no digest, and is removed like any other
	_, _ = h.Write([]byte(dgst))
	return gc.ID(h.Sum64())
}

// partsRecord tells what a manifest consists of.
type partsRecord struct {
	// Index tells that it is an index: its parts are manifests.
	Index bool `json:"i,omitempty"`
	// Parts are the [gc.ID] of each, 8 bytes.
	Parts []byte `json:"p"`
}

// partsOf is the entry for a manifest.
func partsOf(doc *manifestDoc) (rec partsRecord, ids []gc.ID) {
	add := func(dgst string) {
		id := idOf(dgst)
		ids = append(ids, id)
		rec.Parts = binary.BigEndian.AppendUint64(rec.Parts, uint64(id))
	}
	rec.Index = doc.Manifests != nil
	for d := range doc.blobs() {
		add(d.Digest.String())
	}
	for _, d := range doc.Manifests {
		if askable(d) {
			add(d.Digest.String())
		}
	}
	for _, layer := range doc.schema1Layers() {
		add(layer)
	}
	return rec, ids
}

// schema1Layers are the layers of a manifest of Docker's schema 1, which tells no sizes.
func (d *manifestDoc) schema1Layers() (layers []string) {
	var list []struct {
		BlobSum string `json:"blobSum"`
	}
	if len(d.FSLayers) == 0 || json.Unmarshal(d.FSLayers, &list) != nil {
		return nil
	}
	for _, l := range list {
		layers = append(layers, l.BlobSum)
	}
	return layers
}

// ids are the parts.
func (rec partsRecord) ids() []gc.ID {
	ids := make([]gc.ID, 0, len(rec.Parts)/8)
	for p := rec.Parts; len(p) >= 8; p = p[8:] {
		ids = append(ids, gc.ID(binary.BigEndian.Uint64(p)))
	}
	return ids
}

// keyParts returns the parts of a key of that kind, of which there are n; nil where it is
// another one.
func keyParts(k []byte, n int) []string {
	if bytes.Count(k, []byte{0}) != n {
		return nil
	}
	return strings.Split(string(k), "\x00")[1:]
}

// decodeBlob is decode for an entry of a blob, of which there may be a million.
func decodeBlob(dgst string, value []byte) (blobRecord, error) {
	if digits, ok := bytes.CutPrefix(value, []byte(`{"s":`)); ok {
		if digits, ok = bytes.CutSuffix(digits, []byte("}")); ok {
			if size, err := strconv.ParseInt(string(digits), 10, 64); err == nil {
				return blobRecord{size}, nil
			}
		}
	}
	return decode[blobRecord]("blob "+dgst, value)
}

// each calls do with the parts of the key, of which there are n, and the value of all
// entries of a kind that begin with prefix.
func (c *Cache) each(ctx context.Context, n int, do func(parts []string, value []byte) error, kind string, prefix ...string) error {
	for e, err := range c.opts.Index.Scan(ctx, append(key(kind, prefix...), 0), nil) {
		if err != nil {
			return err
		}
		parts := keyParts(e.Key, n)
		if parts == nil {
			continue // nothing of ours
		}
		if err := do(parts, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// decode reads the value of an entry.
func decode[T any](what string, value []byte) (rec T, err error) {
	if err := json.Unmarshal(value, &rec); err != nil {
		return rec, fmt.Errorf("entry of %s in the index: %w", what, err)
	}
	return rec, nil
}
