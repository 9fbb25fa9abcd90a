package auth

import (
	"context"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// forGood is the lifetime of what is asked for once.
const forGood time.Duration = -1

// pause is for how long what has failed to help is not asked for again: a program
// that has no credentials, or that has answered a rejection of its credentials
// with the same ones. Otherwise each request of each client would run it.
const pause = 30 * time.Second

// reused are credentials that are dear to get: they are asked for once for all who
// want them at the same time, and used for a while. Errors are not kept.
type reused struct {
	lifetime time.Duration // 0 is not at all
	fetch    func(context.Context) (authn.AuthConfig, error)
	now      func() time.Time

	mu sync.Mutex
	// config is what was got the last time; until says when it is no longer used,
	// and is of no meaning where it is good for ever.
	config  authn.AuthConfig
	until   time.Time
	good    bool // config may be used
	forever bool
	flight  *flight // nil where nobody waits
	// rejected is what the remote has rejected last, with the time when that was
	// got again nevertheless.
	rejected  authn.AuthConfig
	unchanged time.Time
}

// flight is one call of fetch for all who wait for it. It is canceled when the
// last of them has left.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // guarded by reused.mu
	// config and err are set before done is closed.
	config authn.AuthConfig
	err    error
}

func newReused(lifetime time.Duration, fetch func(context.Context) (authn.AuthConfig, error)) *reused {
	return &reused{lifetime: lifetime, fetch: fetch, now: time.Now}
}

func (r *reused) get(ctx context.Context) (authn.AuthConfig, error) {
	r.mu.Lock()
	if r.good && (r.forever || r.now().Before(r.until)) {
		defer r.mu.Unlock()
		return r.config, nil
	}
	f := r.flight
	if f == nil {
		f = r.start(ctx)
	}
	f.waiting++
	r.mu.Unlock()

	select {
	case <-f.done:
		return f.config, f.err
	case <-ctx.Done():
		r.leave(f)
		return authn.AuthConfig{}, ctx.Err()
	}
}

// start begins a flight. The caller holds r.mu.
func (r *reused) start(ctx context.Context) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{done: make(chan struct{}), cancel: cancel}
	r.flight = f
	go func() {
		defer cancel()
		f.config, f.err = r.fetch(ctx)
		r.land(f)
		close(f.done)
	}()
	return f
}

// land keeps what has come of f, unless nobody has waited for it.
func (r *reused) land(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != f {
		return
	}
	r.flight = nil
	if f.err != nil {
		return
	}
	now := r.now()
	none := f.config == authn.AuthConfig{}
	r.config = f.config
	r.good = r.lifetime != 0
	r.forever = r.lifetime == forGood && !none
	r.until = now.Add(r.lifetime)
	if none && (r.lifetime == forGood || r.lifetime > pause) {
		r.until = now.Add(pause)
	}
	if r.config == r.rejected {
		r.unchanged = now
	} else {
		r.rejected, r.unchanged = authn.AuthConfig{}, time.Time{}
	}
}

func (r *reused) leave(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	if r.flight == f {
		r.flight = nil // who comes now must not get the outcome of a canceled one
	}
}

// stale is never: there is an end to what is used again.
func (*reused) stale() error { return nil }

func (r *reused) renew(rejected authn.AuthConfig) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config != rejected {
		return true // somebody else has been here before
	}
	if r.rejected == rejected && !r.unchanged.IsZero() && r.now().Sub(r.unchanged) < pause {
		return false
	}
	r.rejected, r.unchanged = rejected, time.Time{}
	r.good = false
	return true
}
