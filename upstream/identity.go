package upstream

import "context"

// Some token services give a new identity token (OAuth 2.0 refresh token) with each
// access token, and take each of them once only (RFC 6749 section 6). So they are used
// one after the other, until an answer has shown that a token lasts, and what the service
// has given us counts in place of what is configured, for as long as that stays the same
// and this process runs.

// identity is what is known of an identity token that is configured.
type identity struct {
	configured string
	// lasts says that the last answer has brought no other in its place.
	lasts bool
	// successor is what the token service has given us in its place, empty for
	// nothing. It is nowhere but here.
	successor string
}

// beginRefresh waits until nobody else uses an identity token, unless configured is one
// that lasts. done lets the next one.
func (a *authorizer) beginRefresh(ctx context.Context, op, configured string) (done func(), _ error) {
	if a.identityOf(configured).lasts {
		return func() {}, nil
	}
	// While the service is away, each of those before us waits for it in vain.
	ctx, cancel := context.WithTimeout(ctx, flightTimeout)
	defer cancel()
	select {
	case a.exchanging <- struct{}{}:
		done = func() { <-a.exchanging }
		if a.identityOf(configured).lasts {
			done()
			done = func() {}
		}
		return done, nil
	case <-ctx.Done():
		return nil, a.remote.broken(ctx, op, 0, ctx.Err())
	}
}

// identityOf returns what is known of an identity token that is configured.
func (a *authorizer) identityOf(configured string) identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.identity.configured != configured {
		return identity{}
	}
	return a.identity
}

// latest returns what counts in place of the identity token that is configured.
func (a *authorizer) latest(configured string) string {
	if successor := a.identityOf(configured).successor; successor != "" {
		return successor
	}
	return configured
}

// replace takes note that used, which counts in place of configured, has brought a token,
// and next, empty or the same where it goes on to count.
func (a *authorizer) replace(configured, used, next string) {
	a.remote.secrets.AddToken(next)
	a.mu.Lock()
	defer a.mu.Unlock()
	known := identity{configured: configured, lasts: next == "" || next == used}
	switch {
	case !known.lasts:
		known.successor = next
	case a.identity.configured == configured && a.identity.successor != "" && a.identity.successor != used:
		return // somebody else has been told of another one meanwhile
	case used != configured:
		known.successor = used
	}
	a.identity = known
}

// giveUp makes used, which was given to us, count no longer.
func (a *authorizer) giveUp(used string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.identity.successor == used {
		a.identity = identity{}
	}
}
