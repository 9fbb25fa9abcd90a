package upstream

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// renewer is what credentials can be that may change while we run.
type renewer interface {
	// Renew takes note that the remote has rejected what the credentials gave, and
	// reports whether they may give something else now.
	Renew(rejected authn.AuthConfig) bool
}

// credentials returns what the credentials are now. Programs that give them may use the
// network, and so they are not run while nobody may be contacted.
func (a *authorizer) credentials(ctx context.Context, op string) (*authn.AuthConfig, error) {
	a.mu.Lock()
	doubted := a.doubted
	if doubted != nil {
		if now := a.now(); now.Sub(a.retried) < doubtPause {
			a.mu.Unlock()
			return doubted, nil // they may well be good for all else
		}
		a.retried = a.now()
	}
	a.mu.Unlock()
	patient := ctx
	if doubted != nil {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, doubtPatience)
		defer cancel()
	}
	var config *authn.AuthConfig
	var err error
	if cut := a.remote.whileOnline(patient, op, func(ctx context.Context) {
		config, err = authn.Authorization(ctx, a.creds)
	}); cut != nil {
		return nil, cut
	}
	a.mu.Lock()
	if err == nil {
		a.doubted = nil
	}
	a.mu.Unlock()
	switch {
	case err == nil:
	case doubted != nil:
		return doubted, nil
	default:
		return nil, a.remote.broken(ctx, op, 0, local{fmt.Errorf("not asked: getting credentials: %w", err)})
	}
	a.remote.secrets.AddCredentials(*config)
	a.noteStale()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.none = *config == authn.AuthConfig{}
	return config, nil
}

// noteStale writes into the log that credentials go on to count though the file is gone
// that they came from, once, and that it is there again.
func (a *authorizer) noteStale() {
	s, ok := a.creds.(interface{ Stale() error })
	if !ok {
		return
	}
	err := s.Stale()
	a.mu.Lock()
	changed := a.stale != (err != nil)
	a.stale = err != nil
	a.mu.Unlock()
	switch {
	case changed && err != nil:
		a.remote.log.WithField("error", clean(err.Error())).Warn("the credentials of this remote cannot be read any more: those that were read last are used until others can be read, or until a restart")
	case changed:
		a.remote.log.Info("the credentials of this remote can be read again")
	}
}

// renew takes note that credentials were rejected, and reports whether there may be
// others. It costs the remote nothing.
func (a *authorizer) renew(rejected *authn.AuthConfig) bool {
	r, ok := a.creds.(renewer)
	if !ok || rejected == nil {
		return false
	}
	a.mu.Lock()
	a.doubted = nil
	a.mu.Unlock()
	return r.Renew(*rejected)
}

const (
	// doubtPause is how long credentials are not doubted again. Some commands give
	// others each time, and 403 is the answer for all that is not for us. While they are
	// doubted, others are asked for once in that time, by one request, and all the rest
	// go on with them.
	doubtPause = 30 * time.Second
	// doubtPatience is how long that one waits.
	doubtPatience = 10 * time.Second
)

// doubt takes note that the remote has answered 403 to credentials: there are
// registries that say so where a log-in has run out. It reports whether there may be
// others; only who gets others has a reason to ask again.
func (a *authorizer) doubt(doubted *authn.AuthConfig) bool {
	r, ok := a.creds.(renewer)
	if !ok || doubted == nil {
		return false
	}
	a.mu.Lock()
	now := a.now()
	due := a.doubtedAt.IsZero() || now.Sub(a.doubtedAt) >= doubtPause
	if due {
		a.doubted, a.doubtedAt, a.retried = doubted, now, time.Time{}
	}
	a.mu.Unlock()
	if due {
		r.Renew(*doubted)
	}
	return true
}

// anonymous reports whether there are no credentials, as far as is known: those
// that are configured may turn out to be none for this remote.
func (a *authorizer) anonymous() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.none || a.creds == authn.Anonymous
}

// hint says what to do about an answer of 401 or 403.
func (a *authorizer) hint() string {
	if a.anonymous() {
		return a.noCredentials()
	}
	return "the configured credentials do not give access"
}

// noCredentials says why there are none.
func (a *authorizer) noCredentials() string {
	if a.creds == authn.Anonymous {
		return "no credentials are configured for this remote"
	}
	return "the Docker configuration, helper or command that is configured for this remote has no credentials for it"
}
