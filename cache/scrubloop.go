package cache

import (
	"context"
	"time"

	"registry-module/internal/idleio"
)

// scrub works until the cache is closed, while there is an interval.
func (c *Cache) scrub() {
	s := &scrubber{c: c, pace: pace{limit: c.scrubLimit}}
	s.pace.tell = func(n int64) {
		s.read += n
		c.health.scrubbed.Add(n)
	}
	if !s.enabled() {
		return // the cache is closed
	}
	if err := c.record(c.ctx, key(kindMeta, metaScrub), &s.at); err != nil {
		s.at = scrubRecord{} // never, or the index has lost it
	}
	s.noted = s.at
	c.health.passed.Store(s.at.Passed)
	for s.wait() {
		// Only who waits for nothing gets what nobody waits for.
		_ = idleio.Do(c.ctx, func(ctx context.Context) error {
			ctx, cancel := s.whileEnabled(ctx)
			defer cancel()
			s.pass(ctx)
			s.passed = ctx.Err() == nil
			return nil
		})
	}
}

// enabled waits until there is an interval. It returns false when the cache is closed.
func (s *scrubber) enabled() bool {
	for {
		now := s.c.settings.Load()
		if now.scrubInterval > 0 {
			return s.c.ctx.Err() == nil
		}
		select {
		case <-now.replaced:
		case <-s.c.ctx.Done():
			return false
		}
	}
}

// whileEnabled returns a context that ends with ctx, and when there is no interval any
// more.
func (s *scrubber) whileEnabled(ctx context.Context) (_ context.Context, cancel func()) {
	ctx, end := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			now := s.c.settings.Load()
			if now.scrubInterval <= 0 {
				end()
				return
			}
			select {
			case <-now.replaced:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() {
		end()
		<-watched
	}
}

// wait waits for the next pass. Where the interval becomes another one meanwhile, it is as
// if it had been that from the start. It returns false when the cache is closed.
func (s *scrubber) wait() bool {
	began, since := time.Now(), s.c.opts.Now().Sub(time.Unix(0, s.at.Passed))
	for {
		now := s.c.settings.Load()
		if now.scrubInterval <= 0 {
			if !s.enabled() {
				return false
			}
			if s.passed {
				continue
			}
			began, since = time.Now(), s.c.opts.Now().Sub(time.Unix(0, s.at.Passed))
			continue
		}
		timer := time.NewTimer(s.due(now.scrubInterval, since) - time.Since(began))
		select {
		case <-timer.C:
			return true
		case <-now.replaced:
			timer.Stop()
		case <-s.c.ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// due is how long to wait for the next pass from when the waiting began. Since is how long
// ago the last one was then, if that was of another process.
func (s *scrubber) due(interval, since time.Duration) time.Duration {
	switch {
	case s.passed:
		return interval
	case s.c.doubtful:
		return min(scrubSoon, interval)
	case s.at.After != "", since < 0, since > interval: // or the clock was wrong
		return min(scrubDelay, interval)
	}
	return max(interval-since, min(scrubDelay, interval))
}
