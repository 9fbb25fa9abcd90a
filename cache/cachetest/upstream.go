package cachetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// Upstream is a remote registry in memory that counts what it is asked. The zero
// value is empty and answers that nothing exists. Its fields are set before use.
type Upstream struct {
	// Name is its host; default "upstream.test".
	Name string
	// Body, if set, replaces the body of each blob that is opened.
	Body func(dgst digest.Digest, content []byte) io.ReadCloser
	// Answer, if set, is called with each answer to Blob, which it may change or
	// replace by an error. N counts them, from 1 on.
	Answer func(n int, part cache.BlobPart, s *cache.BlobStream) error
	// HideSize makes blobs come without their size.
	HideSize bool
	// Asked, if set, is called with each request before it is answered. It may wait.
	Asked func(ctx context.Context, op string)
	// NoParts makes it give the whole blob where a part is asked for.
	NoParts bool

	mu        sync.Mutex
	away      error
	due       bool
	err       error
	failing   map[string]error          // by op
	manifests map[string]cache.Manifest // repo + "@" + tag or digest
	blobs     map[string][]byte         // repo + "@" + digest
	tags      map[string][]string
	calls     map[string]int
	parts     []cache.BlobPart
	sent      int64
}

var (
	_ cache.Upstream     = (*Upstream)(nil)
	_ cache.Availability = (*Upstream)(nil)
)

// Away implements cache.Availability: what SetAway was given.
func (u *Upstream) Away() (why error, due bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.away, u.due
}

// Why implements cache.Availability.
func (u *Upstream) Why() error {
	why, _ := u.Away()
	return why
}

// SetAway makes it tell that it is away because of why, and whether it is time to find
// out whether it still is; nil ends that.
func (u *Upstream) SetAway(why error, due bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away, u.due = why, due
}

// AddBlob makes content a blob of repo.
func (u *Upstream) AddBlob(repo string, content []byte) digest.Digest {
	dgst := digest.FromBytes(content)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.blobs == nil {
		u.blobs = make(map[string][]byte)
	}
	u.blobs[repo+"@"+dgst.String()] = content
	return dgst
}

// Replace makes content, which is wrong, the answer for the blob dgst of repo.
func (u *Upstream) Replace(repo string, dgst digest.Digest, content []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.blobs[repo+"@"+dgst.String()] = content
}

// AddManifest makes content a manifest of repo, and tag, unless empty, point to
// it.
func (u *Upstream) AddManifest(repo, tag, mediaType string, content []byte) digest.Digest {
	m := cache.Manifest{
		Descriptor: cache.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))},
		Bytes:      content,
	}
	u.SetManifest(repo, m.Digest.String(), m)
	if tag != "" {
		u.SetManifest(repo, tag, m)
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.tags == nil {
			u.tags = make(map[string][]string)
		}
		if !slices.Contains(u.tags[repo], tag) {
			u.tags[repo] = append(u.tags[repo], tag)
		}
	}
	return m.Digest
}

// SetManifest makes m, which may be wrong, the answer for ref, a tag or digest.
func (u *Upstream) SetManifest(repo, ref string, m cache.Manifest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.manifests == nil {
		u.manifests = make(map[string]cache.Manifest)
	}
	u.manifests[repo+"@"+ref] = m
}

// RemoveTag makes tag unknown.
func (u *Upstream) RemoveTag(repo, tag string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.manifests, repo+"@"+tag)
	u.tags[repo] = slices.DeleteFunc(u.tags[repo], func(t string) bool { return t == tag })
}

// RemoveRepo makes all manifests and tags of repo unknown.
func (u *Upstream) RemoveRepo(repo string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.tags, repo)
	maps.DeleteFunc(u.manifests, func(at string, _ cache.Manifest) bool { return strings.HasPrefix(at, repo+"@") })
}

// Fail makes each request fail with err; nil ends that.
func (u *Upstream) Fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// FailOp makes each request of one kind, see Calls, fail with err; nil ends that.
func (u *Upstream) FailOp(op string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failing == nil {
		u.failing = make(map[string]error)
	}
	u.failing[op] = err
}

// Calls returns how often op ("manifest", "resolve", "blob", "stat", "tags",
// "referrers") was
// called, or all of them together where op is empty.
func (u *Upstream) Calls(op string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if op != "" {
		return u.calls[op]
	}
	all := 0
	for _, n := range u.calls {
		all += n
	}
	return all
}

// begin locks u for the answer to a request.
func (u *Upstream) begin(ctx context.Context, op string) {
	if u.Asked != nil {
		u.Asked(ctx, op)
	}
	u.mu.Lock()
}

func (u *Upstream) call(op string) error {
	if u.calls == nil {
		u.calls = make(map[string]int)
	}
	u.calls[op]++
	return cmp.Or(u.failing[op], u.err)
}

// Host implements cache.Upstream.
func (u *Upstream) Host() string { return cmp.Or(u.Name, "upstream.test") }

// Manifest implements cache.Upstream.
func (u *Upstream) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	u.begin(ctx, "manifest")
	defer u.mu.Unlock()
	if err := u.call("manifest"); err != nil {
		return cache.Manifest{}, err
	}
	m, ok := u.manifests[repo+"@"+ref]
	if !ok {
		return cache.Manifest{}, fmt.Errorf("manifest %s of %s: %w", ref, repo, cache.ErrNotFound)
	}
	return m, nil
}

// Resolve implements cache.Upstream.
func (u *Upstream) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	u.begin(ctx, "resolve")
	defer u.mu.Unlock()
	if err := u.call("resolve"); err != nil {
		return cache.Descriptor{}, err
	}
	m, ok := u.manifests[repo+"@"+ref]
	if !ok {
		return cache.Descriptor{}, fmt.Errorf("manifest %s of %s: %w", ref, repo, cache.ErrNotFound)
	}
	return m.Descriptor, nil
}

// Blob implements cache.Upstream.
func (u *Upstream) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	u.begin(ctx, "blob")
	defer u.mu.Unlock()
	if err := u.call("blob"); err != nil {
		return nil, err
	}
	content, ok := u.blobs[repo+"@"+dgst.String()]
	if !ok {
		return nil, fmt.Errorf("blob %s of %s: %w", dgst, repo, cache.ErrNotFound)
	}
	s := &cache.BlobStream{Size: int64(len(content))}
	sent := content
	if !u.NoParts && part != (cache.BlobPart{}) {
		s.Offset, s.Part = part.Offset, true
		if sent = content[part.Offset:]; part.Length > 0 {
			sent = sent[:min(part.Length, int64(len(sent)))]
		}
	}
	s.Length = int64(len(sent))
	s.Body = io.NopCloser(bytes.NewReader(sent))
	if u.Body != nil {
		s.Body = u.Body(dgst, sent)
	}
	if u.HideSize {
		s.Size, s.Length = -1, -1
	}
	u.parts = append(u.parts, part)
	if u.Answer != nil {
		if err := u.Answer(len(u.parts), part, s); err != nil {
			return nil, err
		}
	}
	s.Body = sentBody{s.Body, u}
	return s, nil
}

// sentBody counts what is read.
type sentBody struct {
	io.ReadCloser
	u *Upstream
}

func (b sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.u.mu.Lock()
	defer b.u.mu.Unlock()
	b.u.sent += int64(n)
	return n, err
}

// Sent returns how many bytes of blobs were read.
func (u *Upstream) Sent() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent
}

// Parts returns which parts of blobs were asked for.
func (u *Upstream) Parts() []cache.BlobPart {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.parts)
}

// StatBlob implements cache.Upstream.
func (u *Upstream) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	u.begin(ctx, "stat")
	defer u.mu.Unlock()
	if err := u.call("stat"); err != nil {
		return 0, err
	}
	content, ok := u.blobs[repo+"@"+dgst.String()]
	if !ok {
		return 0, fmt.Errorf("blob %s of %s: %w", dgst, repo, cache.ErrNotFound)
	}
	return int64(len(content)), nil
}

// Tags implements cache.Upstream. It gives at most two tags at a time.
func (u *Upstream) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	u.begin(ctx, "tags")
	defer u.mu.Unlock()
	if err := u.call("tags"); err != nil {
		return nil, false, err
	}
	all, ok := u.tags[repo]
	if !ok {
		return nil, false, fmt.Errorf("repository %s: %w", repo, cache.ErrNotFound)
	}
	after := slices.DeleteFunc(slices.Sorted(slices.Values(all)), func(t string) bool { return t <= last })
	page := 2
	if n > 0 {
		page = min(page, n)
	}
	if len(after) > page {
		return after[:page], true, nil
	}
	return after, false, nil
}

// Referrers implements cache.Upstream: what AddManifest was given.
func (u *Upstream) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	u.begin(ctx, "referrers")
	defer u.mu.Unlock()
	if err := u.call("referrers"); err != nil {
		return nil, err
	}
	all := []v1.Descriptor{}
	for _, at := range slices.Sorted(maps.Keys(u.manifests)) {
		m := u.manifests[at]
		var doc v1.Manifest
		if at != repo+"@"+m.Digest.String() || json.Unmarshal(m.Bytes, &doc) != nil || doc.Subject == nil || doc.Subject.Digest != dgst {
			continue
		}
		all = append(all, v1.Descriptor{
			MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes)),
			ArtifactType: cmp.Or(doc.ArtifactType, doc.Config.MediaType), Annotations: doc.Annotations,
		})
	}
	return all, nil
}

// Feed is the body of a blob that a test lets through byte by byte.
type Feed struct {
	r *io.PipeReader
	w *io.PipeWriter
}

// NewFeed returns a body from which nothing can be read yet.
func NewFeed() *Feed {
	r, w := io.Pipe()
	return &Feed{r, w}
}

// Send lets p through, and returns when it has been read.
func (f *Feed) Send(p []byte) error {
	_, err := f.w.Write(p)
	return err
}

// End ends the body: well where err is nil.
func (f *Feed) End(err error) { _ = f.w.CloseWithError(err) } // never fails

// Read implements io.Reader.
func (f *Feed) Read(p []byte) (int, error) { return f.r.Read(p) }

// Close implements io.Closer.
func (f *Feed) Close() error { return f.r.Close() }
