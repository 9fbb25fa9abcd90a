package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/seed"
)

// What is asked of a cache by who fills it.
var (
	_ seed.Repository = (*cache.Repository)(nil)
	_ seed.Hold       = (*cache.Hold)(nil)
)

// layerOf describes a blob.
func layerOf(content []byte) v1.Descriptor {
	return v1.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// fetch brings a blob into repository repo, and checks how much came for it.
func (s *site) fetch(t *testing.T, repo string, d v1.Descriptor, want int64) {
	t.Helper()
	got, err := s.Repository(repo).FetchBlob(t.Context(), d, nil)
	must(t, err)
	if got != want {
		t.Errorf("%d bytes came for %s, want %d", got, d.Digest, want)
	}
}

func TestPeek(t *testing.T) {
	away := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "asking"}
	limited := &cache.UpstreamError{Kind: cache.ErrRateLimited, Remote: "upstream.test", Op: "asking"}
	for name, tt := range map[string]struct {
		stored    bool // before
		move      bool // it is another one since
		err       error
		old       bool // the answer is the stored one
		stale     bool
		want      error
		resolves  int
		manifests int
	}{
		"new":                     {manifests: 1},
		"unchanged":               {stored: true, old: true, resolves: 1},
		"moved":                   {stored: true, move: true, resolves: 1, manifests: 1},
		"away, nothing stored":    {err: away, want: cache.ErrUnavailable, manifests: 1},
		"away":                    {stored: true, move: true, err: away, old: true, stale: true, resolves: 1},
		"limited":                 {stored: true, move: true, err: limited, old: true, stale: true, resolves: 1},
		"denied":                  {stored: true, err: &cache.UpstreamError{Kind: cache.ErrDenied}, want: cache.ErrDenied, resolves: 1},
		"gone":                    {stored: true, err: &cache.UpstreamError{Kind: cache.ErrNotFound}, want: cache.ErrNotFound, resolves: 1},
		"gone, as far as it says": {stored: true, err: &cache.UpstreamError{Kind: cache.ErrNotFound, Vague: true}, want: cache.ErrNotFound, resolves: 1, manifests: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.Pins = []string{"a:1"} })
			old, _ := s.addImage("a", "1", "old")
			is := old
			if tt.stored {
				_, err := s.Repository("a").Tag(t.Context(), "1")
				must(t, err)
			}
			if tt.move {
				is, _ = s.addImage("a", "1", "new")
			}
			blobs, resolves, manifests := s.blobs.Len(), s.up.Calls("resolve"), s.up.Calls("manifest")
			s.up.Fail(tt.err)
			got, err := s.Repository("a").Peek(t.Context(), "1")
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if tt.old {
				is = old
			}
			if err == nil && (got.Digest != is || digest.FromBytes(got.Bytes) != is || (got.Stale != nil) != tt.stale || got.Confirmed.IsZero()) {
				t.Errorf("got %s, stale %v, want %s", got.Digest, got.Stale, is)
			}
			s.wantCalls(t, "resolve", resolves+tt.resolves)
			s.wantCalls(t, "manifest", manifests+tt.manifests)
			if s.blobs.Len() != blobs {
				t.Error("something was stored")
			}
			s.up.Fail(nil)
			stored, err := s.Repository("a").CachedTag(t.Context(), "1")
			if (err == nil) != tt.stored || err == nil && stored.Digest != old {
				t.Errorf("stored is %v, %v", stored.Digest, err)
			}
		})
	}
}

func TestPeekWithoutRemote(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("a", "1", "x")
	_, err := s.Repository("a").Tag(t.Context(), "1")
	must(t, err)
	s.reopen(t, noUpstream)
	got, err := s.Repository("a").Peek(t.Context(), "1")
	must(t, err)
	if got.Digest != dgst || got.Stale != nil {
		t.Errorf("got %v, stale %v", got.Digest, got.Stale)
	}
	for _, ref := range []string{"2", digest.FromString("2").String()} {
		if _, err := s.Repository("a").Peek(t.Context(), ref); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestPeekAtDigest(t *testing.T) {
	s := newSite(t)
	dgst, _ := s.addImage("a", "1", "x")
	got, err := s.Repository("a").Peek(t.Context(), dgst.String())
	must(t, err)
	if got.Digest != dgst || s.blobs.Len() != 0 {
		t.Errorf("got %v, %d are stored", got.Digest, s.blobs.Len())
	}
	if _, err := s.Repository("a").CachedManifest(t.Context(), dgst); err == nil {
		t.Error("it is remembered")
	}
	wrong := got.Manifest
	wrong.Bytes = append(bytes.Clone(wrong.Bytes), ' ')
	s.up.SetManifest("a", dgst.String(), wrong)
	if _, err := s.Repository("a").Peek(t.Context(), dgst.String()); !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("wrong bytes: %v", err)
	}
}

func TestFetchBlob(t *testing.T) {
	s := newSite(t)
	content := randomBytes(100 * kib)
	for _, repo := range []string{"a", "b"} {
		s.up.AddBlob(repo, content)
	}
	d := layerOf(content)
	has := func(repo string, want bool, wantKept int64) {
		t.Helper()
		got, kept, err := s.Repository(repo).HasBlob(t.Context(), d.Digest)
		must(t, err)
		if got != want || kept != wantKept {
			t.Errorf("%s has it: %v, %d bytes; want %v, %d", repo, got, kept, want, wantKept)
		}
	}
	has("a", false, 0)
	var held []int64
	got, err := s.Repository("a").FetchBlob(t.Context(), d, func(n int64) { held = append(held, n) })
	must(t, err)
	if got != d.Size || len(held) == 0 || held[len(held)-1] != d.Size {
		t.Errorf("%d bytes, and %v were told", got, held)
	}
	has("a", true, d.Size)
	has("b", false, d.Size)
	s.fetch(t, "a", d, 0)
	s.wantCalls(t, "", 1)
	s.fetch(t, "b", d, 0)
	s.wantCalls(t, "blob", 1)
	s.wantCalls(t, "stat", 1)
	has("b", true, d.Size)
	if _, err := s.Repository("c").FetchBlob(t.Context(), d, nil); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("where the remote does not have it: %v", err)
	}
	has("c", false, d.Size)
}

// A client's download is joined, and of what came before nothing is counted.
func TestFetchBlobJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(100 * kib)
		feed := cachetest.NewFeed()
		s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
		for _, repo := range []string{"a", "b"} {
			s.up.AddBlob(repo, content)
		}
		b, err := s.Repository("a").OpenBlob(t.Context(), digest.FromBytes(content))
		must(t, err)
		must(t, feed.Send(content[:40*kib]))
		synctest.Wait()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.fetch(t, "b", layerOf(content), 60*kib)
		}()
		synctest.Wait()
		must(t, feed.Send(content[40*kib:]))
		feed.End(nil)
		<-done
		readAll(t, b)
		s.wantCalls(t, "blob", 1)
		if has, _, err := s.Repository("b").HasBlob(t.Context(), digest.FromBytes(content)); err != nil || !has {
			t.Errorf("it is not linked: %v", err)
		}
	})
}

// What was kept of an interrupted download is not counted.
func TestFetchBlobGoesOn(t *testing.T) {
	s := newSite(t, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
	content := randomBytes(2 * cache.PartSize)
	d := layerOf(content)
	s.up.AddBlob("a", content)
	s.up.Body = func(_ digest.Digest, content []byte) io.ReadCloser {
		return io.NopCloser(io.MultiReader(bytes.NewReader(content[:cache.PartSize]), iotestErr(syscall.ECONNRESET)))
	}
	got, err := s.Repository("a").FetchBlob(t.Context(), d, nil)
	if !errors.Is(err, cache.ErrUnavailable) || got != cache.PartSize {
		t.Fatalf("%d bytes, %v", got, err)
	}
	if _, kept, err := s.Repository("a").HasBlob(t.Context(), d.Digest); err != nil || kept != cache.PartSize {
		t.Errorf("%d bytes are kept, %v", kept, err)
	}
	s.up.Body = nil
	s.fetch(t, "a", d, cache.PartSize)
	if sent := s.up.Sent(); sent != d.Size {
		t.Errorf("%d bytes were sent of %d", sent, d.Size)
	}
}

// iotestErr is a reader that fails.
func iotestErr(err error) io.Reader { return errReader{err} }

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// brokenRefs fail to link.
type brokenRefs struct {
	cache.Refs
	kind cache.RefKind
}

func (r *brokenRefs) Put(ctx context.Context, ref cache.Ref, dgst digest.Digest) error {
	if ref.Kind == r.kind {
		return syscall.EIO
	}
	return r.Refs.Put(ctx, ref, dgst)
}

func TestFetchBlobFails(t *testing.T) {
	content := randomBytes(100 * kib)
	for name, tt := range map[string]struct {
		op     string // of the store that fails
		adjust func(*cache.Options)
		d      func(*v1.Descriptor)
		want   error
	}{
		"no room":      {adjust: func(o *cache.Options) { o.MaxSize = 50 * kib }, want: cache.ErrNoSpace},
		"create":       {op: "create", want: cache.ErrNoSpace},
		"write":        {op: "write", want: cache.ErrNoSpace},
		"commit":       {op: "commit", want: cache.ErrNoSpace},
		"link":         {adjust: func(o *cache.Options) { o.Refs = &brokenRefs{o.Refs, cache.RefLayer} }, want: cache.ErrNoSpace},
		"smaller":      {d: func(d *v1.Descriptor) { d.Size-- }, want: cache.ErrInvalid},
		"larger":       {d: func(d *v1.Descriptor) { d.Size++ }, want: cache.ErrInvalid},
		"other digest": {d: func(d *v1.Descriptor) { d.Digest = digest.FromString("x") }, want: cache.ErrNotFound},
		"no digest":    {d: func(d *v1.Descriptor) { d.Digest = "sha256:x" }, want: cache.ErrInvalid},
		"no size":      {d: func(d *v1.Descriptor) { d.Size = -1 }, want: cache.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			adjust := tt.adjust
			if adjust == nil {
				adjust = func(*cache.Options) {}
			}
			s := newSite(t, adjust)
			d := layerOf(content)
			s.up.AddBlob("a", content)
			if tt.d != nil {
				tt.d(&d)
			}
			s.blobs.Fail = func(op string) error {
				if op == tt.op {
					return syscall.EIO
				}
				return nil
			}
			if _, err := s.Repository("a").FetchBlob(t.Context(), d, nil); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			s.blobs.Fail = nil
			if has, _, err := s.Repository("a").HasBlob(t.Context(), d.Digest); err != nil || has {
				t.Errorf("it is there: %v, %v", has, err)
			}
		})
	}
}

// What is stored and has another size than a manifest says is of no use to that.
func TestFetchBlobOfAnotherSize(t *testing.T) {
	s := newSite(t)
	content := randomBytes(kib)
	s.up.AddBlob("a", content)
	d := layerOf(content)
	s.fetch(t, "a", d, d.Size)
	d.Size++
	if _, err := s.Repository("a").FetchBlob(t.Context(), d, nil); !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestFetchBlobEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		feed := cachetest.NewFeed()
		s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
		content := randomBytes(100 * kib)
		s.up.AddBlob("a", content)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := s.Repository("a").FetchBlob(ctx, layerOf(content), nil)
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		must(t, feed.Send(content))
		feed.End(nil)
		synctest.Wait()
		s.fetch(t, "a", layerOf(content), 0)
		s.wantCalls(t, "blob", 1)
	})
}

func TestStoreManifest(t *testing.T) {
	good := func(s *site) cache.Manifest {
		_, _ = s.addImage("a", "1", "x")
		m, err := s.Repository("a").Peek(t.Context(), "1")
		must(t, err)
		return m.Manifest
	}
	for name, tt := range map[string]struct {
		adjust func(*cache.Options)
		change func(*cache.Manifest)
		op     string
		want   error
	}{
		"good":        {},
		"other bytes": {change: func(m *cache.Manifest) { m.Bytes = append(bytes.Clone(m.Bytes), ' ') }, want: cache.ErrInvalid},
		"no digest":   {change: func(m *cache.Manifest) { m.Digest = "" }, want: cache.ErrInvalid},
		"other type":  {change: func(m *cache.Manifest) { m.MediaType = v1.MediaTypeImageIndex }, want: cache.ErrInvalid},
		"no JSON": {change: func(m *cache.Manifest) {
			m.Bytes = []byte("x")
			m.Digest = digest.FromBytes(m.Bytes)
		}, want: cache.ErrInvalid},
		"no room": {adjust: func(o *cache.Options) { o.MaxSize = 10 }, want: cache.ErrNoSpace},
		"create":  {op: "create", want: cache.ErrNoSpace},
		"commit":  {op: "commit", want: cache.ErrNoSpace},
		"link":    {adjust: func(o *cache.Options) { o.Refs = &brokenRefs{o.Refs, cache.RefManifest} }, want: cache.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) {
				if tt.adjust != nil {
					tt.adjust(o)
				}
			})
			m := good(s)
			if tt.change != nil {
				tt.change(&m)
			}
			s.blobs.Fail = func(op string) error {
				if op == tt.op {
					return syscall.EIO
				}
				return nil
			}
			err := s.Repository("a").StoreManifest(t.Context(), m)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			s.blobs.Fail = nil
			has, err := s.Repository("a").HasManifest(t.Context(), m.Digest)
			must(t, err)
			if has != (tt.want == nil) {
				t.Errorf("it is there: %v", has)
			}
			if elsewhere, err := s.Repository("b").HasManifest(t.Context(), m.Digest); err != nil || elsewhere {
				t.Errorf("it is in another repository: %v, %v", elsewhere, err)
			}
		})
	}
}

func TestPointTag(t *testing.T) {
	s := newSite(t)
	r := s.Repository("a")
	dgst, _ := s.addImage("a", "1", "x")
	peeked, err := r.Peek(t.Context(), "1")
	must(t, err)
	if err := r.PointTag(t.Context(), "1", dgst); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("before the manifest is stored: %v", err)
	}
	must(t, r.StoreManifest(t.Context(), peeked.Manifest))
	must(t, r.PointTag(t.Context(), "1", dgst))
	calls := s.up.Calls("")
	got, err := r.CachedTag(t.Context(), "1")
	must(t, err)
	if got.Digest != dgst || !got.Confirmed.Equal(s.now) || got.Stale != nil {
		t.Errorf("it stands for %s, confirmed %v", got.Digest, got.Confirmed)
	}
	s.wantCalls(t, "", calls)
	s.loseIndex()
	s.reopen(t, noUpstream)
	if got, err := s.Repository("a").Tag(t.Context(), "1"); err != nil || got.Digest != dgst {
		t.Errorf("without an index it stands for %s, %v", got.Digest, err)
	}
	broken := newSite(t, func(o *cache.Options) { o.Refs = &brokenRefs{o.Refs, cache.RefTag} })
	must(t, broken.Repository("a").StoreManifest(t.Context(), peeked.Manifest))
	if err := broken.Repository("a").PointTag(t.Context(), "1", dgst); !errors.Is(err, cache.ErrNoSpace) {
		t.Errorf("where it cannot be written: %v", err)
	}
}

// What the remote has said later, to somebody else, is not replaced.
func TestPointTagIsInOrder(t *testing.T) {
	s := newSite(t)
	r := s.Repository("a")
	old, _ := s.addImage("a", "1", "old")
	peeked, err := r.Peek(t.Context(), "1")
	must(t, err)
	later, _ := s.addImage("a", "1", "new")
	_, err = r.Tag(t.Context(), "1")
	must(t, err)
	must(t, r.StoreManifest(t.Context(), peeked.Manifest))
	must(t, r.PointTag(t.Context(), "1", old))
	if got, err := r.CachedTag(t.Context(), "1"); err != nil || got.Digest != later {
		t.Errorf("it stands for %s, %v; want %s", got.Digest, err, later)
	}
	// Nobody has peeked at what a bundle brings.
	s.pass(time.Minute)
	_, err = r.Peek(t.Context(), "1")
	must(t, err)
	must(t, r.PointTag(t.Context(), "1", old))
	if got, err := r.CachedTag(t.Context(), "1"); err != nil || got.Digest != old {
		t.Errorf("it stands for %s, %v; want %s", got.Digest, err, old)
	}
}

// A pinned tag that moves keeps what it has stood for until the new one is complete.
func TestPointTagKeepsWhatIsPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Pins = []string{"a:1"} })
		s.push("a", "1", "old")
		s.pull(t, "a", "1")
		s.push("a", "1", "new")
		r := s.Repository("a")
		peeked, err := r.Peek(t.Context(), "1")
		must(t, err)
		must(t, r.StoreManifest(t.Context(), peeked.Manifest))
		must(t, r.PointTag(t.Context(), "1", peeked.Digest))
		s.rest()
		_, err = s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		if got := s.blobs.Len(); got != 4 {
			t.Errorf("%d are stored, want the old image and the new manifest", got)
		}
	})
}

// Clients are served before what is fetched ahead.
func TestFetchBlobWaitsForClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 1 })
		var order []string
		feeds := map[digest.Digest]*cachetest.Feed{}
		s.up.Body = func(dgst digest.Digest, _ []byte) io.ReadCloser {
			order = append(order, dgst.Encoded()[:6])
			return feeds[dgst]
		}
		var blobs [][]byte
		for i := range 3 {
			content := []byte(strings.Repeat(string(rune('a'+i)), 100*kib))
			blobs = append(blobs, content)
			feeds[s.up.AddBlob("a", content)] = cachetest.NewFeed()
		}
		finish := func(i int) {
			feed := feeds[digest.FromBytes(blobs[i])]
			must(t, feed.Send(blobs[i]))
			feed.End(nil)
			synctest.Wait()
		}
		b, err := s.Repository("a").OpenBlob(t.Context(), digest.FromBytes(blobs[0]))
		must(t, err)
		ahead, client := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.Repository("a").FetchBlob(t.Context(), layerOf(blobs[1]), nil)
			ahead <- err
		}()
		synctest.Wait()
		go func() {
			b, err := s.Repository("a").OpenBlob(t.Context(), digest.FromBytes(blobs[2]))
			if err == nil {
				_, err = io.Copy(io.Discard, b)
				err = errors.Join(err, b.Close())
			}
			client <- err
		}()
		synctest.Wait()
		finish(0)
		finish(2)
		must(t, <-client)
		finish(1)
		must(t, <-ahead)
		readAll(t, b)
		if want := digest.FromBytes(blobs[2]).Encoded()[:6]; len(order) != 3 || order[1] != want {
			t.Errorf("the order is %v, want %s in the middle", order, want)
		}
	})
}
