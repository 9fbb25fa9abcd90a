package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// InspectOptions are options of [Inspect]. The zero value works.
type InspectOptions struct {
	// TrustKeys are those that the signature is compared with.
	TrustKeys []ed25519.PublicKey
	// Verify reads all content and compares it with its digests.
	Verify bool
	// Progress is told how far that is, as in [WriteOptions]. Nil for nobody.
	Progress func(Progress)
}

// SignatureState is what is to be said of a bundle's signature.
type SignatureState string

// The states of a signature.
const (
	Unsigned  SignatureState = "none"
	Unchecked SignatureState = "unchecked" // no key was given
	Trusted   SignatureState = "trusted"
	Untrusted SignatureState = "untrusted"
)

// Inspection says what is in a bundle. Sizes are in bytes.
type Inspection struct {
	Version int              `json:"version"`
	Images  []InspectedImage `json:"images"`
	// Contents is how many manifests and blobs it carries, with Size bytes, and Absent how
	// many it leaves out, with AbsentSize bytes.
	Contents   int   `json:"contents"`
	Size       int64 `json:"size"`
	Absent     int   `json:"absent"`
	AbsentSize int64 `json:"absentSize"`
	// Signature is with key KeyID. Why says why it is not trusted.
	Signature SignatureState `json:"signature"`
	KeyID     string         `json:"keyID,omitempty"`
	Why       string         `json:"why,omitempty"`
	// Chunks are its files.
	Chunks []Chunk `json:"chunks,omitempty"`
	// Verified tells that all content was read; Lost is what is missing or wrong, as far
	// as that is known.
	Verified bool      `json:"verified"`
	Lost     []Content `json:"lost,omitempty"`
	// Warnings are what else is not as it has to be.
	Warnings []string `json:"warnings,omitempty"`
}

// InspectedImage is an image of a bundle.
type InspectedImage struct {
	Image     string        `json:"image"` // see [Image.Reference]
	Digest    digest.Digest `json:"digest"`
	Platforms []string      `json:"platforms,omitempty"`
	Manifests int           `json:"manifests"` // with its own
	Blobs     int           `json:"blobs"`
	Attached  bool          `json:"attached,omitempty"`
	// Size is that of all its content, each once, and Absent how much of it is left out.
	Size   int64 `json:"size"`
	Absent int64 `json:"absent"`
	// Lost tells that something of it is.
	Lost bool `json:"lost,omitempty"`
}

// Inspect says what is in a bundle. A stream is read to its end for that with Verify only.
// It fails only if ctx ends.
func Inspect(ctx context.Context, b *Bundle, o InspectOptions) (Inspection, error) {
	in := Inspection{Version: b.d.Version, Images: []InspectedImage{}, Verified: o.Verify}
	b.inspectSignature(&in, o.TrustKeys)
	if index, err := json.Marshal(indexOf(b.d, digest.FromBytes(b.head.description))); err != nil || !bytes.Equal(index, b.head.index) {
		in.Warnings = append(in.Warnings, "index.json does not say what the description says: other programs will see something else")
	}
	lost, err := b.inspectContents(ctx, &in, o)
	if err != nil {
		return Inspection{}, err
	}
	sizes := make(map[digest.Digest]Content, len(b.d.Contents))
	for _, c := range b.d.Contents {
		sizes[c.Digest] = c
	}
	for _, i := range b.d.Images {
		image := InspectedImage{
			Image: i.Reference(), Digest: i.Digest, Platforms: i.Platforms,
			Manifests: 1 + len(i.Manifests), Blobs: len(i.Blobs), Attached: i.Attached,
			Lost: i.lacks(lost),
		}
		for _, dgst := range i.all() {
			c := sizes[dgst]
			image.Size += c.Size
			if c.Absent {
				image.Absent += c.Size
			}
		}
		in.Images = append(in.Images, image)
	}
	in.Chunks = b.Chunks()
	return in, nil
}

func (b *Bundle) inspectSignature(in *Inspection, keys []ed25519.PublicKey) {
	s, _ := b.Signature()
	in.KeyID = s.KeyID
	in.Signature = Unsigned
	if b.head.signature == nil {
		return
	}
	in.Signature = Unchecked
	if len(keys) == 0 {
		return
	}
	in.Signature = Trusted
	if err := b.Trust(keys); err != nil {
		in.Signature, in.Why = Untrusted, err.Error()
	}
}

// inspectContents counts contents, and returns those that are lost.
func (b *Bundle) inspectContents(ctx context.Context, in *Inspection, o InspectOptions) (map[digest.Digest]struct{}, error) {
	state := make(map[digest.Digest]bool, len(b.d.Contents)) // whether it is all right
	for _, c := range b.d.Contents {
		if c.Absent {
			in.Absent++
			in.AbsentSize += c.Size
			continue
		}
		in.Contents++
		in.Size += c.Size
		p, files := b.from.(*parts)
		state[c.Digest] = !o.Verify && !(files && p.gone(c))
	}
	if o.Verify {
		m := newMeter(o.Progress, b.d.Contents)
		for blob, err := range b.Blobs(ctx, nil) {
			if err == nil {
				_, err = io.Copy(io.Discard, &passing{ctx: ctx, r: blob, m: m})
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("inspecting the bundle: %w", context.Cause(ctx))
			}
			if lost := (*LostError)(nil); err != nil && !errors.As(err, &lost) {
				in.Warnings = append(in.Warnings, err.Error())
				continue
			}
			state[blob.Content.Digest] = err == nil
			m.done()
		}
	}
	lost := make(map[digest.Digest]struct{})
	for _, c := range b.d.Contents {
		if right, carried := state[c.Digest]; carried && !right {
			lost[c.Digest] = struct{}{}
			in.Lost = append(in.Lost, Content{Digest: c.Digest, Size: c.Size})
		}
	}
	return lost, nil
}
