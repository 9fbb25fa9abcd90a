package cache_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

func randomBytes(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p) // never fails
	return p
}

func readAll(t *testing.T, b *cache.Reader) []byte {
	t.Helper()
	p, err := io.ReadAll(b)
	must(t, err)
	must(t, b.Close())
	return p
}

func (s *site) openBlob(t *testing.T, repo string, dgst digest.Digest) *cache.Reader {
	t.Helper()
	b, err := s.Repository(repo).OpenBlob(t.Context(), dgst)
	must(t, err)
	return b
}

func TestBlobIsFetchedOnce(t *testing.T) {
	for _, size := range []int{0, 1, 2, 100, 256 << 10, 1<<20 + 7} {
		for _, hidden := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.up.HideSize = hidden
				content := randomBytes(size)
				dgst := s.up.AddBlob("a/b", content)
				for range 3 {
					if got := readAll(t, s.openBlob(t, "a/b", dgst)); !bytes.Equal(got, content) {
						t.Fatalf("size %d, hidden %v: %d bytes came", size, hidden, len(got))
					}
					synctest.Wait() // the fill has stored it
				}
				s.wantCalls(t, "", 1)
				b, err := s.Repository("a/b").CachedBlob(t.Context(), dgst)
				must(t, err)
				if b.Size() != int64(size) {
					t.Errorf("stored size %d, want %d", b.Size(), size)
				}
				must(t, b.Close())
				s.reopen(t, noUpstream)
				if got := readAll(t, s.openBlob(t, "a/b", dgst)); !bytes.Equal(got, content) {
					t.Error("after a restart without remote: other content")
				}
			})
		}
	}
}

// Fifty readers of a blob that is being downloaded cause one download, and get
// what is there at once, up to the byte that is held back.
// What does not match is never whole for anybody, and never stored.
func TestWrongContent(t *testing.T) {
	content := randomBytes(300 << 10)
	for name, body := range map[string]func() []byte{
		"another last byte":  func() []byte { p := bytes.Clone(content); p[len(p)-1]++; return p },
		"another first byte": func() []byte { p := bytes.Clone(content); p[0]++; return p },
		"one byte more":      func() []byte { return append([]byte{0}, content...) },
	} {
		for _, hidden := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t)
					s.up.HideSize = hidden
					s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(body())) }
					dgst := s.up.AddBlob("a", content)
					b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
					if err == nil {
						var got []byte
						got, err = io.ReadAll(b)
						if len(got) >= len(body()) {
							t.Errorf("%d of %d wrong bytes came out", len(got), len(body()))
						}
						must(t, b.Close())
					}
					if !errors.Is(err, cache.ErrInvalid) {
						t.Errorf("error %v, want ErrInvalid", err)
					}
					synctest.Wait()
					if n := s.blobs.Len(); n != 0 {
						t.Errorf("%d blobs are stored", n)
					}
					if n := s.blobs.Drafts(); n != 0 {
						t.Errorf("%d drafts are left", n)
					}
					s.up.Body = nil // healed
					if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
						t.Error("after the remote was healed: other content")
					}
				})
			})
		}
	}
}

// An empty answer has no byte that could be held back, and a small one is there
// in one go: who asks gets an error before anything else.
func TestSmallWrongContentIsAnError(t *testing.T) {
	for _, adjust := range []func(*cache.Options){func(*cache.Options) {}, func(o *cache.Options) { o.MaxSize = 1 }} {
		for _, body := range []string{"", "x"} {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, adjust)
				dgst := s.up.AddBlob("a", []byte("right"))
				s.up.Replace("a", dgst, []byte(body))
				if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrInvalid) && (body == "" || s.opts.MaxSize == 0) {
					t.Errorf("body %q: error %v, want ErrInvalid", body, err)
				}
			})
		}
	}
}

// The remote breaks off: readers get its reason, and the next pull starts again.
// A fill belongs to the cache: it goes on when all readers have left.
// Between the commit of a blob and its link, a request is neither a download nor
// a HEAD more.
// A blob that is stored for one repository costs another a HEAD, and nothing if
// the remote does not serve it there.
func TestRepositoriesAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(100)
		dgst := s.up.AddBlob("private", content)
		readAll(t, s.openBlob(t, "private", dgst))
		synctest.Wait()

		if _, err := s.Repository("public").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("in another repository: error %v, want ErrNotFound", err)
		}
		if _, err := s.Repository("public").StatBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("HEAD in another repository: error %v, want ErrNotFound", err)
		}
		s.up.AddBlob("fork", content)
		before := s.up.Calls("stat")
		if _, err := s.Repository("fork").StatBlob(t.Context(), dgst); err != nil {
			t.Error(err)
		}
		for range 2 {
			if got := readAll(t, s.openBlob(t, "fork", dgst)); !bytes.Equal(got, content) {
				t.Error("other content")
			}
		}
		s.wantCalls(t, "stat", before+1)
		s.wantCalls(t, "blob", 1)
		s.up.Fail(cache.ErrUnavailable)
		if _, err := s.Repository("public").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("in another repository, remote away: error %v, want ErrUnavailable", err)
		}
	})
}

// The same, while the blob is being downloaded.
func TestNoSpace(t *testing.T) {
	content := randomBytes(1000)
	for name, adjust := range map[string]func(*cache.Options){
		"limit":   func(o *cache.Options) { o.MaxSize = 999 },
		"reserve": func(o *cache.Options) { o.MinFree = func(total int64) int64 { return total - 999 } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, adjust)
				dgst := s.up.AddBlob("a", content)
				for range 2 {
					b := s.openBlob(t, "a", dgst)
					if !b.Passing() {
						t.Error("the blob does not only pass through")
					}
					if got := readAll(t, b); !bytes.Equal(got, content) {
						t.Error("other content")
					}
				}
				if n := s.blobs.Len(); n != 0 {
					t.Errorf("%d blobs are stored", n)
				}
				small := s.up.AddBlob("a", content[:999])
				readAll(t, s.openBlob(t, "a", small))
				synctest.Wait()
				if n := s.blobs.Len(); n != 1 {
					t.Errorf("%d blobs are stored, want the one that fits", n)
				}
			})
		})
	}
}

// Reservations of fills that run at the same time add up, and are given back.
func TestReservationsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.MaxSize = 150_000 })
		feed := cachetest.NewFeed()
		first, second := randomBytes(100_000), randomBytes(100_000)
		a, b := s.up.AddBlob("a", first), s.up.AddBlob("a", second)
		s.up.Body = func(dgst digest.Digest, content []byte) io.ReadCloser {
			if dgst == a {
				return feed
			}
			return io.NopCloser(bytes.NewReader(content))
		}
		one := s.openBlob(t, "a", a)
		if two := s.openBlob(t, "a", b); !two.Passing() {
			t.Error("the second fill fits beside the reservation of the first")
		} else {
			readAll(t, two)
		}
		feed.End(errors.New("reset"))
		if _, err := io.ReadAll(one); err == nil {
			t.Error("no error of the broken fill")
		}
		must(t, one.Close())
		synctest.Wait()
		two := s.openBlob(t, "a", b)
		if two.Passing() {
			t.Error("the reservation of the failed fill was not given back")
		}
		readAll(t, two)
	})
}

// A storage that fails costs the client nothing that it has already got.
func TestStorageFails(t *testing.T) {
	content := randomBytes(600 << 10)
	for _, op := range []string{"create", "write", "open draft", "commit"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				broken := errors.New("input/output error")
				s.blobs.Fail = func(o string) error {
					if o == op {
						return broken
					}
					return nil
				}
				dgst := s.up.AddBlob("a", content)
				b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
				if err == nil {
					var got []byte
					got, err = io.ReadAll(b)
					if err == nil && !bytes.Equal(got, content) {
						t.Error("other content with a good end")
					}
					must(t, b.Close())
				}
				if (op == "commit" || op == "open draft") && err != nil {
					t.Errorf("error %v, want the pull to go on", err)
				}
				synctest.Wait()
				if s.blobs.Drafts() != 0 {
					t.Error("a draft is left")
				}
				s.blobs.Fail = nil
				if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Error("after the storage was healed: other content")
				}
			})
		})
	}
}

func TestOpenBlobEndsWithContext(t *testing.T) {
	s := newSite(t)
	dgst := s.up.AddBlob("a", randomBytes(100))
	ctx := canceled(t)
	b, err := s.Repository("a").OpenBlob(ctx, dgst)
	if err == nil { // the fill was faster
		_, err = io.ReadAll(b)
		must(t, b.Close())
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
