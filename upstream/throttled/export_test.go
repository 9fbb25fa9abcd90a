package throttled

import "golang.org/x/time/rate"

// Now returns what limits now; nil is for nothing.
func (l *Limiter) Now() *rate.Limiter { return l.now.Load() }
