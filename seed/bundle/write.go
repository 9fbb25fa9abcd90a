package bundle

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"

	"registry-module/internal/verify"
)

// WriteOptions are options of [Write]. The zero value works.
type WriteOptions struct {
	// Sign is the key to sign with; nil for no signature.
	Sign ed25519.PrivateKey
	// Progress is told how far it is: after each manifest or blob, and every MiB within
	// one. Nil for nobody.
	Progress func(Progress)
}

// Progress is how far writing, reading or loading is. Sizes are in bytes.
type Progress struct {
	// Contents is how many manifests and blobs are done, of TotalContents that are to be.
	Contents      int   `json:"contents"`
	TotalContents int   `json:"totalContents"`
	Bytes         int64 `json:"bytes"`
	TotalBytes    int64 `json:"totalBytes"`
	// Images is how many have been added, of TotalImages; loading only.
	Images      int `json:"images"`
	TotalImages int `json:"totalImages"`
}

// Write writes the bundle that d describes. The same d, content and key make the same
// bytes. It fails where content is not what d says; w has got something useless then.
func Write(ctx context.Context, w io.Writer, d Description, src Source, o WriteOptions) error {
	h, err := prepare(d, o)
	if err != nil {
		return err
	}
	return write(ctx, w, h, d, src, o)
}

// prepare validates d and makes its head.
func prepare(d Description, o WriteOptions) (head, error) {
	if err := d.Validate(); err != nil {
		return head{}, fmt.Errorf("writing a bundle: %w", err)
	}
	h, err := newHead(d, o)
	if err != nil {
		return head{}, fmt.Errorf("writing a bundle: %w", err)
	}
	return h, nil
}

func write(ctx context.Context, w io.Writer, h head, d Description, src Source, o WriteOptions) error {
	if _, err := w.Write(h.bytes()); err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	m := newMeter(o.Progress, d.Contents)
	for _, c := range d.Contents {
		if c.Absent {
			continue
		}
		if err := writeContent(ctx, w, c, src, m); err != nil {
			return fmt.Errorf("writing %s into the bundle: %w", c.Digest, err)
		}
		m.done()
	}
	if _, err := w.Write(make([]byte, trailer)); err != nil {
		return fmt.Errorf("writing the end of the bundle: %w", err)
	}
	return nil
}

func writeContent(ctx context.Context, w io.Writer, c Content, src Source, m *meter) (err error) {
	content, err := src.Open(ctx, c.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was only read
	r, err := verify.NewReader(content, c.Digest, c.Size)
	if err != nil {
		return err
	}
	return writeEntry(ctx, w, c, r, m)
}

// writeEntry writes the entry of c, whose content r gives.
func writeEntry(ctx context.Context, w io.Writer, c Content, r io.Reader, m *meter) error {
	if _, err := w.Write(appendHeader(nil, blobName(c), c.Size)); err != nil {
		return err
	}
	if _, err := io.Copy(w, &passing{ctx: ctx, r: r, m: m}); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, padding(c.Size)))
	return err
}

// passing reads until ctx ends, and counts.
type passing struct {
	ctx context.Context //nolint:containedctx // it lives as long as one call
	r   io.Reader
	m   *meter
}

// Read implements io.Reader.
func (p *passing) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, context.Cause(p.ctx)
	}
	n, err := p.r.Read(b)
	p.m.add(int64(n))
	return n, err
}

// meter tells how far something is.
type meter struct {
	tell func(Progress)
	p    Progress
	told int64 // bytes
}

// newMeter returns a meter for those of contents that are not absent.
func newMeter(tell func(Progress), contents []Content) *meter {
	m := &meter{tell: tell}
	for _, c := range contents {
		if !c.Absent {
			m.p.TotalContents++
			m.p.TotalBytes += c.Size
		}
	}
	return m
}

func (m *meter) add(n int64) {
	const step = 1 << 20
	m.p.Bytes += n
	if m.p.Bytes-m.told >= step {
		m.report()
	}
}

func (m *meter) done() {
	m.p.Contents++
	m.report()
}

func (m *meter) report() {
	m.told = m.p.Bytes
	if m.tell != nil {
		m.tell(m.p)
	}
}
