package cache_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/extents"
)

// stopAfter makes the remote give n bytes of each blob and then nothing until the
// request ends, and hold all further requests.
func (s *site) stopAfter(n int64) {
	s.up.Answer = func(_ int, part cache.BlobPart, st *cache.BlobStream) error {
		rest := max(n-part.Offset, 0)
		st.Body = &silent{io.LimitReader(st.Body, rest)}
		return nil
	}
}

// silent is a body that gives nothing after its end, until it is given up.
type silent struct{ io.Reader }

func (s *silent) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		time.Sleep(30 * time.Second) // the stall limit of package upstream
		err = errReset
	}
	return n, err
}

func (s *silent) Close() error { return nil }

// interrupted returns a site that was closed when it had part of a blob of
// repository a, which is not open any more.
func interrupted(t *testing.T, size, part int, adjust ...func(*cache.Options)) (s *site, content []byte, dgst digest.Digest) {
	t.Helper()
	s, content, dgst = bigSite(t, size, adjust...)
	s.stopAfter(int64(part))
	b := s.openBlob(t, "a", dgst)
	p := make([]byte, part)
	if _, err := io.ReadFull(b, p); err != nil || !bytes.Equal(p, content[:part]) {
		t.Fatalf("reading the first %d bytes: %v", part, err)
	}
	s.close(t, s.Cache)
	if _, err := b.Read(p); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("after the cache was closed: error %v, want ErrClosed", err)
	}
	must(t, b.Close())
	s.up.Answer = nil
	return s, content, dgst
}

// After a restart the next request goes on from what is there.
func TestDownloadGoesOnAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, mib)
		s.open(t)
		s.wantPull(t, dgst, content)
		s.wantSent(t, len(content))
		s.wantStored(t, dgst, content)
	})
}

// What stands for the remote's copy is sent with each request for a part, after a
// restart, too, and stays where an answer does not repeat it.
func TestValidatorIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, 5*mib)
		s.up.Answer = func(n int, _ cache.BlobPart, st *cache.BlobStream) error {
			switch n {
			case 1:
				st.Validator = "host etag"
				cutAfter(st, mib)
			case 3:
				cutAfter(st, mib)
			case 2:
				st.Body = &silent{io.LimitReader(st.Body, mib)}
			}
			return nil
		}
		b := s.openBlob(t, "a", dgst)
		if _, err := io.ReadFull(b, make([]byte, 2*mib)); err != nil {
			t.Fatal(err)
		}
		s.reopen(t)
		must(t, b.Close())
		s.wantPull(t, dgst, content)
		s.wantSent(t, len(content))
		for i, part := range s.up.Parts() {
			if want := map[bool]string{true: "host etag"}[i > 0]; part.Validator != want {
				t.Errorf("request %d is for %+v, want the validator %q", i+1, part, want)
			}
		}
		if n := len(s.up.Parts()); n != 4 {
			t.Errorf("%d requests, want 4", n)
		}
	})
}

// The same with a large blob, of which there are several spans.
func TestManyStreamsGoOnAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, 40*mib)
		s.up.Answer = func(_ int, _ cache.BlobPart, st *cache.BlobStream) error {
			st.Body = &silent{io.LimitReader(st.Body, 3*mib+1)}
			return nil
		}
		b := s.openBlob(t, "a", dgst)
		synctest.Wait()
		s.close(t, s.Cache)
		must(t, b.Close())
		if sent := s.up.Sent(); sent < 12*mib {
			t.Errorf("only %d bytes came before", sent)
		}
		s.up.Answer = nil
		s.open(t)
		s.wantPull(t, dgst, content)
		s.wantSent(t, len(content))
		s.wantStored(t, dgst, content)
	})
}

// Another repository does not get what is kept of a blob before the remote has
// vouched for it, and that the remote has no such blob there costs no byte here.
func TestKeptBytesArePrivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, 2*mib)
		s.open(t)
		if _, err := s.Repository("b").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		synctest.Wait()
		s.wantPull(t, dgst, content)
		s.wantSent(t, len(content))
	})
}

// All bytes were there, and the process ended before it stored them: no byte is
// asked for again. In a repository that the remote has not vouched for, it is
// asked whether it serves the blob there.
func TestCompleteButNotStored(t *testing.T) {
	for repo, stats := range map[string]int{"a": 0, "b": 1, "absent": 1} {
		synctest.Test(t, func(t *testing.T) {
			s, content, dgst := interrupted(t, 3*mib, 3*mib-1)
			s.stopAfter(3 * mib)
			s.up.AddBlob("b", content)
			p, err := s.opts.Partials.Resume(t.Context(), dgst)
			must(t, err)
			_, err = p.WriteAt(content[3*mib-1:], 3*mib-1)
			must(t, err)
			must(t, p.Keep(p.Note()))
			_, err = p.Suspend()
			must(t, err)
			s.open(t)
			blobs := s.up.Calls("blob")
			b, err := s.Repository(repo).OpenBlob(t.Context(), dgst)
			if repo == "absent" {
				if !errors.Is(err, cache.ErrNotFound) {
					t.Errorf("error %v, want ErrNotFound", err)
				}
			} else {
				must(t, err)
				if got := readAll(t, b); !bytes.Equal(got, content) {
					t.Error("other content")
				}
			}
			if n := s.up.Calls("blob"); n != blobs {
				t.Errorf("the blob was asked for %d times more", n-blobs)
			}
			s.wantCalls(t, "stat", stats)
			synctest.Wait()
			if n, want := s.leftovers(t), map[string]int{"absent": 1}[repo]; n != want {
				t.Errorf("%d unfinished downloads are kept, want %d", n, want)
			}
		})
	}
}

// What has rotted while nobody worked on it makes the blob wrong: the client gets
// an error, nothing is kept, and the next pull starts anew.
func TestKeptBytesAreWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, mib)
		p, err := s.partials.Resume(t.Context(), dgst)
		must(t, err)
		note := p.Note()
		must(t, p.Discard())
		p, err = s.partials.Resume(t.Context(), dgst)
		must(t, err)
		must(t, p.Keep(note))
		rotten := bytes.Clone(content[:mib])
		rotten[1000]++
		_, err = p.WriteAt(rotten, 0)
		must(t, err)
		_, err = p.Suspend()
		must(t, err)
		s.open(t)
		// The reader may be there when that is found out, or come later.
		b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
		if err == nil {
			_, err = io.ReadAll(b)
			must(t, b.Close())
		}
		if !errors.Is(err, cache.ErrInvalid) {
			t.Errorf("error %v, want ErrInvalid", err)
		}
		s.wantPull(t, dgst, content)
		s.wantStored(t, dgst, content)
	})
}

// A remote that has another blob of that digest by now, or a login page, does not
// make us forget what is there.
func TestRemoteChangesWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, mib)
		s.open(t)
		s.up.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error {
			*s = cache.BlobStream{Body: io.NopCloser(bytes.NewReader([]byte("<html>"))), Length: 6, Size: 6}
			return nil
		}
		if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrInvalid) {
			t.Errorf("error %v, want ErrInvalid", err)
		}
		s.up.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error {
			*s = cache.BlobStream{Body: io.NopCloser(bytes.NewReader([]byte("<html>"))), Length: -1, Size: -1}
			return nil
		}
		b := s.openBlob(t, "a", dgst)
		if _, err := io.ReadAll(b); !errors.Is(err, cache.ErrInvalid) {
			t.Errorf("error %v, want ErrInvalid", err)
		}
		must(t, b.Close())
		s.up.Answer = func(int, cache.BlobPart, *cache.BlobStream) error { return away() }
		if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		s.up.Answer = nil
		s.wantPull(t, dgst, content)
		if sent, most := s.up.Sent(), int64(len(content)+10*len("<html>")); sent > most {
			t.Errorf("the remote has sent %d bytes, want at most %d", sent, most)
		}
		s.wantStored(t, dgst, content)
	})
}

// A remote that gives no part that can be used, because it has another copy by now
// or because it cannot, is asked for the whole: what is kept must not stand in the
// way of the blob for as long as it is kept.
func TestUnusableParts(t *testing.T) {
	refuse := func(_ int, part cache.BlobPart, _ *cache.BlobStream) error {
		if part != (cache.BlobPart{}) {
			return noPart()
		}
		return nil
	}
	t.Run("the rest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, content, dgst := interrupted(t, 3*mib, mib)
			s.open(t)
			s.up.Answer = refuse
			s.wantPull(t, dgst, content)
			s.wantStored(t, dgst, content)
		})
	})
	t.Run("a chunk", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, content, dgst := bigSite(t, 40*mib)
			s.up.Answer = refuse
			s.wantPull(t, dgst, content)
			s.wantSent(t, len(content))
			s.wantStored(t, dgst, content)
		})
	})
}

// Of a download of unknown length is known where it ends when the remote has said
// so, and not when something in between was fetched, or comes from somebody else.
func TestKeptBytesOfUnknownLength(t *testing.T) {
	const size = 3 * mib
	for name, tt := range map[string]struct {
		named  bool // a manifest has told the size in the meantime
		held   []extents.Span
		answer func(n int, part cache.BlobPart, s *cache.BlobStream) error
		want   error // of the first pull
		sent   int
	}{
		"a gap":             {held: []extents.Span{{Start: 0, End: mib}, {Start: 2 * mib, End: 2*mib + cache.PartSize}}, sent: size - mib - cache.PartSize},
		"complete, as told": {named: true, held: []extents.Span{{Start: 0, End: size}}},
		"more than told":    {named: true, held: []extents.Span{{Start: 0, End: size + 1}}, sent: size},
		"a login page": {held: []extents.Span{{Start: 0, End: mib}}, sent: size - mib,
			answer: func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
				if n == 1 {
					*s = cache.BlobStream{Body: io.NopCloser(bytes.NewReader([]byte("<html>"))), Length: 6, Size: 6}
				}
				return nil
			}, want: cache.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				var content []byte
				var dgst digest.Digest
				if tt.named {
					s, content, dgst = bigSite(t, size)
				} else {
					content = randomBytes(size)
					dgst = s.up.AddBlob("a", content)
				}
				s.up.HideSize, s.up.Answer = true, tt.answer
				p, err := s.partials.Resume(t.Context(), dgst)
				must(t, err)
				must(t, p.Keep([]byte(`{"size":-1,"remote":"upstream.test","repositories":["a"]}`)))
				for _, span := range tt.held {
					_, err = p.WriteAt(append(bytes.Clone(content), 0)[span.Start:span.End], span.Start)
					must(t, err)
				}
				_, err = p.Suspend()
				must(t, err)
				s.reopen(t)
				if tt.want != nil {
					if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, tt.want) {
						t.Errorf("error %v, want %v", err, tt.want)
					}
				}
				if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Error("other content")
				}
				s.wantSent(t, tt.sent)
				s.wantStored(t, dgst, content)
			})
		})
	}
}

// A remote that gives parts of a blob of another size than before has another blob,
// or had: one of them has the digest, and what is kept does not keep the other from
// being pulled.
func TestSizeHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		content := randomBytes(3 * mib)
		dgst := s.up.AddBlob("a", content)
		p, err := s.partials.Resume(t.Context(), dgst)
		must(t, err)
		must(t, p.Keep([]byte(`{"size":4000000,"remote":"upstream.test","repositories":["a"]}`)))
		_, err = p.WriteAt(make([]byte, mib), 0)
		must(t, err)
		_, err = p.Suspend()
		must(t, err)
		s.reopen(t)
		s.wantPull(t, dgst, content)
		s.wantStored(t, dgst, content)
	})
}

// To try in vain does not make what is kept younger.
func TestKeptBytesAgeInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interruptedNow(t, 3*mib, mib)
		s.open(t)
		s.up.Fail(away())
		time.Sleep(23 * time.Hour)
		if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		time.Sleep(3 * time.Hour)
		if n := s.leftovers(t); n != 0 {
			t.Errorf("%d unfinished downloads, want none", n)
		}
		s.up.Fail(nil)
		s.wantPull(t, dgst, content)
	})
}

// Many that ask for many blobs do not make more downloads begin than can have files
// and room.
func TestFillsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 200 })
		s.stopAfter(1000)
		const blobs = 150
		for range blobs {
			dgst := s.up.AddBlob("a", randomBytes(200_000))
			go func() {
				if b, err := s.Repository("a").OpenBlob(t.Context(), dgst); err == nil {
					_ = b.Close() // it has begun
				}
			}()
		}
		synctest.Wait()
		if n := s.blobs.Drafts(); n != 64 {
			t.Errorf("%d downloads have begun, want 64", n)
		}
	})
}

// Where it is asked for, the cache goes on by itself, and waits for the remote.
func TestResumeByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, mib, func(o *cache.Options) { o.Resume = true })
		tries := 0
		s.up.Answer = func(int, cache.BlobPart, *cache.BlobStream) error {
			if tries++; tries < 4 {
				return away()
			}
			return nil
		}
		s.open(t)
		time.Sleep(time.Minute)
		s.up.Fail(cache.ErrUnavailable)
		s.wantPull(t, dgst, content)
		s.wantSent(t, len(content))
		s.wantStored(t, dgst, content)
	})
}

// interruptedNow is interrupted on the clock of the bubble, with unfinished
// downloads that expire after a day.
func interruptedNow(t *testing.T, size, part int) (s *site, content []byte, dgst digest.Digest) {
	t.Helper()
	s, content, dgst = interrupted(t, size, part, func(o *cache.Options) { o.PartialTTL, o.Now = 24*time.Hour, time.Now })
	left, err := s.partials.Resume(t.Context(), dgst)
	must(t, err)
	s.partials.Now = time.Now // that of s stands still
	must(t, left.Keep(left.Note()))
	_, err = left.Suspend()
	must(t, err)
	return s, content, dgst
}

// What nobody goes on with expires.
func TestKeptBytesExpire(t *testing.T) {
	for name, running := range map[string]bool{"at start": false, "while running": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := interruptedNow(t, 3*mib, mib)
				if running {
					s.open(t)
				}
				time.Sleep(26 * time.Hour)
				if !running {
					s.open(t)
				}
				s.wantPull(t, dgst, content)
				s.wantSent(t, len(content)+mib)
			})
		})
	}
}

// What is kept counts, and makes room where it is needed.
func TestKeptBytesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 4 * mib
		s, _, dgst := interrupted(t, 3*mib, 2*mib, func(o *cache.Options) { o.MaxSize = limit })
		s.open(t)
		small, large := s.up.AddBlob("a", randomBytes(mib)), s.up.AddBlob("a", randomBytes(2*mib))
		before := s.up.Sent()
		readAll(t, s.openBlob(t, "a", small)) // fits beside it
		synctest.Wait()
		if n := s.leftovers(t); n != 1 {
			t.Errorf("%d unfinished downloads, want 1", n)
		}
		s.pass(25 * time.Hour)
		readAll(t, s.openBlob(t, "a", large)) // needs its room
		synctest.Wait()
		if n := s.leftovers(t); n != 0 {
			t.Errorf("%d unfinished downloads, want none", n)
		}
		for _, stored := range []digest.Digest{small, large} {
			b, err := s.Repository("a").CachedBlob(t.Context(), stored)
			must(t, err)
			defer func() { must(t, b.Close()) }() // it is in use and not removed
		}
		if sent := s.up.Sent() - before; sent != 3*mib {
			t.Errorf("%d bytes were sent", sent)
		}
		// 1 MiB is left of the limit, and that is not enough.
		b := s.openBlob(t, "a", dgst)
		if !b.Passing() {
			t.Error("there is room for more than the limit")
		}
		must(t, b.Close())
	})
}

// What would have no room without them either costs no unfinished download.
func TestKeptBytesAreNotDroppedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := interrupted(t, 3*mib, 2*mib, func(o *cache.Options) { o.MaxSize = 4 * mib })
		s.open(t)
		large := randomBytes(5 * mib)
		b := s.openBlob(t, "a", s.up.AddBlob("a", large))
		if got := readAll(t, b); !bytes.Equal(got, large) {
			t.Error("other content")
		}
		synctest.Wait()
		if n := s.leftovers(t); n != 1 {
			t.Errorf("%d unfinished downloads, want 1", n)
		}
		before := s.up.Sent()
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		if sent := s.up.Sent() - before; sent != mib {
			t.Errorf("%d bytes were sent, want what was missing", sent)
		}
	})
}

func (s *site) leftovers(t *testing.T) (n int) {
	t.Helper()
	for _, err := range s.opts.Partials.All(t.Context()) {
		must(t, err)
		n++
	}
	return n
}

// Prefetching brings what an image consists of, once, and clients find it there.
func TestPrefetch(t *testing.T) {
	for _, on := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(o *cache.Options) { o.Prefetch = on })
			config, layer := randomBytes(1000), randomBytes(mib)
			m := s.up.AddManifest("a", "v1", "application/vnd.oci.image.manifest.v1+json",
				image(len(layer), s.up.AddBlob("a", config), s.up.AddBlob("a", layer)))
			r := s.Repository("a")
			_, err := r.Tag(t.Context(), "v1")
			must(t, err)
			synctest.Wait()
			s.wantCalls(t, "blob", 0)
			got, err := r.CachedManifest(t.Context(), m)
			must(t, err)
			for range 3 {
				r.Prefetch(got)
			}
			synctest.Wait()
			if !on {
				s.wantCalls(t, "blob", 0)
				return
			}
			s.wantCalls(t, "blob", 2)
			s.up.Fail(cache.ErrUnavailable)
			for _, content := range [][]byte{config, layer} {
				if got := readAll(t, s.openBlob(t, "a", digest.FromBytes(content))); !bytes.Equal(got, content) {
					t.Error("other content")
				}
			}
			s.wantSent(t, len(config)+len(layer))
		})
	}
}

// A prefetch that has failed is tried again with the next pull, and one that is
// under way ends with the cache.
func TestPrefetchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Prefetch = true })
		layer := randomBytes(mib)
		m := s.up.AddManifest("a", "v1", "application/vnd.oci.image.manifest.v1+json",
			image(len(layer), digest.FromString("absent"), s.up.AddBlob("a", layer)))
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		got, err := r.CachedManifest(t.Context(), m)
		must(t, err)
		r.Prefetch(got)
		synctest.Wait()
		s.wantCalls(t, "blob", 2)
		r.Prefetch(got)
		synctest.Wait()
		s.wantCalls(t, "blob", 3) // the one that is absent
	})
}

// A client that asks for a blob which is to be fetched ahead does not wait for its
// turn among those.
func TestPrefetchedBlobIsHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Prefetch, o.Remotes[0].MaxConnections = true, 2 })
		layers := [][]byte{randomBytes(2 * mib), randomBytes(2 * mib)}
		m := s.up.AddManifest("a", "v1", "application/vnd.oci.image.manifest.v1+json",
			image(2*mib, s.up.AddBlob("a", layers[0]), s.up.AddBlob("a", layers[1])))
		r := s.Repository("a")
		_, err := r.Tag(t.Context(), "v1")
		must(t, err)
		s.up.Answer = func(_ int, _ cache.BlobPart, st *cache.BlobStream) error {
			st.Body = slow{st.Body}
			return nil
		}
		got, err := r.CachedManifest(t.Context(), m)
		must(t, err)
		r.Prefetch(got)
		synctest.Wait()
		s.wantCalls(t, "blob", 1) // half of the connections
		start := time.Now()
		readers := []*cache.Reader{s.openBlob(t, "a", digest.FromBytes(layers[0])), s.openBlob(t, "a", digest.FromBytes(layers[1]))}
		for i, b := range readers {
			if got := readAll(t, b); !bytes.Equal(got, layers[i]) {
				t.Error("other content")
			}
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		s.wantCalls(t, "blob", 2)
	})
}

// A limit that has become smaller holds, with an unfinished download that alone is larger.
func TestKeptBytesOverSmallerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := interrupted(t, 3*mib, 2*mib)
		s.opts.MaxSize = mib
		s.open(t)
		synctest.Wait()
		if n := s.leftovers(t); n != 0 {
			t.Errorf("%d unfinished downloads, want none", n)
		}
	})
}

// Content and an unfinished download make room together, where neither is enough.
func TestKeptBytesMakeRoomWithContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := interrupted(t, 3*mib, 2*mib, func(o *cache.Options) { o.MaxSize = 4 * mib })
		s.open(t)
		readAll(t, s.openBlob(t, "a", s.up.AddBlob("a", randomBytes(3*mib/2))))
		synctest.Wait()
		s.pass(time.Minute)
		large := s.up.AddBlob("a", randomBytes(3*mib))
		readAll(t, s.openBlob(t, "a", large))
		synctest.Wait()
		b, err := s.Repository("a").CachedBlob(t.Context(), large)
		if err != nil {
			t.Fatalf("it is not stored: %v", err)
		}
		must(t, b.Close())
	})
}
