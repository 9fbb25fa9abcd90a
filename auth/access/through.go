package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"registry-module/cache"
)

const (
	// patience is how long a remote is waited for by who was let in before.
	patience = 1500 * time.Millisecond
	// checkTimeout bounds how long a remote is asked about a caller. What it does is a few
	// small requests.
	checkTimeout = time.Minute
	// maxChecks is how many callers remotes are asked about at a time.
	maxChecks = 16
)

// check asks a remote about a credential, for all who have come with it. Begun is told when
// it does.
func (g *Gate) check(ctx context.Context, begun func(), by PassThrough, ask Ask, id credential, user, password, address string) error {
	if err := g.checks.take(ctx); err != nil {
		return err
	}
	defer g.checks.give()
	begun()
	at := pair{id, place{ask.Host, ask.Repo}}
	// Whoever waits: the next one who comes has use for what comes of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	defer context.AfterFunc(g.work.life, cancel)()
	remember, err := ruling(ctx, by.Checker, ask, user, password)
	now := g.now()
	switch {
	case err == nil:
		g.brake.succeed(keyOf(user, address))
		if before, ok := g.verdicts.admit(at, now, time.Time{}); ok {
			g.work.Go(func() { g.saved.admitted(at.place, id, user, password, before) })
		}
		return nil
	case !isRefusal(err):
		g.verdicts.absent(at, now)
		return err
	}
	if remember && g.verdicts.refuse(at, now, err) {
		g.saved.schedule(soon)
	}
	return &failure{err, g.brake.fail(user, address)}
}

// ruling is what a remote says about a caller: nil, a refusal, or that it could not be
// asked. Remember tells that the same can be expected of all that is in the repository.
func ruling(ctx context.Context, by Checker, ask Ask, user, password string) (remember bool, err error) {
	err = by.Check(ctx, ask.Repo, ask.Kind, ask.Reference, user, password)
	vague := false
	if errors.Is(err, cache.ErrNotFound) && ask.Kind != "" && ask.Kind != "tags" {
		// It may be a refusal, and it may be that there is no such thing. Some do not
		// let everybody list tags who may pull.
		err = by.Check(ctx, ask.Repo, "tags", "", user, password)
		vague = errors.Is(err, cache.ErrDenied)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, cache.ErrNotFound):
		return true, ErrDenied
	case !errors.Is(err, cache.ErrDenied):
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if e, ok := errors.AsType[*cache.UpstreamError](err); ok && e.Status == http.StatusUnauthorized {
		return !vague, errRefused
	}
	return !vague, ErrDenied
}

// isRefusal tells whether an error of ruling is one.
func isRefusal(err error) bool { return errors.Is(err, errRefused) || errors.Is(err, ErrDenied) }

// through lets a caller in where the remote does so that it asks for.
func (g *Gate) through(r *http.Request, by PassThrough, ask Ask, user, password string) error {
	id := g.ids.of(user, password)
	at := pair{id, place{ask.Host, ask.Repo}}
	start := g.now()
	s := g.verdicts.look(at, start, by)
	if s.fresh || s.grace && s.paused {
		return nil
	}
	ctx, address := r.Context(), addressOf(r)
	leave, err := g.brake.enter(keyOf(user, address), s.grace || g.asking.going(at))
	if err != nil {
		return err
	}
	defer leave()
	if s.bad != nil {
		return g.refused(ctx, start, &failure{s.bad, g.brake.fail(user, address)})
	}
	before := g.saved.lookUp(ctx, id, user, password)
	if before != nil {
		defer g.saved.flights.leave(id, before)
	}
	f := g.asking.join(ctx, g.work, at, start, func(ctx context.Context, detach func()) error {
		return g.check(ctx, detach, by, ask, id, user, password, address)
	})
	defer g.asking.leave(at, f)

	timer := time.NewTimer(max(patience-start.Sub(f.started), 0))
	defer timer.Stop()
	select {
	case <-f.done:
		return g.asked(ctx, f, before, at, by, start)
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if g.vouched(ctx, f, before, at, by) {
		return nil
	}
	select {
	case <-f.done:
		return g.asked(ctx, f, before, at, by, start)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asked is what a flight has brought.
func (g *Gate) asked(ctx context.Context, f, before *flight, at pair, by PassThrough, start time.Time) error {
	if f.err == nil {
		return nil
	}
	if failed, ok := errors.AsType[*failure](f.err); ok {
		return g.refused(ctx, start, failed)
	}
	if g.vouched(ctx, nil, before, at, by) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return f.err
}

// refused holds the answer of a failure.
func (g *Gate) refused(ctx context.Context, start time.Time, failed *failure) error {
	err := failed.err
	if errors.Is(err, errRefused) {
		err = &challenge{g.realm, err}
	}
	return g.brake.hold(ctx, start, failed.delay, err)
}

// vouched tells whether there is a verdict that holds while the remote cannot be asked. It
// waits until that of an earlier process has been looked for, unless f brings another one.
func (g *Gate) vouched(ctx context.Context, f, before *flight, at pair, by PassThrough) bool {
	if before != nil {
		var done chan struct{}
		if f != nil {
			done = f.done
		}
		select {
		case <-before.done:
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
	return g.verdicts.look(at, g.now(), by).grace
}
