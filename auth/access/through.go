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
	// maxChecks is how many callers remotes are asked about at a time: strangers, and as
	// many of those whom a remote has let in before.
	maxChecks = 16
)

// check asks a remote about a credential, for all who have come with it. Begun is told when
// it does.
func (g *Gate) check(ctx context.Context, begun func(), by PassThrough, ask Ask, at pair, user, password, address string) error {
	room := g.checks
	if g.verdicts.has(at.id) {
		room = g.again
		// Who is let in meanwhile does not keep it from being found out by leaving.
		begun()
	}
	if err := room.take(ctx); err != nil {
		return err
	}
	defer room.give()
	begun()
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
			g.work.Go(func() { g.saved.admitted(at.place, at.id, user, password, before) })
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
	if (errors.Is(err, cache.ErrNotFound) || errors.Is(err, cache.ErrInvalid)) && !ask.lists() {
		// It may be a refusal, and it may be that there is no such thing, or that the
		// remote does not understand what the caller has asked for: which is not for
		// callers to choose. Some do not let everybody list tags who may pull.
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
	at := pair{id, place{ask.Host, ask.Repo, ask.lists()}}
	start := g.now()
	s := g.verdicts.look(at, start, by)
	if s.fresh || s.grace && s.paused {
		return nil
	}
	ctx, address := r.Context(), addressOf(r)
	try, err := g.brake.enter(keyOf(user, address), at, g.verdicts.has(id))
	if err != nil {
		return err
	}
	defer try.leave()
	if s.bad != nil {
		try.looked()
		return g.refused(ctx, start, &failure{s.bad, g.brake.fail(user, address)})
	}
	before := g.saved.lookUp(ctx, id, user, password)
	if before != nil {
		defer g.saved.flights.leave(id, before)
	}
	f := g.asking.join(ctx, g.work, at, start, func(ctx context.Context, detach func()) error {
		return g.check(ctx, detach, by, ask, at, user, password, address)
	})
	defer g.asking.leave(at, f)

	timer := time.NewTimer(max(patience-start.Sub(f.started), 0))
	defer timer.Stop()
	select {
	case <-f.done:
		try.looked()
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
		try.looked()
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
