// Package patient leaves a remote registry alone for as long as it asks for, as a
// decorator of any [cache.Upstream].
//
// It promises that nothing is asked of a remote that has answered with a
// Retry-After, for requests in general or because it is down, before that time is
// over: what is asked meanwhile fails at once, with an error of the same kind. It
// changes nothing else about what passes, and knows nothing of repositories: a
// limit is one of the address or the account.
//
// It trusts the decorated Upstream with how long it asks to wait, up to an hour, or
// five minutes where it is down. It imports, of this module, only cache.
package patient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// One answer keeps us from asking for no longer than this: what comes after it can
// only be found out by asking, and what limits us need not be the remote, but may
// stand between.
const (
	maxLimited = time.Hour       // where we have asked for too much
	maxDown    = 5 * time.Minute // where the remote is down
)

// Options are optional; the zero value works.
type Options struct {
	// Log gets a line when it begins that nothing is asked. Default: nothing is
	// logged.
	Log logrus.FieldLogger
	// Now is the clock. Default: time.Now, whose times are not moved when the
	// clock of the machine is set.
	Now func() time.Time
}

// Upstream is a remote registry that is left alone when it asks for that. It is
// safe for use by several goroutines.
type Upstream struct {
	up  cache.Upstream
	log logrus.FieldLogger
	now func() time.Time

	mu sync.Mutex
	// until is when the remote can be asked again.
	until time.Time
	// cause is the error that until is from. It is nil before the first.
	cause *cache.UpstreamError
}

var _ cache.Upstream = (*Upstream)(nil)

// New returns up, with patience.
func New(up cache.Upstream, opts Options) *Upstream {
	p := &Upstream{up: up, log: opts.Log, now: opts.Now}
	if p.now == nil {
		p.now = time.Now
	}
	return p
}

// held returns an error where the remote is not to be asked now. op says, with
// args, what would have been done.
func (p *Upstream) held(op string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.left()
	if left <= 0 {
		return nil
	}
	return &cache.UpstreamError{
		Kind: p.cause.Kind, Remote: p.cause.Remote, Status: p.cause.Status,
		Op:         fmt.Sprintf(op, args...),
		RetryAfter: left,
		Err:        fmt.Errorf("not asked, because the remote wants to be left alone for another %v", seconds(left)),
	}
}

// left returns for how long the remote is not to be asked. It is called with p.mu
// held.
func (p *Upstream) left() time.Duration {
	if p.cause == nil {
		return 0
	}
	return p.until.Sub(p.now())
}

// heed returns err, and takes notice of what it says about other requests.
func (p *Upstream) heed(err error) error {
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok || e.RetryAfter <= 0 || !errors.Is(e.Kind, cache.ErrRateLimited) && !errors.Is(e.Kind, cache.ErrUnavailable) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	most := maxDown
	if errors.Is(e.Kind, cache.ErrRateLimited) {
		most = maxLimited
	}
	wait, left := min(e.RetryAfter, most), p.left()
	if wait <= left {
		return err // of a request that was under way
	}
	p.until, p.cause = p.now().Add(wait), e
	if left <= 0 && p.log != nil {
		p.log.WithError(err).Warnf("nothing is asked of %s for %v: it wants to be left alone", e.Remote, seconds(wait))
	}
	return err
}

// seconds rounds a duration up, so that nobody is told to come too early.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// Host implements cache.Upstream.
func (p *Upstream) Host() string { return p.up.Host() }

// Manifest implements cache.Upstream.
func (p *Upstream) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	if err := p.held("fetching manifest %s of %s", ref, repo); err != nil {
		return cache.Manifest{}, err
	}
	m, err := p.up.Manifest(ctx, repo, ref)
	return m, p.heed(err)
}

// Resolve implements cache.Upstream.
func (p *Upstream) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	if err := p.held("asking for manifest %s of %s", ref, repo); err != nil {
		return cache.Descriptor{}, err
	}
	d, err := p.up.Resolve(ctx, repo, ref, known)
	return d, p.heed(err)
}

// Blob implements cache.Upstream.
func (p *Upstream) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	if err := p.held("asking for blob %s of %s", dgst, repo); err != nil {
		return nil, err
	}
	s, err := p.up.Blob(ctx, repo, dgst, part)
	return s, p.heed(err)
}

// StatBlob implements cache.Upstream.
func (p *Upstream) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error) {
	if err := p.held("asking for blob %s of %s", dgst, repo); err != nil {
		return 0, err
	}
	size, err := p.up.StatBlob(ctx, repo, dgst)
	return size, p.heed(err)
}

// Tags implements cache.Upstream.
func (p *Upstream) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	if err := p.held("listing tags of %s", repo); err != nil {
		return nil, false, err
	}
	tags, more, err := p.up.Tags(ctx, repo, n, last)
	return tags, more, p.heed(err)
}

// Referrers implements cache.Upstream.
func (p *Upstream) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	if err := p.held("listing referrers of %s in %s", dgst, repo); err != nil {
		return nil, err
	}
	all, err := p.up.Referrers(ctx, repo, dgst)
	return all, p.heed(err)
}
