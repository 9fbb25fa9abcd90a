package upstream

import "context"

// Some token services give a new identity token (OAuth 2.0 refresh token) with each
// access token, and take each of them once only (RFC 6749 section 6). So they are used
// one after the other, and what the service has given us counts in place of what is
// configured, for as long as that stays the same and this process runs.

// beginRefresh waits until nobody else uses an identity token. done lets the next
// one.
func (a *authorizer) beginRefresh(ctx context.Context, op string) (done func(), _ error) {
	select {
	case a.exchanging <- struct{}{}:
		return func() { <-a.exchanging }, nil
	case <-ctx.Done():
		return nil, a.remote.broken(ctx, op, 0, ctx.Err())
	}
}

// latest returns what counts in place of the identity token that is configured.
func (a *authorizer) latest(configured string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.successor != "" && a.predecessor == configured {
		return a.successor
	}
	return configured
}

// replace makes successor count in place of configured; empty ones that of what is
// configured itself.
func (a *authorizer) replace(configured, successor string) {
	a.remote.secrets.Add(successor)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.predecessor, a.successor = configured, successor
}
