package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/internal/via"
)

// at is a repository of a site's remote.
func (s *site) at(t *testing.T, host, repo string) *cache.Repository {
	t.Helper()
	r, ok := s.Cache.Repository(cache.Place{Host: host, Repo: repo})
	if !ok {
		t.Fatalf("there is no remote %s", host)
	}
	return r
}

func feedOf(feed *cachetest.Feed) func(digest.Digest, []byte) io.ReadCloser {
	return func(digest.Digest, []byte) io.ReadCloser { return feed }
}

func pull(t *testing.T, r *cache.Repository, dgst digest.Digest) ([]byte, error) {
	t.Helper()
	b, err := r.OpenBlob(t.Context(), dgst)
	if err != nil {
		return nil, err
	}
	return readAll(t, b), nil
}

// A blob of two remotes is downloaded once and stored once, and served as the
// second one's after that has said that it serves it.
func TestBlobOfTwoRemotes(t *testing.T) {
	for _, running := range []bool{false, true} { // while it is downloaded, or when it is stored
		synctest.Test(t, func(t *testing.T) {
			s, second := newPair(t)
			content := bytes.Repeat([]byte("shared by two"), 20<<10)
			dgst := s.up.AddBlob("a", content)
			second.AddBlob("b", content)
			feed := cachetest.NewFeed()
			s.up.Body = feedOf(feed)
			first := make(chan []byte, 1)
			go func() {
				got, err := pull(t, s.at(t, "upstream.test", "a"), dgst)
				if err != nil {
					t.Error(err)
				}
				first <- got
			}()
			must(t, feed.Send(content[:100<<10]))
			end := func() {
				must(t, feed.Send(content[100<<10:]))
				feed.End(nil)
				if got := <-first; !bytes.Equal(got, content) {
					t.Errorf("%d bytes, want %d", len(got), len(content))
				}
				synctest.Wait()
			}
			if !running {
				end()
			}

			second.Fail(status(cache.ErrUnavailable))
			if got, err := pull(t, s.at(t, "second.test", "b"), dgst); !errors.Is(err, cache.ErrUnavailable) {
				t.Errorf("with the second remote away: %d bytes, %v", len(got), err)
			}
			second.Fail(nil)
			before := second.Calls("stat")
			got := make(chan []byte, 1)
			go func() {
				content, err := pull(t, s.at(t, "second.test", "b"), dgst)
				if err != nil {
					t.Error(err)
				}
				got <- content
			}()
			synctest.Wait()
			if running {
				end()
			}
			if got := <-got; !bytes.Equal(got, content) {
				t.Errorf("%d bytes, want %d", len(got), len(content))
			}
			synctest.Wait()
			if stat, blob := second.Calls("stat")-before, second.Calls("blob"); stat != 1 || blob != 0 {
				t.Errorf("the second remote was asked %d times, and for its content %d times", stat, blob)
			}
			s.wantCalls(t, "blob", 1)
			if n := s.blobs.Len(); n != 1 {
				t.Errorf("%d blobs are stored, want one", n)
			}
			s.up.Fail(status(cache.ErrUnavailable))
			second.Fail(status(cache.ErrUnavailable))
			for host, repo := range map[string]string{"upstream.test": "a", "second.test": "b"} {
				if got, err := pull(t, s.at(t, host, repo), dgst); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s, with both away: %d bytes, %v", host, len(got), err)
				}
			}
			if _, err := pull(t, s.at(t, "upstream.test", "b"), dgst); !errors.Is(err, cache.ErrUnavailable) {
				t.Errorf("the repository of the same name at the other remote: %v", err)
			}
		})
	}
}

// That one remote cannot give a blob is not told to who asked another one.
func TestBlobOfAnotherRemoteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		content := []byte("shared by two")
		dgst := s.up.AddBlob("a", content)
		second.AddBlob("b", content)
		answer := make(chan struct{})
		s.up.Answer = func(int, cache.BlobPart, *cache.BlobStream) error {
			<-answer
			return status(cache.ErrUnavailable)
		}
		first := make(chan error, 1)
		go func() {
			_, err := pull(t, s.at(t, "upstream.test", "a"), dgst)
			first <- err
		}()
		synctest.Wait()
		got := make(chan []byte, 1)
		go func() {
			content, err := pull(t, s.at(t, "second.test", "b"), dgst)
			if err != nil {
				t.Error(err)
			}
			got <- content
		}()
		synctest.Wait()
		close(answer)
		if err := <-first; !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		if got := <-got; !bytes.Equal(got, content) {
			t.Errorf("got %q", got)
		}
	})
}

// Some caches say of what they have not fetched yet that it does not exist, but only
// if they are asked by HEAD.
func TestVouchingWithoutHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		dgst := addImageAt(second, "a", "v1", "second") // names its configuration
		blob := s.up.AddBlob("b", []byte("config of second"))
		_, err := pull(t, s.at(t, "upstream.test", "b"), blob)
		must(t, err)
		synctest.Wait()
		second.FailOp("stat", status(cache.ErrNotFound))
		if _, err := pull(t, s.at(t, "second.test", "a"), blob); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("which no manifest names: %v", err)
		}
		_, err = s.at(t, "second.test", "a").Manifest(t.Context(), dgst)
		must(t, err)
		if got, err := pull(t, s.at(t, "second.test", "a"), blob); err != nil || string(got) != "config of second" {
			t.Errorf("which a manifest names: %q, %v", got, err)
		}
		if sent := second.Sent(); sent > 1 {
			t.Errorf("the second remote has sent %d bytes", sent)
		}
		second.FailOp("blob", status(cache.ErrNotFound))
		gone := second.AddBlob("a", []byte("gone"))
		if _, err := pull(t, s.at(t, "second.test", "a"), gone); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("which does not exist: %v", err)
		}
	})
}

// breaksOff has a blob of both remotes be read from each, and the first break off after
// 1 MiB and be away then. What is read comes by got.
func (s *site) breaksOff(t *testing.T, second *cachetest.Upstream) (content []byte, got <-chan []byte) {
	t.Helper()
	content = bytes.Repeat([]byte("shared by two"), 200<<10)
	dgst := s.up.AddBlob("a", content)
	second.AddBlob("b", content)
	feed := cachetest.NewFeed()
	s.up.Body = feedOf(feed)
	all := make(chan []byte, 2)
	read := func(host, repo string) {
		content, err := pull(t, s.at(t, host, repo), dgst)
		if err != nil {
			t.Error(err)
		}
		all <- content
	}
	go read("upstream.test", "a")
	must(t, feed.Send(content[:1<<20]))
	go read("second.test", "b")
	synctest.Wait()
	s.up.Fail(status(cache.ErrUnavailable))
	feed.End(status(cache.ErrUnavailable))
	return content, all
}

// A download goes on at the other remote that serves the blob, when the first one
// breaks off.
func TestBlobGoesOnAtAnotherRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		content, got := s.breaksOff(t, second)
		for range 2 {
			if got := <-got; !bytes.Equal(got, content) {
				t.Errorf("%d bytes, want %d", len(got), len(content))
			}
		}
		if got, want := second.Sent(), int64(len(content)-1<<20); got != want {
			t.Errorf("the second remote has sent %d bytes, want %d", got, want)
		}
	})
}

// The other remote cannot end a download that would go on at the first.
func TestBlobComesBackFromAnotherRemote(t *testing.T) {
	for name, answer := range map[string]func(s *cache.BlobStream) error{
		"away":      func(*cache.BlobStream) error { return status(cache.ErrUnavailable) },
		"loop":      func(*cache.BlobStream) error { return status(cache.ErrLoop) },
		"not there": func(*cache.BlobStream) error { return status(cache.ErrNotFound) },
		"other blob": func(s *cache.BlobStream) error {
			s.Size, s.Body = 7, io.NopCloser(strings.NewReader("another"))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, second := newPair(t, func(o *cache.Options) { o.Remotes[0].RetryFor, o.Remotes[1].RetryFor = time.Hour, -1 })
				second.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error { return answer(s) }
				content, got := s.breaksOff(t, second)
				time.Sleep(10 * time.Minute)
				s.up.Body = nil
				s.up.Fail(nil)
				for range 2 {
					if got := <-got; !bytes.Equal(got, content) {
						t.Errorf("%d bytes, want %d", len(got), len(content))
					}
				}
				if n := second.Calls("blob"); n > 1 {
					t.Errorf("the second remote was asked %d times", n)
				}
			})
		})
	}
}

// How long it takes does not tell either, while others are served.
func TestQueueIsNoOracle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 1 })
		secret := second.AddBlob("private", []byte("a secret of the second"))
		_, err := pull(t, s.at(t, "second.test", "private"), secret)
		must(t, err)
		feed := cachetest.NewFeed()
		s.up.Body = feedOf(feed)
		busy := s.up.AddBlob("a", bytes.Repeat([]byte("busy"), 1<<20))
		b, err := s.at(t, "upstream.test", "a").OpenBlob(t.Context(), busy)
		must(t, err)
		defer func() { _ = b.Close() }() // it was not read
		synctest.Wait()
		for _, dgst := range []digest.Digest{secret, digest.FromString("of which nobody has heard")} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			start := time.Now()
			_, err := s.at(t, "upstream.test", "a").OpenBlob(ctx, dgst)
			cancel()
			if took := time.Since(start); took != time.Minute || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("answered after %v: %v", took, err)
			}
		}
		feed.End(status(cache.ErrNotFound))
	})
}

// What is stored for somebody else is answered like what is stored for nobody: by
// the remote, after as many requests.
func TestStoredBlobsAreNoOracle(t *testing.T) {
	for name, fail := range map[string]error{
		"there is none":        nil,
		"denied":               status(cache.ErrDenied),
		"away":                 status(cache.ErrUnavailable),
		"5xx":                  &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "x", Op: "asking", Status: 500},
		"limited, for a while": &cache.UpstreamError{Kind: cache.ErrRateLimited, Remote: "x", Op: "asking", Status: 429, RetryAfter: time.Second},
	} {
		for _, op := range []string{"GET", "HEAD"} {
			t.Run(name+" "+op, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, second := newPair(t)
					secret := second.AddBlob("private", []byte("a secret of the second"))
					_, err := pull(t, s.at(t, "second.test", "private"), secret)
					must(t, err)
					synctest.Wait()
					s.up.Fail(fail)
					second.Fail(fail)
					ask := func(host string, up *cachetest.Upstream, dgst digest.Digest) (requests int, took time.Duration, text string) {
						before, start := up.Calls(""), time.Now()
						var err error
						if op == "GET" {
							_, err = pull(t, s.at(t, host, "a"), dgst)
						} else {
							_, err = s.at(t, host, "a").StatBlob(t.Context(), dgst)
						}
						if err == nil {
							t.Fatalf("%s %s: no error", host, dgst)
						}
						// The jitter of a retry is no difference.
						return up.Calls("") - before, time.Since(start).Round(time.Second), strings.ReplaceAll(err.Error(), dgst.String(), "X")
					}
					unknown := digest.FromString("of which nobody has heard")
					for host, up := range map[string]*cachetest.Upstream{"upstream.test": s.up, "second.test": second} {
						n, took, text := ask(host, up, secret)
						wantN, wantTook, wantText := ask(host, up, unknown)
						if n == 0 || n != wantN || took-wantTook > time.Second || wantTook-took > time.Second || text != wantText {
							t.Errorf("%s: %d requests, %v, %q; for what is not stored %d, %v, %q", host, n, took, text, wantN, wantTook, wantText)
						}
					}
				})
			})
		}
	}
}

// Unfinished downloads of each remote go on at theirs.
func TestResumeOfTwoRemotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t, func(o *cache.Options) {
			o.Remotes[0].RetryFor, o.Remotes[1].RetryFor = -1, -1
		})
		content := map[*cachetest.Upstream][]byte{
			s.up:   bytes.Repeat([]byte("first"), 200<<10),
			second: bytes.Repeat([]byte("second"), 200<<10),
		}
		half := int64(512 << 10)
		digests := map[*cachetest.Upstream]digest.Digest{}
		for up, c := range content {
			feed := cachetest.NewFeed()
			up.Body = feedOf(feed)
			digests[up] = up.AddBlob("a", c)
			b, err := s.at(t, up.Host(), "a").OpenBlob(t.Context(), digests[up])
			must(t, err)
			must(t, feed.Send(c[:half]))
			feed.End(status(cache.ErrUnavailable))
			synctest.Wait()
			must(t, b.Close())
			up.Body = nil
		}
		s.reopen(t, func(o *cache.Options) { o.Resume = true })
		synctest.Wait()
		for up, c := range content {
			if got := up.Sent(); got != int64(len(c)) {
				t.Errorf("%s has sent %d bytes, want %d", up.Host(), got, len(c))
			}
			up.Fail(status(cache.ErrUnavailable))
			if got, err := pull(t, s.at(t, up.Host(), "a"), digests[up]); err != nil || !bytes.Equal(got, c) {
				t.Errorf("%s: %d bytes, %v", up.Host(), len(got), err)
			}
		}
	})
}

// Resuming waits for no other remote, and knows its own repositories.
func TestResumeWithoutTheOther(t *testing.T) {
	for _, repo := range []string{"a", "zeta"} { // of which one comes before the other remote's in a list
		synctest.Test(t, func(t *testing.T) {
			s, second := newPair(t, func(o *cache.Options) { o.Remotes[0].RetryFor, o.Remotes[1].RetryFor = -1, -1 })
			content := bytes.Repeat([]byte("first"), 200<<10)
			feed := cachetest.NewFeed()
			s.up.Body = feedOf(feed)
			dgst := s.up.AddBlob(repo, content)
			second.AddBlob("b", content)
			first, err := s.at(t, "upstream.test", repo).OpenBlob(t.Context(), dgst)
			must(t, err)
			must(t, feed.Send(content[:512<<10]))
			other, err := s.at(t, "second.test", "b").OpenBlob(t.Context(), dgst)
			must(t, err)
			feed.End(status(cache.ErrUnavailable))
			synctest.Wait()
			must(t, errors.Join(first.Close(), other.Close()))

			stuck := cachetest.NewFeed()
			second.Body = feedOf(stuck)
			lost := second.AddBlob("c", content[1:])
			b, err := s.at(t, "second.test", "c").OpenBlob(t.Context(), lost)
			must(t, err)
			must(t, stuck.Send(content[1:512<<10]))
			stuck.End(status(cache.ErrUnavailable))
			synctest.Wait()
			must(t, b.Close())

			s.up.Body = nil
			second.Fail(status(cache.ErrUnavailable))
			before := s.up.Sent()
			s.reopen(t, func(o *cache.Options) { o.Resume = true })
			time.Sleep(time.Minute)
			if got, want := s.up.Sent()-before, int64(len(content)-512<<10); got != want {
				t.Errorf("%s: the first remote has sent %d bytes, want %d", repo, got, want)
			}
		})
	}
}

// A remote that is busy, or does not answer, holds up nobody else.
func TestRemotesDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 1 })
		want := addImageAt(second, "a", "v1", "second")
		blob := digest.FromString("config of second")
		stuck := cachetest.NewFeed()
		s.up.Body = feedOf(stuck)
		for i := range 100 {
			dgst := s.up.AddBlob("a", fmt.Appendf(nil, "stuck %d", i))
			go func() { _, _ = s.at(t, "upstream.test", "a").OpenBlob(t.Context(), dgst) }()
		}
		synctest.Wait()
		m, err := s.at(t, "second.test", "a").Tag(t.Context(), "v1")
		if err != nil || m.Digest != want {
			t.Errorf("manifest %s, %v", m.Digest, err)
		}
		_, err = pull(t, s.at(t, "second.test", "a"), blob)
		must(t, err)
		stuck.End(status(cache.ErrNotFound))
	})
}

// What is asked of a remote on behalf of a request says what that has passed.
func TestChainIsCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		want := []string{"below", "further-below"}
		asked := map[string]int{}
		s.up.Asked = func(ctx context.Context, op string) {
			asked[op]++
			if got := via.From(ctx); !slices.Equal(got, want) {
				t.Errorf("%s: chain %q, want %q", op, got, want)
			}
		}
		layer := s.up.AddBlob("a", bytes.Repeat([]byte("layer"), 100<<10))
		s.addImage("a", "v1", "text")
		ctx := via.With(t.Context(), want)
		r := s.Repository("a")
		for range 2 {
			m, err := r.Tag(ctx, "v1")
			must(t, err)
			_, err = r.Manifest(ctx, m.Digest)
			must(t, err)
			_, err = r.Tags(ctx, -1, "")
			must(t, err)
			_, err = r.StatBlob(ctx, layer)
			must(t, err)
			b, err := r.OpenBlob(ctx, layer)
			must(t, err)
			readAll(t, b)
			synctest.Wait()
			s.pass(time.Hour)
		}
		for _, op := range []string{"manifest", "resolve", "tags", "stat", "blob"} {
			if asked[op] == 0 {
				t.Errorf("%s was not asked for", op)
			}
		}
	})
}
