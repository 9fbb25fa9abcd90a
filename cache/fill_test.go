package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// fedSite is a site whose remote has one blob of size random bytes in repo, and
// sends what the test feeds.
func fedSite(t *testing.T, repo string, size int) (s *site, feed *cachetest.Feed, content []byte, dgst digest.Digest) {
	t.Helper()
	s, feed, content = newSite(t), cachetest.NewFeed(), randomBytes(size)
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	return s, feed, content, s.up.AddBlob(repo, content)
}

func TestReadersFollowOneFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, content, dgst := fedSite(t, "a", 200_000)

		const readers = 50
		half, whole := make(chan []byte, readers), make(chan []byte, readers)
		for range readers {
			go func() {
				b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
				if err != nil {
					t.Error(err)
				}
				p := make([]byte, 99_999)
				_, err = io.ReadFull(b, p)
				if err != nil {
					t.Error(err)
				}
				half <- p
				rest, err := io.ReadAll(b)
				if err != nil {
					t.Error(err)
				}
				whole <- append(p, rest...)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
		must(t, feed.Send(content[:100_000]))
		synctest.Wait()
		for range readers {
			if !bytes.Equal(<-half, content[:99_999]) {
				t.Fatal("the first half is wrong")
			}
		}
		must(t, feed.Send(content[100_000:]))
		synctest.Wait()
		if len(whole) != 0 {
			t.Fatal("a reader has ended before the remote has")
		}
		feed.End(nil)
		for range readers {
			if !bytes.Equal(<-whole, content) {
				t.Fatal("the whole is wrong")
			}
		}
		s.wantCalls(t, "", 1)
	})
}

// Where downloads are not tried again, readers hear at once why the remote has
// broken off.
func TestUpstreamBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, content, dgst := fedSite(t, "a", 200_000)
		s.reopen(t, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
		b := s.openBlob(t, "a", dgst)
		must(t, feed.Send(content[:100_000]))
		reset := errors.New("connection reset")
		feed.End(reset)
		got, err := io.ReadAll(b)
		if !errors.Is(err, reset) || !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable with its cause", err)
		}
		if len(got) != 100_000 {
			t.Errorf("%d bytes came before, want 100000", len(got))
		}
		s.wantCalls(t, "", 1)
		must(t, b.Close())
		s.up.Body = nil
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("second pull: other content")
		}
	})
}

func TestReaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, content, dgst := fedSite(t, "a", 200_000)
		ctx, leave := context.WithCancel(t.Context())
		b, err := s.Repository("a").OpenBlob(ctx, dgst)
		must(t, err)
		must(t, feed.Send(content[:60_000]))
		leave()
		if _, err := io.ReadAll(b); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		must(t, b.Close())
		must(t, feed.Send(content[60_000:]))
		feed.End(nil)
		synctest.Wait()
		s.up.Fail(cache.ErrUnavailable)
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		s.wantCalls(t, "", 1)
	})
}

func TestReaderComesDuringCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		refs := &slowRefs{Refs: s.refs, reached: make(chan struct{}, 1), open: make(chan struct{})}
		s.reopen(t, func(o *cache.Options) { o.Refs = refs })
		content := randomBytes(1000)
		dgst := s.up.AddBlob("a", content)
		readAll(t, s.openBlob(t, "a", dgst))
		<-refs.reached // it is committed, and not linked yet
		if n := s.blobs.Len(); n != 1 {
			t.Fatalf("%d blobs are stored", n)
		}
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		if d, err := s.Repository("a").StatBlob(t.Context(), dgst); err != nil || d.Size != 1000 {
			t.Errorf("HEAD: %+v, %v", d, err)
		}
		close(refs.open)
		synctest.Wait()
		readAll(t, s.openBlob(t, "a", dgst))
		s.wantCalls(t, "", 1)
	})
}

// slowRefs waits in Put until it is opened.
type slowRefs struct {
	cache.Refs
	reached, open chan struct{}
}

func (r *slowRefs) Put(ctx context.Context, ref cache.Ref, dgst digest.Digest) error {
	r.reached <- struct{}{}
	<-r.open
	return r.Refs.Put(ctx, ref, dgst)
}

func TestSeekInGrowingBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, content, dgst := fedSite(t, "a", 200_000)
		b := s.openBlob(t, "a", dgst)
		if end, err := b.Seek(0, io.SeekEnd); end != 200_000 || err != nil {
			t.Errorf("seek to the end: %d, %v", end, err)
		}
		_, err := b.Seek(120_000, io.SeekStart)
		must(t, err)
		got := make(chan []byte)
		go func() {
			var out bytes.Buffer
			if n, err := b.CopyN(&out, 20_000); n != 20_000 || err != nil {
				t.Errorf("copied %d, %v", n, err)
			}
			got <- out.Bytes()
		}()
		must(t, feed.Send(content[:130_000]))
		synctest.Wait()
		must(t, feed.Send(content[130_000:140_200]))
		if !bytes.Equal(<-got, content[120_000:140_000]) {
			t.Error("other bytes")
		}
		must(t, feed.Send(content[140_200:]))
		feed.End(nil)
		if n, err := b.CopyN(io.Discard, 200_000); n != 60_000 || err != io.EOF {
			t.Errorf("copying beyond the end: %d, %v", n, err)
		}
		if _, err := b.Seek(-1, io.SeekStart); err == nil {
			t.Error("seek before the start is accepted")
		}
		must(t, b.Close())
	})
}

func TestRepositoriesAreApartDuringFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, content, dgst := fedSite(t, "private", 100_000)
		s.up.AddBlob("fork", content)
		b := s.openBlob(t, "private", dgst)
		if _, err := s.Repository("public").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		fork := s.openBlob(t, "fork", dgst)
		must(t, feed.Send(content))
		feed.End(nil)
		readAll(t, b)
		readAll(t, fork)
		synctest.Wait()
		for _, repo := range []string{"private", "fork"} {
			b, err := s.Repository(repo).CachedBlob(t.Context(), dgst)
			must(t, err)
			must(t, b.Close())
		}
		if _, err := s.Repository("public").CachedBlob(t.Context(), dgst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
		s.wantCalls(t, "blob", 1)
		s.wantCalls(t, "stat", 2)
	})
}

func TestCloseEndsFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, feed, _, dgst := fedSite(t, "a", 100_000)
		b := s.openBlob(t, "a", dgst)
		closed := make(chan error, 1)
		go func() { closed <- s.Cache.Close() }()
		synctest.Wait()
		feed.End(errors.New("the transport ends with the context"))
		must(t, <-closed)
		if _, err := io.ReadAll(b); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("error %v, want ErrClosed", err)
		}
		must(t, b.Close())
		if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("after Close: error %v, want ErrClosed", err)
		}
	})
}
