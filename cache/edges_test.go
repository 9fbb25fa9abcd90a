package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// hooked is a remote whose requests a test can hold up.
type hooked struct {
	cache.Upstream
	blob, manifest, stat func(ctx context.Context, repo string)
}

func (h *hooked) Away() (error, bool) {
	if a, ok := h.Upstream.(cache.Availability); ok {
		return a.Away()
	}
	return nil, false
}

func (h *hooked) Why() error {
	why, _ := h.Away()
	return why
}

func (h *hooked) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	if h.blob != nil {
		h.blob(ctx, repo)
	}
	return h.Upstream.Blob(ctx, repo, dgst, part)
}

func (h *hooked) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	if h.manifest != nil {
		h.manifest(ctx, repo)
	}
	if ctx.Err() != nil {
		return cache.Manifest{}, cache.ErrUnavailable
	}
	return h.Upstream.Manifest(ctx, repo, ref)
}

func (h *hooked) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	if h.stat != nil {
		h.stat(ctx, repo)
	}
	return h.Upstream.StatBlob(ctx, repo, dgst)
}

// hook makes h the remote.
func hook(h *hooked) func(*cache.Options) {
	return func(o *cache.Options) { h.Upstream, o.Remotes[0].Upstream = o.Remotes[0].Upstream, h }
}

// A fill that was started by the name of a repository that does not have the
// blob says nothing to those who ask by the name of one that does.
func TestJoinerIsNotToldOfTheStartersRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := newSite(t, hook(&hooked{blob: func(_ context.Context, repo string) {
			if repo == "wrong" {
				<-gate
			}
		}}))
		content := randomBytes(100_000)
		dgst := s.up.AddBlob("right", content)
		wrong, right := make(chan error, 1), make(chan []byte, 1)
		go func() {
			_, err := s.Repository("wrong").OpenBlob(t.Context(), dgst)
			wrong <- err
		}()
		synctest.Wait()
		go func() { right <- readAll(t, s.openBlob(t, "right", dgst)) }()
		synctest.Wait()
		close(gate)
		if err := <-wrong; !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("starter: error %v, want ErrNotFound", err)
		}
		if !bytes.Equal(<-right, content) {
			t.Error("joiner: other content")
		}
	})
}

// Fifty who ask for a blob that is stored for another repository cause one HEAD.
func TestVouchingCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, hook(&hooked{stat: func(context.Context, string) { <-time.After(time.Second) }}))
		content := randomBytes(100)
		dgst := s.up.AddBlob("a", content)
		s.up.AddBlob("fork", content)
		readAll(t, s.openBlob(t, "a", dgst))
		synctest.Wait()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { readAll(t, s.openBlob(t, "fork", dgst)) })
		}
		wg.Wait()
		s.wantCalls(t, "stat", 1)
		s.wantCalls(t, "blob", 1)
	})
}

// dripping is a body that comes a thousand bytes at a time.
type dripping struct{ io.Reader }

func (d dripping) Read(p []byte) (int, error) {
	<-time.After(time.Millisecond)
	return d.Reader.Read(p[:min(len(p), 1000)])
}
func (dripping) Close() error { return nil }

// A blob of unknown length that has no room is passed through, also when that
// turns out in the middle of it.
func TestNoSpaceForUnknownLength(t *testing.T) {
	for size, kept := range map[int]bool{100: true, 3000: false, 300_000: false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.MaxSize = 2000 })
			s.up.HideSize = true
			s.up.Body = func(_ digest.Digest, p []byte) io.ReadCloser { return dripping{bytes.NewReader(p)} }
			content := randomBytes(size)
			dgst := s.up.AddBlob("a", content)
			for range 2 {
				if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Errorf("size %d: other content", size)
				}
				synctest.Wait()
			}
			if stored := s.blobs.Len() == 1; stored != kept {
				t.Errorf("size %d: stored is %v", size, stored)
			}
		})
	}
}

// What goes wrong with a blob that only passes through is explained, too.
func TestErrorsOfPassingBlob(t *testing.T) {
	reset := errors.New("connection reset")
	for want, end := range map[error]io.Reader{
		cache.ErrInvalid:     bytes.NewReader(make([]byte, 50)),
		cache.ErrUnavailable: iotest.ErrReader(reset),
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.MaxSize = 1 })
			s.up.Body = func(_ digest.Digest, p []byte) io.ReadCloser {
				return io.NopCloser(io.MultiReader(bytes.NewReader(p[:max(len(p)-50, 0)]), end))
			}
			b := s.openBlob(t, "a", s.up.AddBlob("a", randomBytes(100)))
			got, err := io.ReadAll(b)
			if !b.Passing() || !errors.Is(err, want) || len(got) > 99 {
				t.Errorf("%d bytes, then %v, want %v", len(got), err, want)
			}
			must(t, b.Close())
		})
	}
}

// What a manifest says has no room is not asked for twice.
func TestNoSpaceCostsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.MaxSize = 1000 })
		layer := s.up.AddBlob("a", randomBytes(100_000))
		s.up.AddManifest("a", "v1", v1.MediaTypeImageManifest, image(100_000, digest.FromString("c"), layer))
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, s.openBlob(t, "a", layer))
		s.wantCalls(t, "blob", 1)
	})
}

// The limit holds whatever the index has lost, and content counts once.
func TestAccountOfSpace(t *testing.T) {
	t.Run("entries lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.MaxSize = 1500 })
			first, second := s.up.AddBlob("a", randomBytes(1000)), s.up.AddBlob("a", randomBytes(1001))
			readAll(t, s.openBlob(t, "a", first))
			synctest.Wait()
			s.loseIndex()
			must(t, s.index.Apply(t.Context(), cache.Change{Key: []byte("z\x00complete"), Value: []byte("{}")}))
			s.reopen(t, func(o *cache.Options) { o.Index = s.index })
			read := s.openBlob(t, "a", first)
			b := s.openBlob(t, "a", second)
			if !b.Passing() {
				t.Error("2001 bytes are kept, the limit is 1500")
			}
			readAll(t, b)
			must(t, read.Close())
		})
	})
	t.Run("file lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.MaxSize = 2500 })
			first, second := s.up.AddBlob("a", randomBytes(1000)), s.up.AddBlob("a", randomBytes(1001))
			for range 3 {
				must(t, s.blobs.Remove(t.Context(), first))
				readAll(t, s.openBlob(t, "a", first))
				synctest.Wait()
			}
			b := s.openBlob(t, "a", second)
			if b.Passing() {
				t.Error("1000 of 2500 bytes are used, and 1001 do not fit")
			}
			readAll(t, b)
		})
	})
}

// Links and entries of the index that cannot be written withhold nothing.
func TestFailingWritesWithholdNothing(t *testing.T) {
	broken := errors.New("read-only file system")
	t.Run("link", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			content := randomBytes(100)
			dgst := s.up.AddBlob("a", content)
			s.up.AddBlob("fork", content)
			readAll(t, s.openBlob(t, "a", dgst))
			synctest.Wait()
			s.reopen(t, func(o *cache.Options) { o.Refs = failingRefs{s.refs, broken} })
			if got := readAll(t, s.openBlob(t, "fork", dgst)); !bytes.Equal(got, content) {
				t.Error("GET: other content")
			}
			if _, err := s.Repository("fork").StatBlob(t.Context(), dgst); err != nil {
				t.Errorf("HEAD: %v", err)
			}
		})
	})
	t.Run("index", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			content := randomBytes(100)
			dgst := s.up.AddBlob("a", content)
			failing := &failingIndex{Index: s.index}
			s.reopen(t, func(o *cache.Options) { o.Index = failing })
			failing.err = broken
			for range 2 {
				if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Error("other content")
				}
				synctest.Wait()
			}
			s.wantCalls(t, "", 1)
			failing.err = nil
		})
	})
}

type failingRefs struct {
	cache.Refs
	err error
}

func (r failingRefs) Put(context.Context, cache.Ref, digest.Digest) error { return r.err }

type failingIndex struct {
	cache.Index
	err error
}

func (x *failingIndex) Apply(ctx context.Context, changes ...cache.Change) error {
	if x.err != nil {
		return x.err
	}
	return x.Index.Apply(ctx, changes...)
}

// Content that was found on disk is compared with its digest when it is first
// read. What is damaged is never whole for a client, and is fetched again.
func TestFoundContentIsVerified(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			content := randomBytes(size)
			dgst := s.up.AddBlob("a", content)
			readAll(t, s.openBlob(t, "a", dgst))
			synctest.Wait()
			s.loseIndex()
			s.reopen(t)

			b := s.openBlob(t, "a", dgst) // as it was
			if got := readAll(t, b); !bytes.Equal(got, content) {
				t.Error("other content")
			}
			b = s.openBlob(t, "a", dgst)
			if b.Passing() {
				t.Error("it is verified more than once")
			}
			readAll(t, b)
			s.wantCalls(t, "", 1)

			s.loseIndex()
			s.blobs.Rot(dgst)
			s.reopen(t)
			b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
			must(t, err)
			got, err := io.ReadAll(b)
			must(t, b.Close())
			if err == nil && !bytes.Equal(got, content) {
				t.Error("damaged content is whole for a client")
			}
			synctest.Wait()
			if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
				t.Error("after the damage: other content")
			}
			s.wantCalls(t, "blob", 2)
		})
	}
}

// Damaged content that cannot be removed is passed by: the blob comes from the
// remote, and the remote is not asked for ever.
func TestDamagedContentCannotBeRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(100)
		dgst := s.up.AddBlob("a", content)
		readAll(t, s.openBlob(t, "a", dgst))
		synctest.Wait()
		s.loseIndex()
		s.blobs.Rot(dgst)
		s.reopen(t, func(o *cache.Options) { o.Blobs = unremovable{s.blobs} })
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		s.wantCalls(t, "blob", 2)
	})
}

type unremovable struct{ cache.Blobs }

func (unremovable) Remove(context.Context, digest.Digest) error {
	return errors.New("read-only file system")
}

// What was found under one repository is not taken for verified under another
// because the remote vouches for its digest.
func TestFoundContentIsVerifiedInEachRepository(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			content := randomBytes(size)
			dgst := s.up.AddBlob("a", content)
			s.up.AddBlob("fork", content)
			readAll(t, s.openBlob(t, "a", dgst))
			synctest.Wait()
			s.loseIndex()
			s.blobs.Rot(dgst)
			s.reopen(t)
			b, err := s.Repository("fork").OpenBlob(t.Context(), dgst)
			must(t, err)
			got, err := io.ReadAll(b)
			must(t, b.Close())
			if err == nil && !bytes.Equal(got, content) {
				t.Errorf("size %d: damaged content is whole for a client", size)
			}
		})
	}
}

// Two readers that find the same damage give its space back once.
func TestDamageIsAccountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		damaged, kept := s.up.AddBlob("a", randomBytes(100_000)), s.up.AddBlob("a", randomBytes(100_001))
		for _, dgst := range []digest.Digest{damaged, kept} {
			readAll(t, s.openBlob(t, "a", dgst))
			synctest.Wait()
		}
		s.loseIndex()
		s.blobs.Rot(damaged)
		s.reopen(t, func(o *cache.Options) { o.MaxSize = 250_000 })
		readers := []*cache.Reader{s.openBlob(t, "a", damaged), s.openBlob(t, "a", damaged)}
		for _, b := range readers {
			readAll(t, b)
		}
		synctest.Wait()
		// 200,001 of 250,000 bytes are used, and cannot be removed.
		read, again := s.openBlob(t, "a", kept), s.openBlob(t, "a", damaged)
		b := s.openBlob(t, "a", s.up.AddBlob("a", randomBytes(150_000)))
		if !b.Passing() {
			t.Error("the space of the damaged blob was given back twice")
		}
		readAll(t, b)
		must(t, read.Close())
		must(t, again.Close())
	})
}

// Close waits for what still writes to the stores.
func TestCloseWaitsForFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		refs := &slowRefs{Refs: s.refs, reached: make(chan struct{}, 2), open: make(chan struct{})}
		s.reopen(t, func(o *cache.Options) { o.Refs = refs })
		s.addImage("a", "v1", "first")
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			_, _ = s.Repository("a").Tag(t.Context(), "v1") // that it ends is enough
		}()
		<-refs.reached
		closed := make(chan error, 1)
		go func() { closed <- s.Cache.Close() }()
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("closed while a link is written")
		}
		close(refs.open)
		must(t, <-closed)
		<-asked
		if _, err := s.Repository("a").Tag(t.Context(), "v2"); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("after Close: error %v, want ErrClosed", err)
		}
	})
}

// Over a thin link a moved tag arrives later than a client waits. It arrives all
// the same, and nobody waits meanwhile.
func TestTagOverThinLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		s := newSite(t, hook(&hooked{manifest: func(ctx context.Context, _ string) {
			if slow {
				select {
				case <-time.After(6 * time.Second):
				case <-ctx.Done():
				}
			}
		}}))
		old, _ := s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		moved, _ := s.addImage("a", "v1", "moved")
		slow = true
		s.pass(tagTTL)
		for i, patience := range []time.Duration{1500 * time.Millisecond, 0} {
			if i > 0 {
				s.up.SetAway(cache.ErrUnavailable, false)
			}
			start := time.Now()
			m, err := s.Repository("a").Tag(t.Context(), "v1")
			must(t, err)
			if took := time.Since(start); m.Digest != old || took != patience {
				t.Errorf("request %d: %s after %v, want the old one after %v", i, m.Digest, took, patience)
			}
		}
		<-time.After(5 * time.Second)
		m, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		if m.Digest != moved {
			t.Errorf("the tag is still what it was")
		}
	})
}

// A failure to confirm a tag says nothing about other tags, and is forgotten when the
// clock jumps.
func TestFailureIsOfOneTag(t *testing.T) {
	s := newSite(t)
	ask := func(repo string) digest.Digest {
		t.Helper()
		m, err := s.Repository(repo).Tag(t.Context(), "v1")
		must(t, err)
		return m.Digest
	}
	for _, repo := range []string{"denied", "good"} {
		s.addImage(repo, "v1", "first")
		ask(repo)
	}
	s.pass(tagTTL)
	s.up.Fail(cache.ErrDenied)
	ask("denied")
	s.up.Fail(nil)
	moved, _ := s.addImage("good", "v1", "moved")
	if ask("good") != moved {
		t.Error("a denied repository keeps the tags of another one stale")
	}
	again, _ := s.addImage("good", "v1", "again")
	s.pass(tagTTL)
	s.up.Fail(cache.ErrInvalid)
	ask("good")
	s.up.Fail(nil)
	s.pass(-365 * 24 * time.Hour)
	if ask("good") != again {
		t.Error("after the clock was set back, the remote is not asked")
	}
}

// The remote serves the children of an index as manifests, and layers with URLs
// perhaps not at all: their HEAD is the remote's to answer.
func TestStatBlobOfWhatIsNoBlob(t *testing.T) {
	s := newSite(t)
	child, _ := s.addImage("a", "", "first")
	s.up.AddManifest("a", "index", v1.MediaTypeImageIndex,
		[]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+v1.MediaTypeImageManifest+`","digest":"`+child.String()+`","size":5}]}`))
	foreign := digest.FromString("foreign")
	s.up.AddManifest("a", "windows", v1.MediaTypeImageManifest,
		[]byte(`{"schemaVersion":2,"config":{},"layers":[{"digest":"`+foreign.String()+`","size":5,"urls":["https://layers.test/x"]}]}`))
	for tag, dgst := range map[string]digest.Digest{"index": child, "windows": foreign} {
		m, err := s.Repository("a").Tag(t.Context(), tag)
		must(t, err)
		if _, err := s.Repository("a").StatBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: error %v, want ErrNotFound", tag, err)
		}
		if refs := m.References(); tag == "index" && (len(refs) != 1 || refs[0].Digest != child) {
			t.Errorf("references of the index: %v", refs)
		}
	}
}

func TestTagListOfHangingRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.addImage("a", "v1", "first")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		s.up.Fail(cache.ErrUnavailable)
		for range 3 {
			list, err := s.Repository("a").Tags(t.Context(), -1, "")
			tags, more := list.Tags, list.More
			if err != nil || more || len(tags) != 1 {
				t.Errorf("%q, %v, %v", tags, more, err)
			}
			if list.Stale == nil {
				t.Error("the list passes for the remote's")
			}
			s.up.SetAway(cache.ErrUnavailable, false)
		}
		s.wantCalls(t, "tags", 1)
	})
}
