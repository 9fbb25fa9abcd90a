package seed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"registry-module/cache"
	"registry-module/seed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cache with a remote behind it. It refuses what would break its promises: a
// manifest before what it lists, a tag before its manifest, and a pin or tag of what
// nothing holds.
type fake struct {
	t testing.TB
	// asked, if set, is called with each question to the remote, and may answer it with an
	// error. Ops are "find NAME REF", "peek REPO REF", "blob REPO DIGEST", "tags REPO", and
	// "referrers REPO DIGEST".
	asked func(ctx context.Context, op string) error
	// limit is how much may be pinned, in bytes; 0 is no limit.
	limit int64
	// page is how many tags are listed at a time; 0 is all.
	page int
	// stale makes tags be answered from what is stored, with that reason.
	stale error

	mu     sync.Mutex
	remote map[string]*registry // by repository
	stored map[digest.Digest]int64
	parts  map[string]int64          // bytes of partial blobs, by digest
	linked map[string]map[string]int // repository to digest
	tags   map[string]digest.Digest  // repository:tag
	at     map[string]time.Time      // when a tag was confirmed
	pins   []cache.Pin
	holds  map[*holder]bool
	calls  map[string]int
	order  []string // what was written
	bytes  int64    // fetched
}

// registry is a repository of the remote.
type registry struct {
	content   map[digest.Digest][]byte
	types     map[digest.Digest]string
	tags      map[string]digest.Digest
	referrers map[digest.Digest][]v1.Descriptor
}

func newFake(t testing.TB) *fake {
	return &fake{
		t: t, remote: make(map[string]*registry), stored: make(map[digest.Digest]int64), parts: make(map[string]int64),
		linked: make(map[string]map[string]int), tags: make(map[string]digest.Digest), at: make(map[string]time.Time),
		holds: make(map[*holder]bool), calls: make(map[string]int),
	}
}

func (f *fake) repo(name string) *registry {
	if f.remote[name] == nil {
		f.remote[name] = &registry{
			make(map[digest.Digest][]byte), make(map[digest.Digest]string), make(map[string]digest.Digest), make(map[digest.Digest][]v1.Descriptor),
		}
	}
	return f.remote[name]
}

// add makes content part of a repository of the remote.
func (f *fake) add(repo, mediaType string, content []byte, tags ...string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	r := f.repo(repo)
	r.content[d.Digest], r.types[d.Digest] = content, mediaType
	for _, tag := range tags {
		r.tags[tag] = d.Digest
	}
	return d
}

func (f *fake) json(repo, mediaType string, doc any, tags ...string) v1.Descriptor {
	content, err := json.Marshal(doc)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.add(repo, mediaType, content, tags...)
}

// image adds an image of layers, each of the given text.
func (f *fake) image(repo, tag string, layers ...string) v1.Descriptor {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = f.add(repo, v1.MediaTypeImageConfig, []byte("{}"+strings.Join(layers, ",")))
	for _, l := range layers {
		m.Layers = append(m.Layers, f.add(repo, v1.MediaTypeImageLayer, []byte(l)))
	}
	var tags []string
	if tag != "" {
		tags = append(tags, tag)
	}
	return f.json(repo, v1.MediaTypeImageManifest, m, tags...)
}

// index adds an index with a manifest for each of platforms, whose layer is the platform.
func (f *fake) index(repo, tag string, platforms ...string) v1.Descriptor {
	var children []v1.Descriptor
	for _, p := range platforms {
		children = append(children, on(f.image(repo, "", repo+p), p))
	}
	return f.list(repo, tag, children...)
}

func (f *fake) list(repo, tag string, children ...v1.Descriptor) v1.Descriptor {
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: children}
	return f.json(repo, v1.MediaTypeImageIndex, x, tag)
}

// on is d for a platform.
func on(d v1.Descriptor, platform string) v1.Descriptor {
	p := strings.SplitN(platform+"//", "/", 3)
	d.Platform = &v1.Platform{OS: p[0], Architecture: p[1], Variant: strings.Trim(p[2], "/")}
	return d
}

// count is how often ops that begin so were asked for.
func (f *fake) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for op, times := range f.calls {
		if strings.HasPrefix(op, prefix) {
			n += times
		}
	}
	return n
}

func (f *fake) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.order, f.bytes = make(map[string]int), nil, 0
}

func (f *fake) ask(ctx context.Context, op string) error {
	f.mu.Lock()
	f.calls[op]++
	f.mu.Unlock()
	if f.asked != nil {
		if err := f.asked(ctx, op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *fake) wrote(op string) {
	f.order = append(f.order, op)
}

func (f *fake) Ready(context.Context) error { return nil }

func (f *fake) Find(ctx context.Context, name, ref string) (seed.Repository, error) {
	if err := f.ask(ctx, "find "+name+" "+ref); err != nil {
		return nil, err
	}
	name = strings.TrimPrefix(name, "remote.test/")
	if strings.HasPrefix(name, "elsewhere.test/") {
		return nil, fmt.Errorf("%s: %w", name, cache.ErrNotServed)
	}
	return fakeRepo{f, name}, nil
}

func (f *fake) Fit(_ context.Context, content []cache.BlobEntry) (cache.Fit, error) {
	fit := cache.Fit{Limit: f.limit}
	for _, c := range content {
		fit.Kept += c.Size
		if _, ok := f.stored[c.Digest]; !ok {
			fit.More += c.Size
		}
	}
	fit.OK = f.limit == 0 || fit.Kept <= f.limit
	return fit, nil
}

func (f *fake) Pins(context.Context) ([]cache.Pin, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pins), nil
}

func (f *fake) PinImages(_ context.Context, p cache.Pin) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pins = append(f.pins, p)
	f.wrote("pin " + p.Pattern)
	return 1, nil
}

func (f *fake) UnpinImages(_ context.Context, pattern string, reason cache.PinReason) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.pins)
	f.pins = slices.DeleteFunc(f.pins, func(p cache.Pin) bool { return p.Pattern == pattern && p.Reason == reason })
	f.wrote("unpin " + pattern)
	return len(f.pins) < before, nil
}

// pinned are the patterns of all pins, in their order.
func (f *fake) pinned() []string {
	var all []string
	for _, p := range f.pins {
		all = append(all, p.Pattern)
	}
	slices.Sort(all)
	return all
}

type holder struct {
	f    *fake
	held map[digest.Digest]bool
}

func (f *fake) Hold() seed.Hold {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &holder{f, make(map[digest.Digest]bool)}
	f.holds[h] = true
	return h
}

func (h *holder) Keep(content ...digest.Digest) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	for _, d := range content {
		h.held[d] = true
	}
}

func (h *holder) Release() {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	delete(h.f.holds, h)
}

// mustBeHeld fails the test where nothing holds content that is being written.
func (f *fake) mustBeHeld(dgst digest.Digest) {
	for h := range f.holds {
		if h.held[dgst] {
			return
		}
	}
	f.t.Errorf("nothing holds %s", dgst)
}

type fakeRepo struct {
	*fake
	name string
}

func notFound(op string) error {
	return &cache.UpstreamError{Kind: cache.ErrNotFound, Remote: "remote.test", Op: op, Status: 404}
}

func (r fakeRepo) Place() cache.Place { return cache.Place{Host: "remote.test", Repo: r.name} }
func (r fakeRepo) Key() string        { return r.name }

func (r fakeRepo) Peek(ctx context.Context, ref string) (t cache.Tagged, _ error) {
	op := "peek " + r.name + " " + ref
	dgst := digest.Digest(ref)
	if dgst.Validate() != nil && r.stale != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if dgst = r.tags[r.name+":"+ref]; dgst == "" {
			return t, r.stale
		}
		t.Stale = r.stale
	} else if err := r.ask(ctx, op); err != nil {
		return t, err
	}
	from := r.remote[r.name]
	if from == nil {
		return t, notFound(op)
	}
	if dgst.Validate() != nil {
		dgst = from.tags[ref]
	}
	content, ok := from.content[dgst]
	if !ok {
		return t, notFound(op)
	}
	t.Manifest = cache.Manifest{Descriptor: cache.Descriptor{MediaType: from.types[dgst], Digest: dgst, Size: int64(len(content))}, Bytes: content}
	return t, nil
}

func (r fakeRepo) has(dgst digest.Digest) bool { return r.linked[r.name][dgst.String()] > 0 }

func (r fakeRepo) link(dgst digest.Digest) {
	if r.linked[r.name] == nil {
		r.linked[r.name] = make(map[string]int)
	}
	r.linked[r.name][dgst.String()]++
}

func (r fakeRepo) HasBlob(_ context.Context, dgst digest.Digest) (bool, int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size, ok := r.stored[dgst]; ok {
		return r.has(dgst), size, nil
	}
	return false, r.parts[dgst.String()], nil
}

func (r fakeRepo) HasManifest(_ context.Context, dgst digest.Digest) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has(dgst), nil
}

func (r fakeRepo) FetchBlob(ctx context.Context, d v1.Descriptor, held func(int64)) (n int64, _ error) {
	op := "blob " + r.name + " " + d.Digest.String()
	r.mu.Lock()
	_, is := r.stored[d.Digest]
	n = d.Size - r.parts[d.Digest.String()]
	r.mu.Unlock()
	if !is {
		held(d.Size - n)
		if err := r.ask(ctx, op); err != nil {
			return 0, err
		}
		if _, ok := r.remote[r.name].content[d.Digest]; !ok {
			return 0, notFound(op)
		}
		held(d.Size - n/2)
		held(d.Size - n) // begun anew
	} else {
		n = 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mustBeHeld(d.Digest)
	r.stored[d.Digest] = d.Size
	r.link(d.Digest)
	r.bytes += n
	r.wrote("blob " + string(r.remote[r.name].content[d.Digest]))
	return n, nil
}

func (r fakeRepo) StoreManifest(_ context.Context, m cache.Manifest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var doc v1.Manifest
	if err := json.Unmarshal(m.Bytes, &doc); err != nil {
		return err
	}
	for _, b := range append(doc.Layers, doc.Config) {
		if b.Digest != "" && len(b.URLs) == 0 && !r.has(b.Digest) {
			r.t.Errorf("a manifest is stored before its blob %s", b.Digest)
		}
	}
	r.mustBeHeld(m.Digest)
	r.stored[m.Digest] = m.Size
	r.link(m.Digest)
	r.wrote("manifest " + m.Digest.String())
	return nil
}

func (r fakeRepo) StoredTag(_ context.Context, tag string) (digest.Digest, time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tags[r.name+":"+tag], r.at[r.name+":"+tag], nil
}

func (r fakeRepo) PointTag(_ context.Context, tag string, dgst digest.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.has(dgst) {
		return errors.New("the tag would stand for nothing")
	}
	r.mustBeHeld(dgst)
	r.tags[r.name+":"+tag], r.at[r.name+":"+tag] = dgst, time.Now()
	r.wrote("tag " + tag)
	return nil
}

func (r fakeRepo) Tags(ctx context.Context, n int, last string) (list cache.TagList, _ error) {
	if err := r.ask(ctx, "tags "+r.name); err != nil {
		return list, err
	}
	list.Stale = r.stale
	for _, tag := range slices.Sorted(maps.Keys(r.repo(r.name).tags)) {
		if tag <= last {
			continue
		}
		if r.page > 0 && len(list.Tags) == r.page {
			list.More = true
			break
		}
		list.Tags = append(list.Tags, tag)
	}
	return list, nil
}

func (r fakeRepo) Referrers(ctx context.Context, dgst digest.Digest) (list cache.Referrers, _ error) {
	if err := r.ask(ctx, "referrers "+r.name+" "+dgst.String()); err != nil {
		return list, err
	}
	list.Manifests = r.remote[r.name].referrers[dgst]
	list.Stale = r.stale
	return list, nil
}
