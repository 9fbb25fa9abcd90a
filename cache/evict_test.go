package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

const kib = 1 << 10

// memDocument is a document that outlives a cache.
type memDocument struct {
	mu      sync.Mutex
	content []byte
	writes  int
	err     error
}

func (d *memDocument) Read(context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.content == nil && d.err == nil {
		return nil, fs.ErrNotExist
	}
	return d.content, d.err
}

func (d *memDocument) Write(_ context.Context, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content, d.writes = content, d.writes+1
	return d.err
}

// push puts an image of layers of some 100 KiB into repository repo. Layers of the same
// name are the same.
func (s *site) push(repo, tag string, layers ...string) digest.Digest {
	var digests []digest.Digest
	for _, name := range layers {
		digests = append(digests, s.up.AddBlob(repo, []byte(strings.Repeat(name+" ", 100*kib/(len(name)+1)+1)[:100*kib])))
	}
	config := s.up.AddBlob(repo, []byte(strings.Repeat(repo+tag, 100*kib)[:100*kib]))
	return s.up.AddManifest(repo, tag, v1.MediaTypeImageManifest, image(100*kib, config, digests...))
}

// pull pulls an image as a client does, and then waits until it does not count as running
// any more.
func (s *site) pull(t *testing.T, repo, tag string) {
	t.Helper()
	must(t, s.tryPull(t.Context(), t, repo, tag))
	s.rest()
}

func (s *site) tryPull(ctx context.Context, t *testing.T, repo, tag string) error {
	t.Helper()
	m, err := s.Repository(repo).Tag(ctx, tag)
	if err != nil {
		return err
	}
	for _, part := range m.References() {
		if part.MediaType == v1.MediaTypeImageManifest {
			continue
		}
		b, err := s.Repository(repo).OpenBlob(ctx, part.Digest)
		if err != nil {
			return err
		}
		readAll(t, b)
	}
	return nil
}

// rest lets what goes on end, and then a minute pass.
func (s *site) rest() {
	synctest.Wait()
	s.pass(time.Minute)
}

// images are the names of what is stored, with a mark behind what is not complete.
func (s *site) images(t *testing.T) (names []string) {
	t.Helper()
	for image, err := range s.Images(t.Context()) {
		must(t, err)
		name := image.Repository + ":" + image.Tag
		if image.Tag == "" {
			name = image.Repository + "@" + image.Digest.Encoded()[:6]
		}
		if !image.Complete {
			name += "?"
		}
		names = append(names, name)
	}
	return names
}

func (s *site) wantImages(t *testing.T, want ...string) {
	t.Helper()
	if got := s.images(t); !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q", got, want)
	}
}

// wantServed pulls images while the remote is away.
func (s *site) wantServed(t *testing.T, repo string, tags ...string) {
	t.Helper()
	s.up.Fail(cache.ErrUnavailable)
	defer s.up.Fail(nil)
	for _, tag := range tags {
		if err := s.tryPull(t.Context(), t, repo, tag); err != nil {
			t.Errorf("%s:%s without the remote: %v", repo, tag, err)
		}
	}
	s.rest()
}

// limited is a site with room for n images of two parts.
func limited(n int) func(*cache.Options) {
	return func(o *cache.Options) { o.MaxSize = int64(n)*(200*kib+kib) + 60*kib }
}

// Room is made by whole images, the one that is worth least first; what they share stays.
func TestWholeImagesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(3))
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, "base") // which counts once
			s.pull(t, "a", tag)
		}
		s.pull(t, "a", "1")
		s.push("b", "1", "other")
		s.push("b", "2", "another")
		s.pull(t, "b", "1")
		s.wantImages(t, "a:1", "a:2", "a:3", "b:1")
		s.pull(t, "b", "2")
		s.wantImages(t, "a:1", "b:1", "b:2")
		s.wantServed(t, "a", "1")
		s.wantServed(t, "b", "1", "2")
		if n := s.blobs.Len(); n != 3*3 {
			t.Errorf("%d blobs are stored", n)
		}
		// What is gone comes back.
		s.pull(t, "a", "2")
		s.wantServed(t, "a", "2")
	})
}

// What a client is pulling is not taken away, however long it takes.
func TestRunningPullStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(3))
		s.push("slow", "1", "slow")
		s.pull(t, "slow", "1")
		m, err := s.Repository("slow").Tag(t.Context(), "1")
		must(t, err)
		reading := s.openBlob(t, "slow", m.References()[0].Digest)
		for i := range 6 {
			tag := fmt.Sprint(i)
			s.push("fast", tag, tag)
			s.pull(t, "fast", tag)
		}
		s.wantServed(t, "slow", "1")
		must(t, reading.Close())
		s.rest()
		for i := range 6 {
			tag := fmt.Sprint("later", i)
			s.push("fast", tag, tag)
			s.pull(t, "fast", tag)
			s.pull(t, "fast", tag)
		}
		if slices.Contains(s.images(t), "slow:1") {
			t.Error("it stays for ever")
		}
	})
}

// A pull has ended when all of the image was read: one after the other, without a pause,
// finds room.
func TestEndedPullMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(3))
		for i := range 8 {
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			must(t, s.tryPull(t.Context(), t, "a", tag))
			synctest.Wait()
			if !slices.Contains(s.images(t), "a:"+tag) {
				t.Errorf("image %d in a row is not stored: %q", i, s.images(t))
			}
		}
	})
}

// A pull that is not complete goes on, though its client has paused, and others come and go.
func TestUnfinishedPullStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(3))
		s.push("a", "slow", "slow")
		m, err := s.Repository("a").Tag(t.Context(), "slow")
		must(t, err)
		layer := m.References()[0].Digest
		readAll(t, s.openBlob(t, "a", layer)) // and not its configuration
		synctest.Wait()
		for i := range 8 {
			s.pass(500 * time.Millisecond)
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			must(t, s.tryPull(t.Context(), t, "a", tag))
			synctest.Wait()
		}
		b, err := s.Repository("a").CachedBlob(t.Context(), layer)
		if err != nil {
			t.Fatalf("its layer: %v", err)
		}
		must(t, b.Close())
		if _, err := s.Repository("a").CachedManifest(t.Context(), m.Digest); err != nil {
			t.Errorf("its manifest: %v", err)
		}
	})
}

// A blob for which not enough can be removed costs nothing.
func TestNothingIsRemovedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limited(2))
		s.push("a", "1", "1")
		s.push("a", "2", "2")
		s.pull(t, "a", "1")
		s.pull(t, "a", "2")
		huge := s.up.AddBlob("a", randomBytes(900*kib))
		b := s.openBlob(t, "a", huge)
		readAll(t, b)
		if !b.Passing() {
			t.Error("more is stored than the limit allows")
		}
		s.wantImages(t, "a:1", "a:2")
	})
}

// Pins hold, by tag, digest and pattern, after a restart and without the index, until they
// are taken back.
func TestPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := new(memDocument)
		s := newSite(t, limited(5), func(o *cache.Options) { o.Pinned, o.Pins = doc, []string{"policy/**"} })
		pinned := s.push("a", "1", "1")
		s.push("a", "2", "2")
		s.push("policy/x", "1", "3")
		for _, repo := range []string{"a:1", "a:2", "policy/x:1"} {
			name, tag, _ := strings.Cut(repo, ":")
			s.pull(t, name, tag)
		}
		for pattern, matches := range map[string]int{"a@" + pinned.String(): 1, "a:2": 1, "later:*": 0} {
			if n, err := s.PinImages(t.Context(), cache.Pin{Pattern: pattern, Reason: cache.PinnedByOperator}); err != nil || n != matches {
				t.Errorf("%s: %d matches, %v", pattern, n, err)
			}
		}
		churn := func() {
			t.Helper()
			for i := range 8 {
				tag := fmt.Sprint("churn", i)
				s.push("b", tag, tag)
				s.pull(t, "b", tag)
				s.pull(t, "b", tag)
			}
			for _, image := range []string{"a:1", "a:2", "policy/x:1"} {
				if !slices.Contains(s.images(t), image) {
					t.Errorf("%s is gone", image)
				}
			}
		}
		churn()
		s.loseIndex()
		s.reopen(t)
		churn()
		s.wantServed(t, "a", "1", "2")
		if was, err := s.UnpinImages(t.Context(), "a:2", cache.PinnedByOperator); err != nil || !was {
			t.Errorf("unpin: %v, %v", was, err)
		}
		if was, err := s.UnpinImages(t.Context(), "a:2", cache.PinnedByOperator); err != nil || was {
			t.Errorf("unpin again: %v, %v", was, err)
		}
		for i := range 8 {
			tag := fmt.Sprint("more", i)
			s.push("b", tag, tag)
			s.pull(t, "b", tag)
			s.pull(t, "b", tag)
		}
		if slices.Contains(s.images(t), "a:2") {
			t.Error("it is kept after its pin was taken back")
		}
	})
}

// Pins that cannot be read stop all evictions: they would tell what must not be.
func TestBrokenPins(t *testing.T) {
	for name, doc := range map[string]*memDocument{
		"empty":       {content: []byte{}},
		"zeros":       {content: make([]byte, 100)},
		"newer":       {content: []byte(`{"version":2}`)},
		"bad pattern": {content: []byte(`{"version":1,"pins":[{"pattern":"a[","reason":"operator"}]}`)},
		"unreadable":  {err: errors.New("input/output error")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, limited(2), func(o *cache.Options) { o.Pinned = doc })
				for _, tag := range []string{"1", "2", "3"} {
					s.push("a", tag, tag)
					s.pull(t, "a", tag)
				}
				s.wantServed(t, "a", "1", "2")
				if _, err := s.PinImages(t.Context(), cache.Pin{Pattern: "a", Reason: cache.PinnedByOperator}); err == nil {
					t.Error("what cannot be read is replaced")
				}
			})
		})
	}
}

// A pinned tag that moves keeps what it has stood for until all of the new is there.
func TestPinnedTagMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := new(memDocument)
		s := newSite(t, limited(4), func(o *cache.Options) { o.Pinned, o.Pins = doc, []string{"a:latest"} })
		old := s.push("a", "latest", "old")
		s.pull(t, "a", "latest")
		s.push("a", "latest", "new")
		s.pass(2 * tagTTL)
		moved, err := s.Repository("a").Tag(t.Context(), "latest") // and no more of it
		must(t, err)
		churn := func(what string) {
			for i := range 6 {
				tag := fmt.Sprint(what, i)
				s.push("b", tag, tag)
				s.pull(t, "b", tag)
				s.pull(t, "b", tag)
			}
		}
		churn("before")
		s.loseIndex()
		s.reopen(t)
		churn("again")
		if _, err := s.Repository("a").CachedManifest(t.Context(), old); err != nil {
			t.Errorf("the old one is gone before the new one is there: %v", err)
		}
		s.rest()
		must(t, s.tryPull(t.Context(), t, "a", "latest"))
		s.rest()
		churn("after")
		if _, err := s.Repository("a").CachedManifest(t.Context(), old); err == nil {
			t.Error("the old one is kept for ever")
		}
		if _, err := s.Repository("a").CachedManifest(t.Context(), moved.Digest); err != nil {
			t.Errorf("the new one: %v", err)
		}
	})
}

// What nobody has asked for within the limit of its remote goes, unless that is away.
func TestUnusedExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) {
			o.Now, o.Remotes[0].TTL = time.Now, 10*time.Hour
		})
		s.partials.Now = time.Now
		for _, tag := range []string{"1", "2"} {
			s.push("a", tag, tag, "base")
			must(t, s.tryPull(t.Context(), t, "a", tag))
		}
		for range 3 {
			time.Sleep(4 * time.Hour)
			must(t, s.tryPull(t.Context(), t, "a", "1"))
		}
		s.wantImages(t, "a:1")
		s.up.SetAway(errors.New("no route"), false)
		time.Sleep(30 * time.Hour)
		s.wantImages(t, "a:1")
		s.up.SetAway(nil, false)
		s.loseIndex() // and with it when it was used
		s.reopen(t)
		time.Sleep(9 * time.Hour)
		s.wantImages(t, "a:1")
		time.Sleep(3 * time.Hour)
		s.wantImages(t)
		if n := s.blobs.Len(); n != 0 {
			t.Errorf("%d blobs are left", n)
		}
	})
}

// An image is removed with what nothing else uses, and the remote is asked for it again.
func TestRemoveImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(o *cache.Options) { o.Pins = []string{"kept"} })
		bad := s.push("a", "bad", "bad", "base")
		s.up.AddManifest("a", "also", v1.MediaTypeImageManifest, s.manifest(t, "a", bad))
		s.push("a", "good", "good", "base")
		s.push("kept", "1", "1")
		for _, name := range []string{"a:bad", "a:also", "a:good", "kept:1"} {
			repo, tag, _ := strings.Cut(name, ":")
			s.pull(t, repo, tag)
		}
		sum, err := s.RemoveImage(t.Context(), "a", "bad")
		if err != nil || sum.Tags != 1 || sum.Bytes != 0 || !slices.Equal(sum.Remaining, []string{"a:also"}) {
			t.Errorf("one of two tags: %+v, %v", sum, err)
		}
		sum, err = s.RemoveImage(t.Context(), "a", bad.String())
		if err != nil || sum.Tags != 1 || sum.Manifests != 1 || sum.Blobs != 2 || sum.Bytes < 200*kib {
			t.Errorf("by digest: %+v, %v", sum, err)
		}
		s.wantImages(t, "a:good", "kept:1")
		s.wantServed(t, "a", "good")
		if _, err := s.RemoveImage(t.Context(), "a", "bad"); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
		for _, ref := range []string{"1", ""} {
			if _, err := s.RemoveImage(t.Context(), "kept", ref); !errors.Is(err, cache.ErrPinned) {
				t.Errorf("what is pinned: %v", err)
			}
		}
		before := s.up.Calls("")
		s.pull(t, "a", "bad")
		if s.up.Calls("")-before < 3 {
			t.Error("it has come back from somewhere")
		}
		if sum, err = s.RemoveImage(t.Context(), "a", ""); err != nil || sum.Manifests != 2 || sum.Blobs != 5 {
			t.Errorf("all of a repository: %+v, %v", sum, err)
		}
		s.wantImages(t, "kept:1")
	})
}

// manifest gets the bytes of a manifest.
func (s *site) manifest(t *testing.T, repo string, dgst digest.Digest) []byte {
	t.Helper()
	m, err := s.up.Manifest(t.Context(), repo, dgst.String())
	must(t, err)
	return m.Bytes
}

// What was removed leaves nothing behind but how it was used: neither links nor entries.
func TestNothingIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		entries := s.entries(t)
		image := s.push("a", "1", "1", "base")
		s.push("a", "2", "2", "base")
		for _, tag := range []string{"1", "2"} {
			s.pull(t, "a", tag)
		}
		signature := s.attach("a", "", "test/signature", image)
		_, err := s.Repository("a").Referrers(t.Context(), image)
		must(t, err)
		_, err = s.Repository("a").Manifest(t.Context(), signature)
		must(t, err)
		s.rest()
		got, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		if got.Used != 0 || s.blobs.Len() != 0 {
			t.Errorf("%d bytes are used, %d blobs stored; removed were %+v", got.Used, s.blobs.Len(), got.Victims)
		}
		for ref, err := range s.refs.All(t.Context()) {
			t.Errorf("link %+v is left, %v", ref, err)
		}
		left := 0
		for e, err := range s.index.Scan(t.Context(), nil, nil) {
			must(t, err)
			if e.Key[0] == 'u' || string(e.Key) == "z\x00turns" {
				continue
			}
			left++
			if left > entries {
				t.Errorf("entry %q is left", e.Key)
			}
		}
		if places := s.places(t); len(places) != 0 {
			t.Errorf("repositories %v are listed", places)
		}
	})
}

// A plan removes nothing, and is what is done then.
func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, tag := range []string{"1", "2", "3"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		loose := s.up.AddBlob("a", randomBytes(50*kib))
		readAll(t, s.openBlob(t, "a", loose))
		s.rest()
		planned, err := s.Collect(t.Context(), cache.CollectOptions{Free: 300 * kib, DryRun: true})
		must(t, err)
		s.wantImages(t, "a:1", "a:2", "a:3")
		done, err := s.Collect(t.Context(), cache.CollectOptions{Free: 300 * kib})
		must(t, err)
		if fmt.Sprint(planned.Victims) != fmt.Sprint(done.Victims) || planned.Freed != done.Freed || planned.Used != done.Used {
			t.Errorf("planned was %+v, done %+v", planned, done)
		}
		var names []string
		for _, v := range done.Victims {
			names = append(names, v.Why+" "+strings.Join(v.Images, " "))
		}
		if want := []string{"unused ", "room a:1", "room a:2"}; !slices.Equal(names, want) {
			t.Errorf("removed were %q, want %q", names, want)
		}
		s.wantImages(t, "a:3")
	})
}

// wakingBlobs does something when the first blob is removed.
type wakingBlobs struct {
	cache.Blobs
	once sync.Once
	do   func(digest.Digest)
}

func (b *wakingBlobs) Remove(ctx context.Context, dgst digest.Digest) error {
	b.once.Do(func() { b.do(dgst) })
	return b.Blobs.Remove(ctx, dgst)
}

// What somebody asks for while room is made stays, even if it was about to go.
func TestAskedForWhileRemoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waking := new(wakingBlobs)
		s := newSite(t, func(o *cache.Options) { waking.Blobs, o.Blobs = o.Blobs, waking })
		for _, tag := range []string{"1", "2"} {
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
		}
		s.push("a", "3", "2") // has a layer of 2
		waking.do = func(digest.Digest) {
			_, err := s.Repository("a").Tag(t.Context(), "3")
			must(t, err)
			_, err = s.Repository("a").CachedTag(t.Context(), "2")
			must(t, err)
		}
		_, err := s.Collect(t.Context(), cache.CollectOptions{Free: 1 << 40})
		must(t, err)
		s.up.Fail(cache.ErrUnavailable)
		must(t, s.tryPull(t.Context(), t, "a", "2"))
		s.up.Fail(nil)
		s.wantImages(t, "a:2", "a:3?")
	})
}

// countingIndex counts changes.
type countingIndex struct {
	cache.Index
	mu      sync.Mutex
	applied int
}

func (x *countingIndex) Apply(ctx context.Context, changes ...cache.Change) error {
	x.mu.Lock()
	x.applied++
	x.mu.Unlock()
	return x.Index.Apply(ctx, changes...)
}

func (x *countingIndex) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.applied
}

// Uses are written together, and nothing is when there are none.
func TestUsesAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counting := new(countingIndex)
		s := newSite(t, func(o *cache.Options) { counting.Index, o.Index, o.Now = o.Index, counting, time.Now })
		s.partials.Now = time.Now
		s.push("a", "1", "1")
		must(t, s.tryPull(t.Context(), t, "a", "1"))
		synctest.Wait()
		before := counting.count()
		for range 1000 {
			must(t, s.tryPull(t.Context(), t, "a", "1"))
		}
		time.Sleep(4 * time.Minute)
		must(t, s.tryPull(t.Context(), t, "a", "1"))
		want := time.Now()
		if n := counting.count() - before; n != 0 {
			t.Errorf("%d writes for 1001 pulls", n)
		}
		time.Sleep(7 * time.Minute)
		if n := counting.count() - before; n != 1 {
			t.Errorf("%d writes 11 minutes later", n)
		}
		time.Sleep(100 * time.Hour)
		if n := counting.count() - before; n != 1 {
			t.Errorf("%d writes while nothing happens", n-1)
		}
		used := s.used(t, "a:1")
		if !used.Equal(want.Truncate(time.Second)) {
			t.Errorf("used at %v, want %v", used, want)
		}
		s.reopen(t)
		if again := s.used(t, "a:1"); !again.Equal(used) {
			t.Errorf("after a restart used at %v, not %v", again, used)
		}
	})
}

// used tells when an image was used.
func (s *site) used(t *testing.T, name string) time.Time {
	t.Helper()
	for image, err := range s.Images(t.Context()) {
		must(t, err)
		if image.Repository+":"+image.Tag == name {
			return image.Used
		}
	}
	t.Fatalf("%s is not stored", name)
	panic("unreachable")
}

// blocks is a storage with blocks of 4 KiB, three of which each blob needs beside its own,
// and some more that are taken otherwise.
type blocks struct{ beside int64 }

func (b *blocks) Occupies(size int64) int64 { return (size+4*kib-1)/(4*kib)*(4*kib) + 12*kib }

func (b *blocks) OccupiesRef(cache.RefKind) int64 { return 4 * kib }

func (b *blocks) Beside(context.Context) (int64, error) { return b.beside, nil }

// The limit is for all that the storage is used for.
func TestLimitIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		used := &blocks{beside: 100 * kib}
		s := newSite(t, func(o *cache.Options) { o.Usage, o.MaxSize = used, 1000*kib })
		for i := range 8 {
			tag := fmt.Sprint(i)
			s.push("a", tag, tag)
			s.pull(t, "a", tag)
			taken := used.beside
			for b, err := range s.blobs.All(t.Context()) {
				must(t, err)
				taken += used.Occupies(b.Size)
			}
			if taken > 1000*kib {
				t.Errorf("%d KiB are taken after %d pulls", taken/kib, i+1)
			}
		}
		if got := s.images(t); len(got) != 3 {
			t.Errorf("stored are %q, want 3", got)
		}
		got, err := s.Collect(t.Context(), cache.CollectOptions{})
		must(t, err)
		if want := 100*kib + 3*(2*112*kib+16*kib+4*4*kib); got.Used != int64(want) || got.Limit != 1000*kib {
			t.Errorf("%d of %d bytes are used, want %d", got.Used, got.Limit, want)
		}
	})
}
