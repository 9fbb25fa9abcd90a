// Package throttled bounds how many bytes a second come from a remote registry,
// as a decorator of any [cache.Upstream].
//
// It promises that blobs come no faster than each of its limiters allows, that
// those who read at the same time share what there is, and to change nothing else
// about what passes. Manifests and small blobs do not wait, since clients wait for
// them and they are little: what they take is missing for the others afterwards.
// Headers, and answers without content, are not counted.
//
// It trusts the decorated Upstream with lengths in no more than that: what is
// longer than it is said to be waits like others. It imports, of this module, only
// cache.
package throttled

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"registry-module/cache"
)

// smallBlob is the length in bytes up to which a blob, or a part of one, does not
// wait: configurations of images are below it, and so is what a client gets only
// in one go.
const smallBlob = 64 << 10

// A Read brings what comes in a 50th of a second, so that the link is used evenly,
// and within these bounds in bytes: less is many wake-ups for nothing, more is
// seldom read at once.
const (
	readsPerSecond = 50
	minBurst       = 4 << 10
	maxBurst       = 64 << 10
)

// Limiter is a limit that can be changed, also while bytes come. The zero value is no
// limit. It is safe for use by several goroutines.
type Limiter struct {
	now atomic.Pointer[rate.Limiter] // nil: no limit
}

// NewLimiter returns a limiter of so many bytes a second, for [New]; there is no limit
// where bytesPerSecond is not above 0.
func NewLimiter(bytesPerSecond int64) *Limiter {
	l := new(Limiter)
	l.Set(bytesPerSecond)
	return l
}

// Set changes the limit. What has come before does not count for the new one.
func (l *Limiter) Set(bytesPerSecond int64) {
	old := l.now.Load()
	switch {
	case bytesPerSecond <= 0:
		l.now.Store(nil)
	case old == nil || old.Limit() != rate.Limit(bytesPerSecond):
		burst := min(max(bytesPerSecond/readsPerSecond, minBurst), maxBurst)
		l.now.Store(rate.NewLimiter(rate.Limit(bytesPerSecond), int(burst)))
	}
}

// New returns up, within what all of limiters allow; nil ones are no limit. A
// limiter that others have too is a limit for all of them together.
func New(up cache.Upstream, limiters ...*Limiter) cache.Upstream {
	limits := slices.DeleteFunc(slices.Clone(limiters), func(l *Limiter) bool { return l == nil })
	if len(limits) == 0 {
		return up
	}
	return &throttled{Upstream: up, limits: limits}
}

// throttled is a remote registry with limits. What it does not have itself has no
// content that counts.
type throttled struct {
	cache.Upstream
	limits []*Limiter
}

// burst is how many bytes one Read brings at most: the least burst of all limits, or n
// where there is none.
func (t *throttled) burst(n int) int {
	for _, l := range t.limits {
		if now := l.now.Load(); now != nil {
			n = min(n, now.Burst())
		}
	}
	return n
}

// take takes n bytes from all limiters, and returns how long to wait for them.
func (t *throttled) take(n int) time.Duration {
	now := time.Now()
	var wait time.Duration
	for _, l := range t.limits {
		limit := l.now.Load()
		for left := n; limit != nil && left > 0; left -= limit.Burst() {
			wait = max(wait, limit.ReserveN(now, min(left, limit.Burst())).DelayFrom(now))
		}
	}
	return wait
}

// Manifest implements cache.Upstream.
func (t *throttled) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	m, err := t.Upstream.Manifest(ctx, repo, ref)
	t.take(len(m.Bytes))
	return m, err
}

// Blob implements cache.Upstream.
func (t *throttled) Blob(ctx context.Context, repo string, dgst digest.Digest, part cache.BlobPart) (*cache.BlobStream, error) {
	s, err := t.Upstream.Blob(ctx, repo, dgst, part)
	if err != nil {
		return nil, err
	}
	b := &body{rc: s.Body, from: t, ctx: ctx, closed: make(chan struct{})}
	if isSmall(s.Length) || isSmall(s.Size) {
		b.ahead = smallBlob
	}
	slow := *s
	slow.Body = b
	return &slow, nil
}

// isSmall tells whether a length, which is -1 where it is not known, is small.
func isSmall(length int64) bool { return 0 <= length && length <= smallBlob }

// body is the body of a blob. It waits for bytes after it has read them: then it
// is known how many they are.
type body struct {
	rc   io.ReadCloser
	from *throttled
	// ctx is that of the call of Blob, with which its stream ends.
	ctx context.Context
	// ahead is how many more bytes do not wait.
	ahead int

	close  sync.Once
	closed chan struct{}
}

// Read implements io.Reader. Bytes that were read are returned also where the wait
// for them was broken off.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p[:b.from.burst(len(p))])
	wait := b.from.take(n)
	if b.ahead >= n {
		b.ahead -= n
		return n, err
	}
	if broken := b.wait(wait); err == nil {
		err = broken
	}
	return n, err
}

func (b *body) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-b.ctx.Done():
		return fmt.Errorf("waiting for bandwidth: %w", b.ctx.Err())
	case <-b.closed:
		return fs.ErrClosed
	}
}

// Close implements io.Closer. It ends a Read that is going on.
func (b *body) Close() error {
	b.close.Do(func() { close(b.closed) })
	return b.rc.Close()
}
