package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// Remotes come and go. What was made before goes on with what it has, and what is stored
// of a remote stays for when it comes back.
func TestReconfigureRemotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up := newSite(t), &cachetest.Upstream{Name: "second.test"}
		addImageAt(s.up, "a", "v1", "first")
		addImageAt(s.up, "a", "v2", "another")
		addImageAt(up, "a", "v1", "second")
		first := s.Repository("a")
		_, err := first.Tag(t.Context(), "v1")
		must(t, err)
		name := s.called("a")

		s.reconfigure(t, second(up), func(o *cache.Options) { slices.Reverse(o.Remotes) })
		_, err = s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		if got, want := len(s.places(t)), 2; got != want {
			t.Errorf("%d places, want %d", got, want)
		}

		s.reconfigure(t, func(o *cache.Options) { o.Remotes = o.Remotes[:1] })
		if _, ok := s.Cache.Repository(first.Place()); ok {
			t.Error("the remote that is gone is served")
		}
		if places := s.places(t); len(places) != 1 || places[0].Host != "second.test" {
			t.Errorf("places %v", places)
		}
		for _, image := range []string{"v1", "v2"} {
			_, err = first.Tag(t.Context(), image)
			must(t, err)
			_, err = name.Tag(t.Context(), image)
			must(t, err)
		}
		if n := s.blobs.Len(); n != 3 {
			t.Errorf("%d manifests are stored, want 3", n)
		}

		s.reconfigure(t, func(o *cache.Options) {
			o.Remotes = []cache.Remote{{Host: s.up.Host(), Upstream: s.up, TagTTL: tagTTL}}
		})
		before := s.up.Calls("")
		_, err = s.Repository("a").CachedTag(t.Context(), "v2")
		must(t, err)
		s.wantCalls(t, "", before)
	})
}

// Each setting of a remote holds for who comes afterwards.
func TestReconfigureRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		addImageAt(s.up, "a", "v1", "x")
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		s.pass(time.Minute)
		old := s.Repository("a")
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].TagTTL = time.Second })
		_, err = old.Tag(t.Context(), "v1")
		must(t, err)
		s.wantCalls(t, "resolve", 0)
		_, err = s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		s.wantCalls(t, "resolve", 1)
		s.reconfigure(t, noUpstream)
		_, err = s.Repository("a").Fresh().Tag(t.Context(), "v1")
		must(t, err)
		s.wantCalls(t, "resolve", 1)
	})
}

// A download that has begun goes on, whatever becomes of its remote, and nobody who reads
// notices.
func TestFillGoesOnReconfigured(t *testing.T) {
	for name, change := range map[string]func(*cache.Options){
		"nothing":          func(*cache.Options) {},
		"settings":         func(o *cache.Options) { o.Remotes[0].Connections, o.Remotes[0].MaxConnections = 1, 1 },
		"another upstream": otherUpstream,
		"none to ask":      noUpstream,
		"gone":             replacedBySecond,
		"smaller":          func(o *cache.Options) { o.MaxSize = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, feed, content, dgst := fedSite(t, "a", 200_000)
				old := s.Repository("a")
				read := make(chan []byte, 2)
				follow := func(r *cache.Repository) {
					b, err := r.OpenBlob(t.Context(), dgst)
					if err != nil {
						t.Error(err)
						read <- nil
						return
					}
					got, err := io.ReadAll(b)
					if err = errors.Join(err, b.Close()); err != nil {
						t.Error(err)
					}
					read <- got
				}
				go follow(old)
				must(t, feed.Send(content[:100_000]))
				synctest.Wait()
				s.reconfigure(t, change)
				if r, ok := s.Cache.Repository(old.Place()); ok && name != "none to ask" {
					go follow(r)
				} else {
					go follow(old)
				}
				synctest.Wait()
				must(t, feed.Send(content[100_000:]))
				feed.End(nil)
				for range 2 {
					if !bytes.Equal(<-read, content) {
						t.Error("other content")
					}
				}
				synctest.Wait()
				s.wantCalls(t, "blob", 1)
				if b, err := old.CachedBlob(t.Context(), dgst); name != "smaller" {
					must(t, err)
					must(t, b.Close())
				}
			})
		})
	}
}

// What is missing of a download is asked of who can be asked now.
func TestFillMovesToTheOtherUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(3 * mib)
		dgst := s.up.AddBlob("a", content)
		other := new(cachetest.Upstream)
		other.AddBlob("a", content)
		feed := cachetest.NewFeed()
		s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
		got := make(chan []byte, 1)
		b := s.openBlob(t, "a", dgst)
		go func() {
			content, err := io.ReadAll(b)
			if err = errors.Join(err, b.Close()); err != nil {
				t.Error(err)
			}
			got <- content
		}()
		must(t, feed.Send(content[:mib]))
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].Upstream = other })
		s.up.Fail(status(cache.ErrDenied)) // it was allowed to before
		feed.End(io.ErrUnexpectedEOF)
		if !bytes.Equal(<-got, content) {
			t.Error("other content")
		}
		s.wantCalls(t, "blob", 1)
		if n, sent := other.Calls("blob"), other.Sent(); n != 1 || sent != 2*mib {
			t.Errorf("the other one was asked %d times, and has sent %d bytes", n, sent)
		}
	})
}

// denying denies everything, when answer is closed; asked is closed before.
type denying struct {
	cache.Upstream
	asked, answer chan struct{}
}

func (d *denying) deny() error {
	close(d.asked)
	<-d.answer
	return status(cache.ErrDenied)
}

func (d *denying) Manifest(context.Context, string, string) (cache.Manifest, error) {
	return cache.Manifest{}, d.deny()
}

func (d *denying) Blob(context.Context, string, digest.Digest, cache.BlobPart) (*cache.BlobStream, error) {
	return nil, d.deny()
}

// What one Upstream says not to exist, or denies, says nothing about the next one.
func TestOtherUpstreamIsAskedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		ask := func(r *cache.Repository, calls int) {
			t.Helper()
			before := s.up.Calls("manifest")
			if _, err := r.Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrNotFound) {
				t.Errorf("error %v, want ErrNotFound", err)
			}
			if n := s.up.Calls("manifest") - before; n != calls {
				t.Errorf("it was asked %d times, want %d", n, calls)
			}
		}
		old := s.Repository("a")
		ask(old, 1)
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].TagTTL = time.Hour })
		ask(s.Repository("a"), 0) // the remote is the same
		s.reconfigure(t, otherUpstream)
		ask(s.Repository("a"), 1)
		ask(s.Repository("a"), 0)
		ask(old, 0)

		// Nor does a request that is under way.
		asked, answer := make(chan struct{}), make(chan struct{})
		first := &denying{s.up, asked, answer}
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].Upstream = first })
		addImageAt(s.up, "b", "v1", "x")
		denied := make(chan error)
		go func() {
			_, err := s.Repository("b").Tag(t.Context(), "v1")
			denied <- err
		}()
		<-asked
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].Upstream = s.up })
		_, err := s.Repository("b").Tag(t.Context(), "v1")
		must(t, err)
		close(answer)
		if err := <-denied; !errors.Is(err, cache.ErrDenied) {
			t.Errorf("error %v, want ErrDenied", err)
		}
	})
}

// A client with the new credentials does not get the failure of a download that has begun
// with the old ones.
func TestFillFailsForTheOldUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(200_000)
		dgst := s.up.AddBlob("a", content)
		asked, answer := make(chan struct{}), make(chan struct{})
		s.reconfigure(t, func(o *cache.Options) {
			o.Remotes[0].Upstream = &denying{s.up, asked, answer}
		})
		old := make(chan error)
		go func() {
			_, err := s.Repository("a").OpenBlob(t.Context(), dgst)
			old <- err
		}()
		<-asked
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].Upstream = s.up })
		got := make(chan []byte)
		go func() { got <- readAll(t, s.openBlob(t, "a", dgst)) }()
		synctest.Wait()
		close(answer)
		if err := <-old; !errors.Is(err, cache.ErrDenied) {
			t.Errorf("error %v, want ErrDenied", err)
		}
		if !bytes.Equal(<-got, content) {
			t.Error("other content")
		}
	})
}

// The connections of a host are counted together, and their limit is that of now.
func TestReconfigureConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 1 })
		feeds := make(map[digest.Digest]*cachetest.Feed)
		var order []digest.Digest
		contents := make(map[digest.Digest][]byte)
		for range 3 {
			content := randomBytes(200_000)
			dgst := s.up.AddBlob("a", content)
			order, feeds[dgst], contents[dgst] = append(order, dgst), cachetest.NewFeed(), content
		}
		s.up.Body = func(dgst digest.Digest, _ []byte) io.ReadCloser { return feeds[dgst] }
		read := make(chan bool, len(order))
		pull := func(dgst digest.Digest) {
			r := s.Repository("a")
			go func() {
				b, err := r.OpenBlob(t.Context(), dgst)
				if err != nil {
					t.Error(err)
					return
				}
				read <- bytes.Equal(readAll(t, b), contents[dgst])
			}()
			synctest.Wait()
		}
		pull(order[0])
		s.reconfigure(t, otherUpstream)
		pull(order[1])
		s.wantCalls(t, "blob", 1)
		s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 2 })
		synctest.Wait()
		s.wantCalls(t, "blob", 2)
		// Gone and back, and what runs still counts.
		remotes := s.opts.Remotes
		s.reconfigure(t, replacedBySecond)
		s.reconfigure(t, func(o *cache.Options) { o.Remotes = remotes })
		pull(order[2])
		s.wantCalls(t, "blob", 2)
		for i, dgst := range order {
			must(t, feeds[dgst].Send(contents[dgst]))
			feeds[dgst].End(nil)
			if !<-read {
				t.Errorf("blob %d has other content", i)
			}
			synctest.Wait()
		}
		s.wantCalls(t, "blob", 3)
	})
}

// When names go to another remote, nothing more of the one before is stored under them.
func TestReconfigureNaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, up := newSite(t), &cachetest.Upstream{Name: "second.test"}
		addImageAt(s.up, "second.test/a", "v1", "x")
		content := randomBytes(200_000)
		dgst := s.up.AddBlob("second.test/a", content)
		feed := cachetest.NewFeed()
		s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
		old := s.Repository("second.test/a")
		b, err := old.OpenBlob(t.Context(), dgst)
		must(t, err)
		got := make(chan []byte)
		go func() { got <- readAll(t, b) }()
		must(t, feed.Send(content[:100_000]))

		s.reconfigure(t, second(up))
		theirs, _ := s.Cache.Repository(cache.Place{Host: "second.test", Repo: "a"})
		if _, err := theirs.OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("another remote's blob: error %v, want ErrNotFound", err)
		}
		must(t, feed.Send(content[100_000:]))
		feed.End(nil)
		if !bytes.Equal(<-got, content) {
			t.Error("other content")
		}
		_, err = old.Tag(t.Context(), "v1")
		must(t, err)
		synctest.Wait()
		if _, err := theirs.CachedBlob(t.Context(), dgst); err == nil {
			t.Error("another remote has the blob")
		}
		if places := s.places(t); len(places) != 0 {
			t.Errorf("something is stored of %v", places)
		}
		// Under its new name it is.
		s.up.Body = nil
		if !bytes.Equal(readAll(t, s.openBlob(t, "second.test/a", dgst)), content) {
			t.Error("other content")
		}
		_, err = s.Repository("second.test/a").Tag(t.Context(), "v1")
		must(t, err)
		synctest.Wait()
		if places := s.places(t); len(places) != 1 || places[0].Host != s.up.Host() {
			t.Errorf("something is stored of %v", places)
		}
		s.wantCalls(t, "blob", 1)
	})
}

// What a mirror has got by AddRemote stays while it is one.
func TestReconfigureMirror(t *testing.T) {
	s := newSite(t, noUpstream)
	must(t, s.AddRemote(cache.Remote{Host: "second.test", Naming: cache.Naming{Prefix: "second.test/"}}))
	serves := func(want bool) {
		t.Helper()
		if _, ok := s.Cache.Repository(cache.Place{Host: "second.test", Repo: "a"}); ok != want {
			t.Errorf("the added remote is served: %v, want %v", ok, want)
		}
	}
	s.reconfigure(t, limited(3))
	s.reconfigure(t, limited(4))
	serves(true)
	// Beside it, the bare names are as they were.
	if key := s.Repository("second.test/a").Key(); key != "@upstream.test/second.test/a" {
		t.Errorf("stored as %s", key)
	}
	if err := s.tryReconfigure(func(o *cache.Options) {
		o.Remotes = append(o.Remotes, cache.Remote{Host: "third.test", Naming: cache.Naming{Prefix: "second.test/"}})
	}); err == nil {
		t.Error("two remotes are stored under the same names")
	}
	s.reconfigure(t, func(o *cache.Options) { o.Remotes[0].Upstream = s.up })
	serves(false)
	s.reconfigure(t, noUpstream)
	serves(false)
}
