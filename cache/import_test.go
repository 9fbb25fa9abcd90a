package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

func TestStoreBlob(t *testing.T) {
	content := randomBytes(300 * kib)
	d := layerOf(content)
	for name, tt := range map[string]struct {
		dgst   digest.Digest
		size   int64
		r      io.Reader
		op     string // of the store that fails
		adjust func(*cache.Options)
		want   error
	}{
		"right":       {},
		"sha512":      {dgst: digest.SHA512.FromBytes(content)},
		"other bytes": {r: bytes.NewReader(randomBytes(300 * kib)), want: cache.ErrInvalid},
		"too short":   {r: bytes.NewReader(content[:d.Size-1]), want: cache.ErrInvalid},
		"too long":    {r: io.MultiReader(bytes.NewReader(content), bytes.NewReader([]byte("x"))), want: cache.ErrInvalid},
		"empty":       {r: bytes.NewReader(nil), want: cache.ErrInvalid},
		"less said":   {size: d.Size - 1, want: cache.ErrInvalid},
		"no size":     {size: -1, want: cache.ErrInvalid},
		"no digest":   {dgst: "sha256:x", want: cache.ErrInvalid},
		"absurd":      {size: 1 << 62, want: cache.ErrNoSpace},
		"unreadable":  {r: io.MultiReader(bytes.NewReader(content[:1000]), errReader{syscall.EIO}), want: syscall.EIO},
		"no end":      {r: io.MultiReader(bytes.NewReader(content), errReader{syscall.EIO}), want: syscall.EIO},
		"no room":     {adjust: func(o *cache.Options) { o.MaxSize = 200 * kib }, want: cache.ErrNoSpace},
		"create":      {op: "create", want: cache.ErrNoSpace},
		"write":       {op: "write", want: cache.ErrNoSpace},
		"commit":      {op: "commit", want: cache.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) {
				o.Usage = o.Blobs.(cache.Usage)
				if tt.adjust != nil {
					tt.adjust(o)
				}
			})
			if tt.dgst == "" {
				tt.dgst = d.Digest
			}
			if tt.size == 0 {
				tt.size = d.Size
			}
			if tt.r == nil {
				tt.r = bytes.NewReader(content)
			}
			s.blobs.Fail = func(op string) error {
				if op == tt.op {
					return syscall.EIO
				}
				return nil
			}
			err := s.StoreBlob(t.Context(), tt.dgst, tt.size, tt.r)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			s.blobs.Fail = nil
			size, ok, err := s.Stored(t.Context(), tt.dgst)
			must(t, err)
			if ok != (tt.want == nil) || ok && size != d.Size {
				t.Errorf("stored: %v, %d bytes", ok, size)
			}
			if n := s.blobs.Drafts(); n != 0 {
				t.Errorf("%d drafts are left", n)
			}
			if got, err := s.Collect(t.Context(), cache.CollectOptions{DryRun: true, Free: 1}); err != nil || ok && got.Freed != d.Size {
				t.Errorf("it is not counted: %+v, %v", got, err)
			}
			if has, _, err := s.Repository("a").HasBlob(t.Context(), tt.dgst); err != nil || has {
				t.Errorf("a repository has it: %v", err)
			}
			s.wantCalls(t, "", 0)
		})
	}
}

// What is stored already is not read.
func TestStoreBlobTwice(t *testing.T) {
	s := newSite(t)
	content := randomBytes(kib)
	d := layerOf(content)
	must(t, s.StoreBlob(t.Context(), d.Digest, d.Size, bytes.NewReader(content)))
	must(t, s.StoreBlob(t.Context(), d.Digest, d.Size, errReader{errors.New("it was read")}))
	if err := s.StoreBlob(t.Context(), d.Digest, d.Size+1, errReader{}); !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("of another size: %v", err)
	}
	ctx := canceled(t)
	other := randomBytes(kib)
	if err := s.StoreBlob(ctx, digest.FromBytes(other), kib, bytes.NewReader(other)); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody wants it any more: %v", err)
	}
}

func TestLinkBlob(t *testing.T) {
	s := newSite(t, noUpstream)
	content := randomBytes(kib)
	d := layerOf(content)
	r := s.Repository("a")
	if err := r.LinkBlob(t.Context(), d.Digest, d.Size); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("of what is not stored: %v", err)
	}
	must(t, s.StoreBlob(t.Context(), d.Digest, d.Size, bytes.NewReader(content)))
	if err := r.LinkBlob(t.Context(), d.Digest, d.Size+1); !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("of another size: %v", err)
	}
	if _, err := r.OpenBlob(t.Context(), d.Digest); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("it can be seen before: %v", err)
	}
	must(t, r.LinkBlob(t.Context(), d.Digest, d.Size))
	s.loseIndex()
	s.reopen(t)
	b, err := s.Repository("a").OpenBlob(t.Context(), d.Digest)
	must(t, err)
	if got := readAll(t, b); !bytes.Equal(got, content) {
		t.Error("it has other bytes")
	}
	broken := newSite(t, func(o *cache.Options) { o.Refs = &brokenRefs{o.Refs, cache.RefLayer} })
	must(t, broken.StoreBlob(t.Context(), d.Digest, d.Size, bytes.NewReader(content)))
	if err := broken.Repository("a").LinkBlob(t.Context(), d.Digest, d.Size); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("where it cannot be written: %v", err)
	}
}

// imported is an image that is brought in without a remote.
type imported struct {
	config, layer []byte
	manifest      cache.Manifest
}

func newImported(size int) imported {
	i := imported{config: randomBytes(kib), layer: randomBytes(size)}
	bytes := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":%d},"layers":[{"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageManifest, digest.FromBytes(i.config), kib, digest.FromBytes(i.layer), size)
	i.manifest = cache.Manifest{Descriptor: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(bytes), Size: int64(len(bytes))}, Bytes: bytes}
	return i
}

func (i imported) contents() (all []cache.BlobEntry) {
	for _, content := range [][]byte{i.config, i.layer, i.manifest.Bytes} {
		all = append(all, cache.BlobEntry{Digest: digest.FromBytes(content), Size: int64(len(content))})
	}
	return all
}

// into brings it into a cache as a:1: all but the tag is unseen until it is complete.
func (i imported) into(ctx context.Context, c *cache.Cache, r *cache.Repository) error {
	h := c.Hold()
	defer h.Release()
	for _, e := range i.contents() {
		h.Keep(e.Digest)
	}
	for _, content := range [][]byte{i.config, i.layer} {
		d := layerOf(content)
		if err := c.StoreBlob(ctx, d.Digest, d.Size, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	for _, content := range [][]byte{i.config, i.layer} {
		d := layerOf(content)
		if err := r.LinkBlob(ctx, d.Digest, d.Size); err != nil {
			return err
		}
	}
	if err := r.StoreManifest(ctx, i.manifest); err != nil {
		return err
	}
	return r.PointTag(ctx, "1", i.manifest.Digest)
}

// failing fails its nth operation that writes, and all after it.
type failing struct {
	mu sync.Mutex
	n  int
}

func (f *failing) fails() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n <= 0 {
		return syscall.EIO
	}
	return nil
}

type brokenOffRefs struct {
	cache.Refs
	*failing
}

func (r brokenOffRefs) Put(ctx context.Context, ref cache.Ref, dgst digest.Digest) error {
	if err := r.fails(); err != nil {
		return err
	}
	return r.Refs.Put(ctx, ref, dgst)
}

// Wherever an import breaks off, nothing wrong or incomplete can be seen, and another one
// brings what is missing.
func TestImportBreaksOff(t *testing.T) {
	i := newImported(300 * kib)
	for n := 1; ; n++ {
		if n > 100 {
			t.Fatal("it never succeeds")
		}
		f := &failing{n: n}
		s := newSite(t, noUpstream, func(o *cache.Options) { o.Refs = brokenOffRefs{o.Refs, f} })
		s.blobs.Fail = func(op string) error {
			if slices.Contains([]string{"create", "write", "commit"}, op) {
				return f.fails()
			}
			return nil
		}
		err := i.into(t.Context(), s.Cache, s.Repository("a"))
		f.mu.Lock()
		f.n = 1 << 30
		f.mu.Unlock()
		report, verifyErr := s.Verify(t.Context(), cache.VerifyOptions{})
		must(t, verifyErr)
		for _, p := range report.Problems {
			t.Errorf("after %d operations: %+v", n, p)
		}
		_, tagErr := s.Repository("a").Tag(t.Context(), "1")
		if (tagErr == nil) != (err == nil) {
			t.Errorf("after %d operations: the import says %v, and the tag %v", n, err, tagErr)
		}
		for image, imageErr := range s.Images(t.Context()) {
			must(t, imageErr)
			if !image.Complete {
				t.Errorf("after %d operations %s@%s is not complete", n, image.Repository, image.Digest)
			}
		}
		must(t, i.into(t.Context(), s.Cache, s.Repository("a")))
		s.wantImages(t, "a:1")
		if err == nil {
			return
		}
	}
}

func TestContents(t *testing.T) {
	s := newSite(t, noUpstream)
	i := newImported(kib)
	must(t, i.into(t.Context(), s.Cache, s.Repository("a")))
	want := i.contents()
	slices.SortFunc(want, func(a, b cache.BlobEntry) int { return bytes.Compare([]byte(a.Digest), []byte(b.Digest)) })
	var got []cache.BlobEntry
	for e, err := range s.Contents(t.Context()) {
		must(t, err)
		got = append(got, e)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range s.Contents(t.Context()) {
		break
	}
	for _, e := range want {
		content, size, err := s.OpenContent(t.Context(), e.Digest)
		must(t, err)
		p, err := io.ReadAll(content)
		must(t, errors.Join(err, content.Close()))
		if size != e.Size || digest.FromBytes(p) != e.Digest {
			t.Errorf("%s has %d bytes", e.Digest, size)
		}
	}
	if _, _, err := s.OpenContent(t.Context(), digest.FromString("x")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("what is not stored: %v", err)
	}
}
