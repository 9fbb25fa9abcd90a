package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/config"
)

// seedGate lets those seed by the admin address who have the token.
type seedGate struct {
	tokenFile string
	seed      http.Handler
	log       logrus.FieldLogger
	// pause is how long an attempt without the token takes, one after the other, and
	// attempts holds an element for each that waits.
	pause    time.Duration
	attempts chan struct{}
	turn     chan struct{}
}

const (
	// failurePause makes guessing slow, and keeps it from filling the log.
	failurePause = time.Second
	// maxFailures bounds how many wait for that: arbitrary, far more than have mistaken
	// themselves.
	maxFailures = 16
)

func newSeedGate(tokenFile string, seed http.Handler, log logrus.FieldLogger) *seedGate {
	return &seedGate{
		tokenFile: tokenFile, seed: seed, log: log, pause: failurePause,
		attempts: make(chan struct{}, maxFailures), turn: make(chan struct{}, 1),
	}
}

// ServeHTTP implements http.Handler.
func (g *seedGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// It is read each time: who changes the token wants the old one not to be good any more.
	token, err := config.ReadToken(g.tokenFile)
	if err != nil {
		g.log.WithError(err).Error("nobody can seed by the admin address: mend the file of REGISTRY_SEED_TOKENFILE")
		http.Error(w, "the server has no token that it could compare with: see its log", http.StatusServiceUnavailable)
		return
	}
	given, ok := bearer(r.Header)
	if ok && sameSecret(given, token) {
		g.seed.ServeHTTP(w, r)
		return
	}
	if !g.slow(r.Context()) {
		http.Error(w, "too many attempts without the right token", http.StatusTooManyRequests)
		return
	}
	g.log.WithField("client", r.RemoteAddr).Warn("somebody without the right token wanted to seed by the admin address")
	// RFC 6750, section 3: without a token there is no error to name.
	challenge := `Bearer realm="registry-module seed"`
	if ok {
		challenge += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	http.Error(w, "the token is missing or wrong: send that of REGISTRY_SEED_TOKENFILE (registry-module seed --token-file)", http.StatusUnauthorized)
}

// slow waits until another attempt may fail. It returns false where too many do.
func (g *seedGate) slow(ctx context.Context) bool {
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
	timer := time.NewTimer(g.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// bearer is the token of a request (RFC 6750, section 2.1).
func bearer(header http.Header) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

// sameSecret compares two secrets in a time that says nothing of them.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// besides answers POST /seed by seed, where it is not nil, and everything else by others.
func besides(others, seed http.Handler) http.Handler {
	if seed == nil {
		return others
	}
	mux := http.NewServeMux()
	mux.Handle("/", others)
	mux.Handle("POST /seed", seed)
	return mux
}

// remoteServer is a server elsewhere that is seeded by its admin address.
type remoteServer struct {
	url       *url.URL
	tokenFile string
	http      *http.Client
}

// parseServer reads the URL of the admin address of a server. Errors do not repeat it, since
// it may hold a password by mistake.
func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("--to is not the URL of a server: write that of its admin address, for example https://gateway.example.com:5001")
	case u.User != nil:
		return nil, errors.New("--to holds credentials: name the file that holds the token by --token-file instead")
	case u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("--to has a query or a fragment: write the URL of the admin address alone, for example https://gateway.example.com:5001")
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/seed")
	return u, nil
}

func newRemoteServer(u *url.URL, tokenFile string) *remoteServer {
	transport := http.DefaultTransport.(*http.Transport).Clone() // system roots, and the proxy of the environment
	transport.DisableKeepAlives = true
	transport.ResponseHeaderTimeout = 2 * time.Minute // it is asked what its disk has, and not yet its remotes
	return &remoteServer{u, tokenFile, &http.Client{
		Transport: transport,
		// The token is for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// client has the server seed.
func (s *remoteServer) client() *seedClient {
	name := "the server at " + s.url.Host
	return &seedClient{send: s.send, server: name,
		absent: name + " lets nobody seed it at this address: set REGISTRY_SEED_TOKENFILE there, and name its admin address here (REGISTRY_HTTP_DEBUG_ADDR, port 5001)"}
}

func (s *remoteServer) send(ctx context.Context, target string, job []byte) (*http.Response, error) {
	token, err := config.ReadToken(s.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String()+target, bytes.NewReader(job))
	if err != nil {
		return nil, errors.New("--to is not the URL of a server: write that of its admin address, for example https://gateway.example.com:5001")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("User-Agent", "registry-module/"+version)
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("talking to the server at %s: %w", s.url.Host, withoutURL(err))
	}
	problem := ""
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		problem = "does not take the token of " + s.tokenFile + ": it has to be that of the file that REGISTRY_SEED_TOKENFILE names there"
	case resp.StatusCode == http.StatusTooManyRequests:
		problem = "has had too many attempts without the right token: run this again in a minute"
	case resp.StatusCode/100 == 3:
		problem = "sends us elsewhere, where the token must not go: name its own address"
	default:
		return resp, nil
	}
	_ = resp.Body.Close() // its status says all
	return nil, fmt.Errorf("the server at %s %s", s.url.Host, problem)
}
