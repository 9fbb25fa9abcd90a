package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

const (
	// minDelay is how long the answer to the first failed log-in takes, and maxDelay how
	// long any does: Docker waits for 15 s for an answer to GET /v2/.
	minDelay = 500 * time.Millisecond
	maxDelay = 4 * time.Second
	// forgetAfter is how long after it a failure is forgotten.
	forgetAfter = 10 * time.Minute
	// maxFailing is how many failing log-ins are remembered, and maxHeld how many answers
	// are held at a time.
	maxFailing = 4096
	maxHeld    = 64
	// maxTries is how many requests of one failing log-in are looked at at a time, and how
	// many passwords of one that has not failed yet.
	maxTries = 4
)

// brake slows failed log-ins down.
type brake struct {
	now func() time.Time
	log logrus.FieldLogger

	mu      sync.Mutex
	logins  *simplelru.LRU[loginKey, *failing]
	held    int
	lines   *rate.Limiter // of the log
	skipped int           // lines
}

// loginKey stands for a user name and the address of a client. It is a hash: clients choose
// how long names are.
type loginKey [sha256.Size]byte

func keyOf(user, address string) loginKey {
	return sha256.Sum256(fmt.Appendf(nil, "%d %s %s", len(user), user, address))
}

// failing is a log-in that fails, or may.
type failing struct {
	count int
	last  time.Time
	tries int // requests that are looked at or held now
	// What is looked at now, and with which credentials, each with how many requests.
	looking map[pair]int
	with    map[credential]int
}

// attempt is a request that is looked at, or whose answer is held.
type attempt struct {
	b    *brake
	key  loginKey
	f    *failing
	what pair
	seen bool
}

func newBrake(now func() time.Time, log logrus.FieldLogger) *brake {
	logins, err := simplelru.NewLRU[loginKey, *failing](maxFailing, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &brake{now: now, log: log, logins: logins, lines: rate.NewLimiter(1, 10)}
}

// enter says whether a log-in is looked at: not where it is being tried with too many
// passwords at a time, or has failed before and is being tried too often. Where it is,
// leave must be called after the answer. What is being looked at anyway is joined without
// more work. Who is known to have had a good password is not locked out by those who guess
// at it: behind proxies all have the same address.
func (b *brake) enter(key loginKey, what pair, known bool) (*attempt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.get(key)
	guesses := f.with[what.id] == 0 && len(f.with) >= maxTries
	if !known && f.looking[what] == 0 && (guesses || f.count > 0 && (f.tries >= maxTries || b.held >= maxHeld)) {
		return nil, &BusyError{RetryAfter: delayOf(f.count)}
	}
	f.tries++
	f.looking[what]++
	f.with[what.id]++
	return &attempt{b: b, key: key, f: f, what: what}, nil
}

// looked takes note that it is known what the answer is.
func (a *attempt) looked() {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.end()
}

// end is looked, for who holds the lock of the brake.
func (a *attempt) end() {
	if a.seen {
		return
	}
	a.seen = true
	if a.f.looking[a.what]--; a.f.looking[a.what] == 0 {
		delete(a.f.looking, a.what)
	}
	if a.f.with[a.what.id]--; a.f.with[a.what.id] == 0 {
		delete(a.f.with, a.what.id)
	}
}

// leave takes note that the request has been answered.
func (a *attempt) leave() {
	b := a.b
	b.mu.Lock()
	defer b.mu.Unlock()
	a.end()
	a.f.tries--
	if a.f.tries == 0 && a.f.count == 0 {
		if known, _ := b.logins.Peek(a.key); known == a.f {
			b.logins.Remove(a.key) // there is no room for those that are well
		}
	}
}

// get returns what is known of a log-in. The caller holds b.mu.
func (b *brake) get(key loginKey) *failing {
	f, ok := b.logins.Get(key)
	if !ok {
		f = &failing{looking: map[pair]int{}, with: map[credential]int{}}
		b.logins.Add(key, f)
	}
	if f.count > 0 && b.now().Sub(f.last) > forgetAfter {
		f.count = 0
	}
	return f
}

// fail takes note of a failure of a user from an address, and returns for how long it is to
// be held.
func (b *brake) fail(user, address string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.get(keyOf(user, address))
	f.count++
	f.last = b.now()
	if !b.lines.AllowN(f.last, 1) {
		b.skipped++
		return delayOf(f.count)
	}
	entry := b.log.WithFields(logrus.Fields{"user": fmt.Sprintf("%.64q", user), "client": address, "failures": f.count})
	if b.skipped > 0 {
		entry = entry.WithField("unlogged", b.skipped)
		b.skipped = 0
	}
	entry.Warn("a log-in has failed")
	return delayOf(f.count)
}

// delayOf is how long an answer takes after so many failures.
func delayOf(count int) time.Duration {
	delay := minDelay
	for ; count > 1 && delay < maxDelay; count-- {
		delay *= 2
	}
	return min(delay, maxDelay)
}

// succeed takes note that a log-in is good.
func (b *brake) succeed(key loginKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, ok := b.logins.Peek(key); ok {
		f.count = 0
		if f.tries == 0 {
			b.logins.Remove(key)
		}
	}
}

// hold returns err after delay, counted from start. What took longer is held until a
// multiple of that: how long it was looked at tells something of it. Where too many are
// held, it is at once, and a [*BusyError].
func (b *brake) hold(ctx context.Context, start time.Time, delay time.Duration, err error) error {
	b.mu.Lock()
	full := b.held >= maxHeld
	if !full {
		b.held++
	}
	b.mu.Unlock()
	if full {
		return &BusyError{RetryAfter: delay}
	}
	defer func() {
		b.mu.Lock()
		b.held--
		b.mu.Unlock()
	}()
	spent := max(b.now().Sub(start), 0)
	timer := time.NewTimer(delay - spent%delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
