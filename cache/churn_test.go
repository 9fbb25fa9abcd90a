package cache_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

// However pulls, evictions, removals, damage and restarts come together: the account is
// what is stored, nothing is linked that is not there, and no image has lost a part.
func TestChurn(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, limited(12), func(o *cache.Options) {
					o.Usage, o.Now = new(blocks), time.Now
					o.MaxSize += 1000 * kib
				})
				s.partials.Now = time.Now
				passed := new(sync.Map) // what had no room
				for round := range 6 {
					churn(t, s, passed, rand.New(rand.NewPCG(seed, uint64(round))))
					synctest.Wait()
					time.Sleep(time.Minute)
					s.wantSound(t, passed)
					if round%3 == 2 {
						s.close(t, s.Cache)
						s.loseIndex()
						s.open(t)
					} else {
						s.reopen(t)
					}
					s.wantSound(t, passed)
				}
			})
		})
	}
}

// churn does many things at once.
func churn(t *testing.T, s *site, passed *sync.Map, random *rand.Rand) {
	var work sync.WaitGroup
	for range 4 {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		work.Go(func() {
			for range 12 {
				repo, tag := fmt.Sprint("r", random.IntN(3)), fmt.Sprint(random.IntN(8))
				switch random.IntN(10) {
				case 0:
					_, _ = s.RemoveImage(t.Context(), repo, tag) // it may not be there
				case 1:
					if _, err := s.Collect(t.Context(), cache.CollectOptions{Free: 500 * kib}); err != nil {
						t.Error(err)
					}
				case 2:
					time.Sleep(time.Duration(random.IntN(90)) * time.Second)
				default:
					s.push(repo, tag, fmt.Sprint("layer", random.IntN(6)), "base")
					if err := s.pullNoting(t, repo, tag, passed); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
}

// pullNoting pulls an image, and notes which of its parts had no room.
func (s *site) pullNoting(t *testing.T, repo, tag string, passed *sync.Map) error {
	m, err := s.Repository(repo).Tag(t.Context(), tag)
	if err != nil {
		return err
	}
	for _, part := range m.References() {
		b, err := s.Repository(repo).OpenBlob(t.Context(), part.Digest)
		if err != nil {
			return err
		}
		if b.Passing() {
			passed.Store(m.Digest, true)
		}
		if _, err := io.Copy(io.Discard, b); err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
	}
	return nil
}

// wantSound compares the account, the links and the images with what is stored.
func (s *site) wantSound(t *testing.T, passed *sync.Map) {
	t.Helper()
	synctest.Wait()
	s.wantTaken(t)
	stored := make(map[string]bool)
	for b, err := range s.blobs.All(t.Context()) {
		must(t, err)
		stored[b.Digest.String()] = true
	}
	for ref, err := range s.refs.All(t.Context()) {
		must(t, err)
		if !stored[ref.Digest.String()] {
			t.Errorf("link %+v leads to nothing", ref)
		}
	}
	for image, err := range s.Images(t.Context()) {
		must(t, err)
		if _, ok := passed.Load(image.Digest); !image.Complete && !ok {
			t.Errorf("%s:%s (%s) has lost a part", image.Repository, image.Tag, image.Digest)
		}
	}
}
