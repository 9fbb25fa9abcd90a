package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// FailurePause is how long an attempt without the token takes, by default, one after the
	// other: it makes guessing slow, and keeps it from filling the log.
	FailurePause = time.Second
	// MaxAttempts bounds how many wait for that: arbitrary, far more than have mistaken
	// themselves.
	MaxAttempts = 16
)

// GateOptions are what a [Gate] compares with, and what it says.
type GateOptions struct {
	// Token returns the token, and is called for each request: who changes it wants the old
	// one not to be good any more. Its error is logged, and must not have the token.
	Token func(context.Context) (string, error)
	// Realm is named in the challenge (RFC 9110, section 11.5).
	Realm string
	// Setting is the name of the setting that has the token, for texts, and Purpose what one
	// can do with it: "somebody without the right token wanted to ...".
	Setting, Purpose string
	// How says where else than in the header the token can be given; empty for nowhere.
	How string
	// Pause is how long a failure takes. Default: FailurePause.
	Pause time.Duration
	// Log is told of failures, without what was tried. Nil discards.
	Log logrus.FieldLogger
}

// Gate lets those through who have a token. Those who have it are never held up by others
// who try.
type Gate struct {
	opts GateOptions
	// attempts holds an element for each failure that waits, and turn one for whose turn it is.
	attempts, turn chan struct{}
}

// NewGate returns a gate.
func NewGate(opts GateOptions) *Gate {
	if opts.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		opts.Log = silent
	}
	opts.Pause = cmp.Or(opts.Pause, FailurePause)
	return &Gate{opts: opts, attempts: make(chan struct{}, MaxAttempts), turn: make(chan struct{}, 1)}
}

// Refusal is why somebody is not let through.
type Refusal struct {
	Status int // of HTTP
	Text   string
	// Challenge is for WWW-Authenticate, empty for none.
	Challenge string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

// Handler has next answer those who have the token in their header.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := Bearer(r.Header)
		if no := g.Admit(r.Context(), given, ok, r.RemoteAddr); no != nil {
			if no.Challenge != "" {
				w.Header().Set("WWW-Authenticate", no.Challenge)
			}
			http.Error(w, no.Text, no.Status)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Admit compares what a client has given; ok is false where that is nothing. It returns nil
// for who is let through, and else waits a while.
func (g *Gate) Admit(ctx context.Context, given string, ok bool, client string) *Refusal {
	token, err := g.opts.Token(ctx)
	if err != nil || token == "" { // what is empty would be easy to guess
		if err == nil {
			err = fmt.Errorf("the token is empty")
		}
		g.opts.Log.WithError(err).Errorf("nobody can %s: mend the file of %s", g.opts.Purpose, g.opts.Setting)
		return &Refusal{Status: http.StatusServiceUnavailable, Text: "the server has no token that it could compare with: see its log"}
	}
	if ok && sameSecret(given, token) {
		return nil
	}
	if !g.slow(ctx) {
		return &Refusal{Status: http.StatusTooManyRequests, Text: "too many attempts without the right token"}
	}
	g.opts.Log.WithField("client", client).Warnf("somebody without the right token wanted to %s", g.opts.Purpose)
	// RFC 6750, section 3: without a token there is no error to name.
	challenge := fmt.Sprintf("Bearer realm=%q", g.opts.Realm)
	if ok {
		challenge += `, error="invalid_token"`
	}
	text := "the token is missing or wrong: send that of " + g.opts.Setting
	if g.opts.How != "" {
		text += " (" + g.opts.How + ")"
	}
	return &Refusal{http.StatusUnauthorized, text, challenge}
}

// slow waits until another attempt may fail. It returns false where too many do.
func (g *Gate) slow(ctx context.Context) bool {
	select {
	case g.attempts <- struct{}{}:
		defer func() { <-g.attempts }()
	default:
		return false
	}
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return true
	}
	timer := time.NewTimer(g.opts.Pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// Bearer is the token of a request (RFC 6750, section 2.1). It is false where there is none.
func Bearer(header http.Header) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// sameSecret compares two secrets in a time that says nothing of them.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
