package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

const mib = 1 << 20

var errReset = errors.New("connection reset")

// cutAfter makes an answer break off after n bytes.
func cutAfter(s *cache.BlobStream, n int64) {
	s.Body = io.NopCloser(io.MultiReader(io.LimitReader(s.Body, n), breaking{}))
}

// breaking is a connection that breaks when everybody has got what came before:
// otherwise a download may be over before its reader is there.
type breaking struct{}

func (breaking) Read([]byte) (int, error) {
	time.Sleep(time.Millisecond)
	return 0, errReset
}

// away is the error of a remote that cannot be reached.
func away() error {
	return &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching", Err: errReset}
}

// noPart is an answer to a request for a part.
func noPart() error {
	return &cache.UpstreamError{Kind: cache.ErrInvalid, Remote: "upstream.test", Op: "fetching", Status: 416, Err: cache.ErrNoPart}
}

// refusal is an answer with a status.
func refusal(kind error, status int, retryAfter time.Duration) error {
	return &cache.UpstreamError{Kind: kind, Remote: "upstream.test", Op: "fetching", Status: status, RetryAfter: retryAfter}
}

// bigSite is a site whose remote has one blob of size random bytes in repository
// a, which a manifest names that was pulled before.
func bigSite(t *testing.T, size int, adjust ...func(*cache.Options)) (s *site, content []byte, dgst digest.Digest) {
	t.Helper()
	s = newSite(t, adjust...)
	content = randomBytes(size)
	dgst = s.up.AddBlob("a", content)
	s.up.AddManifest("a", "v1", v1.MediaTypeImageManifest, image(size, digest.FromString("c"), dgst))
	if _, err := s.Repository("a").Tag(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	return s, content, dgst
}

// wantSent checks how many bytes of blobs the remote has sent.
func (s *site) wantSent(t *testing.T, want int) {
	t.Helper()
	if got := s.up.Sent(); got != int64(want) {
		t.Errorf("the remote has sent %d bytes, want %d", got, want)
	}
}

// wantPull pulls the blob, which is to have that content.
func (s *site) wantPull(t *testing.T, dgst digest.Digest, content []byte) {
	t.Helper()
	if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
		t.Errorf("%d bytes came, or other ones than the %d of the blob", len(got), len(content))
	}
}

// wantStored checks that the blob is stored, and nothing else of its download is
// left.
func (s *site) wantStored(t *testing.T, dgst digest.Digest, content []byte) {
	t.Helper()
	synctest.Wait()
	b, err := s.Repository("a").CachedBlob(t.Context(), dgst)
	must(t, err)
	if got := readAll(t, b); !bytes.Equal(got, content) {
		t.Error("other content is stored")
	}
	if n := s.blobs.Drafts(); n != 0 {
		t.Errorf("%d drafts are left", n)
	}
}

// Whatever breaks a download off, it goes on from the last byte, and its reader
// notices nothing.
func TestDownloadGoesOn(t *testing.T) {
	const size = 3 * mib
	for name, answer := range map[string]func(n int, part cache.BlobPart, s *cache.BlobStream) error{
		"cut each time": func(n int, part cache.BlobPart, s *cache.BlobStream) error {
			if step := int64(n) * 100_003; part.Offset+step < size {
				cutAfter(s, step)
			}
			return nil
		},
		"cut after every byte for a while": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n < 8 {
				cutAfter(s, 1)
			}
			return nil
		},
		"away for a while": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch {
			case n == 1:
				cutAfter(s, mib)
			case n < 6:
				return away()
			}
			return nil
		},
		"rate limited": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch n {
			case 1:
				cutAfter(s, mib)
			case 2:
				return refusal(cache.ErrRateLimited, 429, time.Minute)
			}
			return nil
		},
		"expired URLs": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch n {
			case 1, 4:
				cutAfter(s, mib)
			case 2, 3, 5:
				return refusal(cache.ErrDenied, 403, 0)
			}
			return nil
		},
		"gone for a moment": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch n {
			case 1:
				cutAfter(s, mib)
			case 2, 3, 4, 5:
				return refusal(cache.ErrNotFound, 404, 0)
			}
			return nil
		},
		"a login page in between": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch n {
			case 1:
				cutAfter(s, mib)
			case 2:
				*s = cache.BlobStream{Body: io.NopCloser(bytes.NewReader([]byte("<html>"))), Length: 6, Size: 6}
			}
			return nil
		},
		"another part than asked for": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			switch n {
			case 1:
				cutAfter(s, mib)
			case 2:
				s.Offset++
			}
			return nil
		},
		"less than asked for": func(n int, part cache.BlobPart, s *cache.BlobStream) error {
			if n == 1 {
				cutAfter(s, mib)
			} else {
				s.Length = 200_000
				s.Body = io.NopCloser(io.LimitReader(s.Body, s.Length))
			}
			return nil
		},
		"500 to begin with": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n < 3 {
				return refusal(cache.ErrUnavailable, 500, 0)
			}
			return nil
		},
		"429 for a moment to begin with": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n < 2 {
				return refusal(cache.ErrRateLimited, 429, time.Second)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := bigSite(t, size)
				s.up.Answer = answer
				s.wantPull(t, dgst, content)
				s.wantSent(t, size)
				s.wantStored(t, dgst, content)
			})
		})
	}
}

// An answer that breaks off with its last byte has brought all that was asked for.
func TestErrorWithTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, mib, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
		s.up.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error {
			s.Body = io.NopCloser(iotest.DataErrReader(io.MultiReader(s.Body, iotest.ErrReader(errReset))))
			return nil
		}
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		s.wantStored(t, dgst, content)
	})
}

// A remote that does not say how long the blob is makes no difference.
func TestDownloadOfUnknownLengthGoesOn(t *testing.T) {
	const size = 3 * mib
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, size)
		s.up.HideSize = true
		s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n < 4 {
				cutAfter(s, 700_001)
			}
			return nil
		}
		s.wantPull(t, dgst, content)
		s.wantSent(t, size)
		s.wantStored(t, dgst, content)
	})
}

// A manifest has told how long the blob is: an answer that ends well, but early, is
// not taken for all of it because the remote does not say its length.
func TestUntoldLengthEndsEarly(t *testing.T) {
	const size = 3 * mib
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, size)
		s.up.HideSize = true
		s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n < 4 {
				s.Body = io.NopCloser(io.LimitReader(s.Body, 700_001))
			}
			return nil
		}
		s.wantPull(t, dgst, content)
		s.wantSent(t, size)
		s.wantStored(t, dgst, content)
	})
}

// A remote that gives no parts gives the whole again. It is compared with what is
// there, and nobody gets a byte twice.
func TestWholeInsteadOfPart(t *testing.T) {
	const size = 3 * mib
	for _, cuts := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			s, content, dgst := bigSite(t, size)
			s.up.NoParts = true
			s.up.Answer = func(n int, part cache.BlobPart, s *cache.BlobStream) error {
				if part.Offset == 0 && n <= 2*cuts {
					cutAfter(s, int64(n)*300_001)
				}
				return nil
			}
			s.wantPull(t, dgst, content)
			s.wantStored(t, dgst, content)
		})
	}
}

// Where the whole that a remote gives again is another one, its bytes are not
// mixed with those that are there: readers get an error, nothing is stored or
// kept, and the next pull starts anew.
func TestOtherWholeInsteadOfPart(t *testing.T) {
	const size = 3 * mib
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, size)
		s.up.NoParts = true
		s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n == 1 {
				s.Body = io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, mib)), iotest.ErrReader(errReset)))
			}
			return nil
		}
		b := s.openBlob(t, "a", dgst)
		got, err := io.ReadAll(b)
		if !errors.Is(err, cache.ErrInvalid) || len(got) > mib || !bytes.Equal(got, make([]byte, len(got))) {
			t.Errorf("%d bytes, then %v, want ErrInvalid", len(got), err)
		}
		must(t, b.Close())
		s.wantPull(t, dgst, content)
		s.wantStored(t, dgst, content)
	})
}

// A download is given up when no byte has come for RetryFor, or when the remote
// keeps refusing. Readers hear the cause, and what is there is kept for the next
// pull.
func TestDownloadIsGivenUp(t *testing.T) {
	const size = 3 * mib
	for name, tt := range map[string]struct {
		err  error // of all answers but the first
		want error
		// within is when it is given up at the latest.
		within time.Duration
	}{
		"away":                       {away(), cache.ErrUnavailable, time.Minute},
		"limited for long":           {refusal(cache.ErrRateLimited, 429, time.Hour), cache.ErrRateLimited, time.Second},
		"limited without saying how": {refusal(cache.ErrRateLimited, 429, 0), cache.ErrRateLimited, time.Minute},
		"denied":                     {refusal(cache.ErrDenied, 403, 0), cache.ErrDenied, 30 * time.Second},
		"wrong":                      {noPart(), cache.ErrInvalid, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := bigSite(t, size, func(o *cache.Options) { o.Remotes[0].RetryFor = time.Minute })
				s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
					if n == 1 {
						cutAfter(s, 2*mib)
						return nil
					}
					return tt.err
				}
				start := time.Now()
				b := s.openBlob(t, "a", dgst)
				got, err := io.ReadAll(b)
				if !errors.Is(err, tt.want) || !errors.Is(err, tt.err) {
					t.Errorf("error %v, want that of the remote, %v", err, tt.err)
				}
				if len(got) != 2*mib {
					t.Errorf("%d bytes came before, want %d", len(got), 2*mib)
				}
				if took := time.Since(start); took > tt.within {
					t.Errorf("it took %v, want at most %v", took, tt.within)
				}
				must(t, b.Close())
				s.up.Answer = nil
				s.wantPull(t, dgst, content)
				s.wantSent(t, size)
				s.wantStored(t, dgst, content)
			})
		})
	}
}

// offline is the error of a remote that the operator has ruled out.
func offline() error {
	return &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching", Err: errors.Join(cache.ErrOffline, cache.ErrNotAsked)}
}

// A download that the operator cuts off is put aside at once, also where it is waiting
// for the remote already, and goes on with the next pull.
func TestDownloadIsPutAsideOffline(t *testing.T) {
	for name, tt := range map[string]struct {
		size int
		cut  func(n int, s *cache.BlobStream) error // of the second answer and later ones
	}{
		"refused": {3 * mib, func(int, *cache.BlobStream) error { return offline() }},
		"cut in the middle": {3 * mib, func(_ int, s *cache.BlobStream) error {
			s.Body = io.NopCloser(io.MultiReader(io.LimitReader(s.Body, mib/2), iotest.ErrReader(offline())))
			return nil
		}},
		// The one that fails first has all of them wait.
		"while another one waits": {64 * mib, func(n int, s *cache.BlobStream) error {
			if n == 2 {
				return refusal(cache.ErrRateLimited, 429, 20*time.Second)
			}
			s.Body = io.NopCloser(io.MultiReader(io.LimitReader(slow{s.Body}, mib), iotest.ErrReader(offline())))
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := bigSite(t, tt.size)
				s.up.Answer = func(n int, _ cache.BlobPart, b *cache.BlobStream) error {
					if n > 1 {
						return tt.cut(n, b)
					}
					if tt.size == 3*mib {
						cutAfter(b, mib)
					} else {
						b.Body = slow{b.Body}
					}
					return nil
				}
				start := time.Now()
				b := s.openBlob(t, "a", dgst)
				if _, err := io.ReadAll(b); !errors.Is(err, cache.ErrOffline) || !errors.Is(err, cache.ErrUnavailable) {
					t.Errorf("error %v, want ErrOffline", err)
				}
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
				must(t, b.Close())
				kept := s.up.Sent()
				if kept < mib {
					t.Errorf("%d bytes had come", kept)
				}
				s.up.Answer = nil
				s.wantPull(t, dgst, content)
				if again := s.up.Sent() - kept; again > int64(tt.size)-mib/2 {
					t.Errorf("%d bytes were fetched again", again)
				}
				s.wantStored(t, dgst, content)
			})
		})
	}
}

// What the remote says that it does not have is given up, and no more than tried
// once more: in the middle of a blob, that can be a mistake.
func TestDownloadOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, dgst := bigSite(t, 3*mib)
		s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n == 1 {
				cutAfter(s, 2*mib)
				return nil
			}
			return refusal(cache.ErrNotFound, 404, 0)
		}
		b := s.openBlob(t, "a", dgst)
		if _, err := io.ReadAll(b); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		must(t, b.Close())
		if n := s.leftovers(t); n != 1 {
			t.Errorf("%d unfinished downloads, want 1", n)
		}
		if _, err := s.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("error %v, want ErrNotFound", err)
		}
		synctest.Wait()
		if n := s.leftovers(t); n != 0 {
			t.Errorf("%d unfinished downloads, want none", n)
		}
		if n := s.blobs.Drafts(); n != 0 {
			t.Errorf("%d drafts are left", n)
		}
	})
}

// A large blob comes over several connections, each byte once, and readers get it
// in order.
func TestSeveralStreams(t *testing.T) {
	const size = 40*mib + 12_345
	for name, answer := range map[string]func(n int, part cache.BlobPart, s *cache.BlobStream) error{
		"all well": nil,
		"cut each time": func(_ int, part cache.BlobPart, s *cache.BlobStream) error {
			if s.Length > 3*mib {
				cutAfter(s, 3*mib+part.Offset%1000)
			}
			return nil
		},
		"one is told to wait for an hour": func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n == 4 {
				return &cache.UpstreamError{Kind: cache.ErrRateLimited, Status: 429, RetryAfter: time.Hour}
			}
			s.Body = slow{s.Body}
			return nil
		},
		"one of them fails at once, always": func(_ int, part cache.BlobPart, s *cache.BlobStream) error {
			if part.Offset > 0 && part.Offset < 16*mib && part.Length > mib {
				cutAfter(s, mib)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := bigSite(t, size)
				s.up.Answer = answer
				s.wantPull(t, dgst, content)
				s.wantSent(t, size)
				s.wantStored(t, dgst, content)
				if n := len(s.up.Parts()); n < 5 {
					t.Errorf("it came in %d parts", n)
				}
			})
		})
	}
}

// slow is a body that gives 1 MiB a second.
type slow struct{ io.ReadCloser }

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(time.Second / 8)
	return s.ReadCloser.Read(p[:min(len(p), mib/8)])
}

// Connections cap each other's rate on the way from the remote: four of them are
// four times as fast as one.
func TestStreamsRunAtTheSameTime(t *testing.T) {
	const size = 64 * mib // at 1 MiB a second
	for connections, want := range map[int]time.Duration{1: 64 * time.Second, 4: 16 * time.Second, 8: 8 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s, content, dgst := bigSite(t, size, func(o *cache.Options) { o.Remotes[0].Connections = connections })
			s.up.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error {
				s.Body = slow{s.Body}
				return nil
			}
			start := time.Now()
			s.wantPull(t, dgst, content)
			if took := time.Since(start); took < want || took > want+time.Second {
				t.Errorf("%d connections took %v, want about %v", connections, took, want)
			}
			s.wantSent(t, size)
		})
	}
}

// Where a reader wants what is far ahead, it is fetched out of turn, once.
func TestFarRange(t *testing.T) {
	const size = 80 * mib
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, size)
		s.up.Answer = func(_ int, _ cache.BlobPart, s *cache.BlobStream) error {
			s.Body = slow{s.Body}
			return nil
		}
		whole := s.openBlob(t, "a", dgst)
		start := time.Now()
		for _, at := range []int64{65*mib + 17, 50 * mib, size - 5*mib, 65*mib + 100} {
			b := s.openBlob(t, "a", dgst)
			_, err := b.Seek(at, io.SeekStart)
			must(t, err)
			p := make([]byte, 300_000)
			if _, err := io.ReadFull(b, p); err != nil || !bytes.Equal(p, content[at:at+int64(len(p))]) {
				t.Errorf("at %d: other content, %v", at, err)
			}
			must(t, b.Close())
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the ranges took %v", took)
		}
		if got := readAll(t, whole); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		s.wantSent(t, size)
		s.wantStored(t, dgst, content)
	})
}

// A blob that is not stored for want of room goes on as well.
func TestPassageGoesOn(t *testing.T) {
	const size = 3 * mib
	for name, adjust := range map[string]func(s *site){
		"parts":      func(*site) {},
		"the whole":  func(s *site) { s.up.NoParts = true },
		"no lengths": func(s *site) { s.up.HideSize = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, content, dgst := bigSite(t, size, func(o *cache.Options) { o.MaxSize = 10_000 })
				adjust(s)
				s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
					switch n {
					case 1, 2:
						cutAfter(s, int64(n)*mib)
					case 3:
						return away()
					case 4:
						return refusal(cache.ErrDenied, 403, 0)
					}
					return nil
				}
				b := s.openBlob(t, "a", dgst)
				if !b.Passing() {
					t.Fatal("there is room for it")
				}
				if got := readAll(t, b); !bytes.Equal(got, content) {
					t.Error("other content")
				}
				if s.up.HideSize || s.up.NoParts {
					return
				}
				s.wantSent(t, size)
			})
		})
	}
}

// Small blobs do not wait for large ones that pass through either.
func TestSmallPassageDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, large := bigSite(t, 3*mib, func(o *cache.Options) { o.MaxSize, o.Remotes[0].MaxConnections = 10_000, 2 })
		config := randomBytes(20_000)
		small := s.up.AddBlob("a", config)
		s.up.AddManifest("a", "v2", v1.MediaTypeImageManifest, image(len(config), digest.FromString("c"), small))
		_, err := s.Repository("a").Tag(t.Context(), "v2")
		must(t, err)
		for range 2 { // which nobody reads
			b := s.openBlob(t, "a", large)
			defer b.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b, err := s.Repository("a").OpenBlob(ctx, small)
		must(t, err)
		if got := readAll(t, b); !bytes.Equal(got, config) {
			t.Error("other content")
		}
	})
}

// Clients that have paused in what passes through hold up nobody for long.
func TestPausedPassagesHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, dgst := bigSite(t, 3*mib, func(o *cache.Options) { o.MaxSize, o.Remotes[0].MaxConnections = 10_000, 2 })
		p := make([]byte, 1000)
		var paused []*cache.Reader
		for range 2 {
			b := s.openBlob(t, "a", dgst)
			_, err := io.ReadFull(b, p)
			must(t, err)
			paused = append(paused, b)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Second)
		defer cancel()
		b, err := s.Repository("a").OpenBlob(ctx, dgst)
		must(t, err)
		if got := readAll(t, b); !bytes.Equal(got, content) {
			t.Error("other content")
		}
		for _, b := range paused { // and get the rest
			if got := readAll(t, b); !bytes.Equal(got, content[len(p):]) {
				t.Error("other content after the pause")
			}
		}
	})
}

// A passage is given up as a download is.
func TestPassageIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, dgst := bigSite(t, 3*mib, func(o *cache.Options) { o.MaxSize, o.Remotes[0].RetryFor = 10_000, time.Minute })
		s.up.Answer = func(n int, _ cache.BlobPart, s *cache.BlobStream) error {
			if n > 1 {
				return away()
			}
			cutAfter(s, mib)
			return nil
		}
		b := s.openBlob(t, "a", dgst)
		start := time.Now()
		if _, err := io.ReadAll(b); !errors.Is(err, cache.ErrUnavailable) || !errors.Is(err, errReset) {
			t.Errorf("error %v, want ErrUnavailable with its cause", err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		must(t, b.Close())
	})
}

// A client that waits for a small blob is not stuck behind large ones, however
// many they are, and neither are the first streams of large blobs behind the
// further ones of others.
func TestSmallBlobDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Remotes[0].MaxConnections = 4 })
		large := func() (digest.Digest, []byte) {
			content := randomBytes(2 * mib)
			return s.up.AddBlob("a", content), content
		}
		config := randomBytes(1000)
		dgst := s.up.AddBlob("a", config)
		s.up.AddManifest("a", "v1", v1.MediaTypeImageManifest, image(len(config), digest.FromString("c"), dgst))
		_, err := s.Repository("a").Tag(t.Context(), "v1")
		must(t, err)

		s.up.Answer = func(_ int, _ cache.BlobPart, st *cache.BlobStream) error {
			if st.Size > mib {
				st.Body = slow{st.Body}
			}
			return nil
		}
		done := make(chan error, 10)
		for range cap(done) {
			dgst, content := large()
			go func() {
				b, err := s.Repository("a").OpenBlob(t.Context(), dgst)
				if err == nil {
					var got []byte
					if got, err = io.ReadAll(b); err == nil && !bytes.Equal(got, content) {
						err = errors.New("other content")
					}
					err = errors.Join(err, b.Close())
				}
				done <- err
			}()
		}
		synctest.Wait() // all slots are taken
		if n := s.up.Calls("blob"); n != 4 {
			t.Errorf("%d streams, want 4", n)
		}
		start := time.Now()
		if got := readAll(t, s.openBlob(t, "a", dgst)); !bytes.Equal(got, config) {
			t.Error("other content")
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the small blob took %v", took)
		}
		for range cap(done) {
			must(t, <-done)
		}
		if took := time.Since(start); took > 7*time.Second { // 20 MiB over 4 streams of 1 MiB a second
			t.Errorf("all together took %v", took)
		}
	})
}
