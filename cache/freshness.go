package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// How the remote is asked about what is stored.
const (
	// stalePatience is how long a client waits for the remote when a stored
	// answer is at hand: longer than it takes until a remote that does not answer
	// counts as away, so that who comes next does not wait at all.
	stalePatience = 1500 * time.Millisecond
	// unconfirmedFor is how long the remote is not asked again about an answer that
	// it has failed to confirm, while it answers others. It doubles with each time, up
	// to maxUnconfirmed.
	unconfirmedFor = 10 * time.Second
	maxUnconfirmed = time.Minute
)

// Freshness tells how far an answer can be relied on that may have changed.
type Freshness struct {
	// Confirmed is when the remote has last said so; zero where that is not known.
	Confirmed time.Time
	// Until is when its lifetime is over, which is in the past for an answer that is
	// stale; zero where it has none, or is not known.
	Until time.Time
	// Stale is why it was not asked again, or in vain, though the lifetime of the
	// answer is over. It is nil for an answer that is fresh.
	Stale error
}

// stored is an answer that is stored and can change at the remote.
type stored struct {
	// kind and name say of the index what it is.
	kind, name string
	// tag is under whose policy it is: that of a tag itself, or of the tag that
	// would stand for it.
	tag string
	// validated is when the remote has last confirmed it, in Unix nanoseconds; 0
	// is never.
	validated int64
	// asked is when that was heard, where it was from a remote that is a cache itself;
	// 0 is then.
	asked int64
	// old tells that such a remote could not have it confirmed either.
	old bool
	// due tells that the remote is to be asked, whatever the lifetime.
	due bool
}

// what says to people what it is.
func (s stored) what() string {
	if s.kind == kindReferrers {
		return "the list of referrers of " + s.name
	}
	return "tag " + s.name
}

// next is what is to be done before a stored answer is given.
type next int

const (
	answer next = iota
	answerAndAsk
	ask
)

// judge decides whether s is given as it is, given while the remote is asked, or
// given only when the remote has been asked.
func (r *Repository) judge(s stored) (Freshness, next, error) { return r.judgeBy(s, r.away) }

// judgeBy is judge by what away says of the remote.
func (r *Repository) judgeBy(s stored, away func() (why error, due bool)) (Freshness, next, error) {
	f := s.freshness()
	if r.remote.Upstream == nil {
		return f, answer, nil
	}
	ttl, immutable := r.policy(s)
	if !immutable {
		f.Until = s.until(ttl)
	}
	if !r.force && !s.due && (immutable || r.within(s, ttl)) && !(s.old && r.tooStale(s)) {
		if s.old {
			f.Stale = r.notConfirmed()
		}
		return f, answer, nil
	}
	recalled, known := r.recall(r.memoryKey(s.kind, s.name))
	known = known && !r.force
	switch {
	case known && definite(recalled): // it is being forgotten
		return f, answer, recalled
	case r.tooStale(s): // it cannot be given without asking, and so loses nothing by that
		return f, ask, nil
	}
	if why, due := away(); why != nil {
		f.Stale = why
		if due || r.force {
			return f, answerAndAsk, nil
		}
		return f, answer, nil
	}
	if known {
		f.Stale = recalled
		return f, answer, nil
	}
	if revalidate := min(r.remote.StaleWhileRevalidate, ttl); !r.force && !s.due && r.within(s, ttl+revalidate) {
		f.Stale = ErrRevalidating
		return f, answerAndAsk, nil
	}
	return f, ask, nil
}

// notConfirmed is why an answer is stale that is that of a cache.
func (r *Repository) notConfirmed() error {
	return fmt.Errorf("%s could not have it confirmed", r.remote.Host)
}

// policy returns for how long s is answered without asking the remote. Immutable is for
// ever; lists are not, whatever is said of tags.
func (r *Repository) policy(s stored) (ttl time.Duration, immutable bool) {
	p, ok := r.remote.TagRules.Find(r.name, s.tag)
	if !ok || p.Immutable && s.kind != kindTag {
		return r.remote.TagTTL, false
	}
	return p.TTL, p.Immutable
}

// freshness is that of an answer that nothing is said against.
func (s stored) freshness() (f Freshness) {
	if s.validated != 0 {
		f.Confirmed = time.Unix(0, s.validated)
	}
	return f
}

// until is when the lifetime of s is over; zero where it was never confirmed.
func (s stored) until(ttl time.Duration) (until time.Time) {
	if asked := cmp.Or(s.asked, s.validated); asked != 0 {
		until = time.Unix(0, asked).Add(ttl)
	}
	return until
}

// freshUntil tells until when a tag is answered without asking the remote, zero where
// that is for ever or over, and whether it is over. A remote of which nothing is
// configured is never asked.
func (r *Repository) freshUntil(tag string, rec tagRecord) (until time.Time, stale bool) {
	s := r.asStored(tag, rec)
	ttl, immutable := r.policy(s)
	mirrored := r.remote.Upstream == nil && r.remote.TagTTL == 0 && len(r.remote.TagRules) == 0
	switch {
	case immutable || mirrored:
		return time.Time{}, false
	case !r.within(s, ttl):
		return time.Time{}, true
	}
	return s.until(ttl).UTC(), false
}

// within tells whether the remote was asked about s no longer than d ago. A time from the
// future is none: gateways without a battery-backed clock wake up in the past.
func (r *Repository) within(s stored, d time.Duration) bool {
	asked := cmp.Or(s.asked, s.validated)
	age := r.c.opts.Now().Sub(time.Unix(0, asked))
	return asked != 0 && age >= 0 && age < d
}

// stale is the freshness of s where the remote could not be asked because of why. It
// is an error where s is too old to be given without.
func (r *Repository) stale(s stored, why error) (Freshness, error) {
	f := s.freshness()
	if ttl, immutable := r.policy(s); !immutable {
		f.Until = s.until(ttl)
	}
	if r.tooStale(s) {
		return f, &staleError{
			what: fmt.Sprintf("%s in %s", s.what(), r.name), remote: r.remote.Host,
			confirmed: f.Confirmed, most: max(r.remote.MaxStale, 0), err: why,
		}
	}
	f.Stale = why
	return f, nil
}

// tooStale tells whether s must not be given without asking the remote. What was
// confirmed in the future, by a clock that was wrong then or is wrong now, is given
// the benefit of the doubt; what was never confirmed is not.
func (r *Repository) tooStale(s stored) bool {
	switch most := r.remote.MaxStale; {
	case most == 0:
		return false
	case most < 0 || s.validated == 0:
		return true
	default:
		return r.c.opts.Now().Sub(time.Unix(0, s.validated)) > most
	}
}

// current gives what is stored, or what the remote says. Give makes an answer of what is
// stored; question finds out what the remote says, once at a time for all.
func current[T any](ctx context.Context, r *Repository, s stored, give func(Freshness) (T, error), question func(context.Context) (T, error)) (T, error) {
	var none T
	giveStored := func(f Freshness) (T, error) {
		r.toldStored(ctx, f)
		return give(f)
	}
	f, next, err := r.judge(s)
	if err != nil {
		return none, err
	}
	if next == answerAndAsk {
		later(ctx, r, s.kind, s.name, question)
	}
	if next != ask {
		return giveStored(f)
	}
	if r.tooStale(s) {
		got, err := flightAs(ctx, r, r.step(revalidateSpan, s.kind, s.name), question)
		if err != nil && ctx.Err() == nil && !definite(err) && !errors.Is(err, ErrClosed) {
			_, err = r.stale(s, err)
		}
		return got, err
	}
	if r.isSlow(ctx, s.kind, s.name) {
		f.Stale = r.impatient()
		return giveStored(f)
	}
	patient, cancel := context.WithTimeout(ctx, stalePatience)
	defer cancel()
	got, err := flightAs(patient, r, r.step(revalidateSpan, s.kind, s.name), question)
	switch {
	case err == nil, ctx.Err() != nil, definite(err), errors.Is(err, ErrClosed):
		return got, err
	case patient.Err() != nil:
		err = r.impatient()
		waitedInVain(ctx, r, s.kind, s.name, question) // it goes on, and nobody else waits for it
	}
	if f, err = r.stale(s, err); err != nil {
		return none, err
	}
	return giveStored(f)
}

// isSlow tells whether an answer of the remote is under way that somebody has waited for
// in vain.
func (r *Repository) isSlow(ctx context.Context, kind, name string) bool {
	slow, _ := r.c.unwatched.Load(r.flightKey(ctx, kind, name))
	return slow == true
}

// waitedInVain is later, and makes it slow.
func waitedInVain[T any](ctx context.Context, r *Repository, kind, name string, ask func(context.Context) (T, error)) {
	later(ctx, r, kind, name, ask)
	r.c.unwatched.CompareAndSwap(r.flightKey(ctx, kind, name), false, true)
}

// impatient is why a stored answer is given when the remote has been waited for.
func (r *Repository) impatient() error {
	return fmt.Errorf("%w: no answer of %s within %v", ErrUnavailable, r.remote.Host, stalePatience)
}

// away tells whether an answer of the remote is not to be waited for by who has a
// stored one; see [Availability].
func (r *Repository) away() (why error, due bool) {
	if r.remote.availability == nil {
		return nil, false
	}
	return r.remote.availability.Away()
}

// staleError is ErrUnavailable for what is stored, but was last confirmed too long ago.
type staleError struct {
	what, remote string // what is stored, and whose it is
	confirmed    time.Time
	most         time.Duration
	err          error
}

func (e *staleError) Error() string {
	when := "has never been confirmed"
	if !e.confirmed.IsZero() {
		when = "was last confirmed at " + e.confirmed.UTC().Format(time.RFC3339)
	}
	limit := "REGISTRY_PROXY_MAXSTALE allows nothing that is not confirmed"
	if e.most > 0 {
		limit = fmt.Sprintf("REGISTRY_PROXY_MAXSTALE allows %v", e.most)
	}
	return fmt.Sprintf("%s is stored, but %s by %s, and %s: %v", e.what, when, e.remote, limit, e.err)
}

func (e *staleError) Unwrap() []error { return []error{ErrUnavailable, e.err} }

// memorySize is how many answers are remembered.
const memorySize = 4096

// remembered is what the remote has said that it is not asked about again for a while.
type remembered struct {
	err         error
	since, ends time.Time
}

// recall returns what the remote has just said about key, see [Repository.learn].
func (r *Repository) recall(key string) (error, bool) {
	m, ok := r.c.memory.Get(key)
	if !ok {
		return nil, false
	}
	now := r.c.opts.Now()
	if now.Before(m.since) || !now.Before(m.ends) {
		return nil, false // it is kept for the next time
	}
	return &rememberedError{m.err, now.Sub(m.since), m.ends.Sub(now)}, true
}

// absentAtRemote returns the error for key if the remote has just said that there is no
// such thing, unless the client insists.
func (r *Repository) absentAtRemote(key string) error {
	if r.force {
		return nil
	}
	if err, _ := r.recall(key); definite(err) {
		return err
	}
	return nil
}

// learn remembers that the remote has answered err when it was asked about key: for
// long if that is a definite "not found"; briefly if it is something else, and an answer
// is stored that can be given meanwhile.
func (r *Repository) learn(key string, err error, stored bool) {
	var lasts time.Duration
	switch {
	case r.remote.Upstream == nil: // nobody has said anything
		return
	case err == nil:
		r.c.memory.Remove(key)
		return
	case definite(err):
		lasts = max(cmp.Or(r.remote.NegativeTTL, 30*time.Second), 0)
	case !stored, errors.Is(err, ErrNotAsked), noConnection(err): // of that the remote knows itself
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrDenied), errors.Is(err, ErrInvalid), errors.Is(err, ErrUnavailable):
		lasts = unconfirmedFor
		before, ok := r.c.memory.Get(key)
		if again := r.c.opts.Now().Sub(before.ends); ok && !definite(before.err) && again >= 0 && again < maxUnconfirmed {
			lasts = min(2*before.ends.Sub(before.since), maxUnconfirmed)
		}
	}
	if lasts > 0 {
		now := r.c.opts.Now()
		r.c.memory.Add(key, remembered{err, now, now.Add(lasts)})
	}
}

// noConnection tells whether err is that the remote could not be connected to.
func noConnection(err error) bool {
	up, ok := errors.AsType[*UpstreamError](err)
	return ok && up.NoConnection
}

// definite tells whether err is the registry's own word that there is no such thing.
func definite(err error) bool {
	if !errors.Is(err, ErrNotFound) {
		return false
	}
	up, ok := errors.AsType[*UpstreamError](err)
	return !ok || !up.Vague
}

// rememberedError is an error of before, that is still taken for true.
type rememberedError struct {
	err         error
	since, left time.Duration
}

func (e *rememberedError) Error() string {
	return fmt.Sprintf("%v (said %v ago; asked again in %v)", e.err, e.since.Truncate(time.Second), e.left.Round(time.Second))
}

func (e *rememberedError) Unwrap() error { return e.err }
