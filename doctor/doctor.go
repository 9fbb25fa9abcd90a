package doctor

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/upstream"
)

// graceTime is how long a step has at least to say that its time is over.
const graceTime = 250 * time.Millisecond

// DefaultTimeout is how long a step may take where [Doctor.Timeout] does not say.
const DefaultTimeout = 10 * time.Second

// Resolver looks names up. A [net.Resolver] is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host; network is "ip". Failures are
	// told apart where they are a [net.DNSError].
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Doctor looks at remotes and at this machine. The zero value works.
type Doctor struct {
	// Resolver looks names up. Default: [net.DefaultResolver].
	Resolver Resolver
	// DialContext opens connections, to addresses. Default: a [net.Dialer].
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the clock of this machine. Default: [time.Now].
	Now func() time.Time
	// Timeout bounds each step: what does not end by then is left behind. Default:
	// [DefaultTimeout].
	Timeout time.Duration
	// UserAgent is what requests call themselves. Default: "registry-module".
	UserAgent string
}

// Remote is a remote registry as it is configured. Only URL is needed.
type Remote struct {
	// Number is that in the names of its variables: REGISTRY_PROXY_CA_2 is for
	// number 2, and REGISTRY_PROXY_CA for 0 and 1.
	Number int
	// URL is as [upstream.ParseURL] returns it.
	URL *url.URL
	// Offline tells that it must not be contacted.
	Offline bool

	// Credentials are for it and its token service; nil is none. See
	// [upstream.Options].
	Credentials authn.Authenticator
	// CredentialsSetting is where they were configured, for advice. Default: the
	// variables for user name and password.
	CredentialsSetting string
	// InUse tells whether somebody else uses the credentials, or may do so. Identity
	// tokens are not tried then. Default: nobody does.
	InUse func(context.Context) bool
	// AllowedRealms are for [auth.NewRealmPolicy].
	AllowedRealms []string
	// CAFile, CertFile and KeyFile are in PEM form, as in [upstream.Options].
	CAFile, CertFile, KeyFile string
	// Insecure tells that certificates are not verified.
	Insecure bool

	// Proxy gives the proxy for a request. Default: [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// ProxySetting is where the proxy was configured, for advice. Default: the
	// variable of the environment for the scheme of what is asked.
	ProxySetting string

	// Image is the one whose manifest is asked for, NAME[:TAG] or NAME@DIGEST;
	// see [ParseImage]. Default: [DefaultImage], or none.
	Image string
}

// Variable is the environment variable of the remote for a setting, for example
// REGISTRY_PROXY_CA_2 for CA.
func (r Remote) Variable(setting string) string {
	if r.Number > 1 {
		return "REGISTRY_PROXY_" + setting + "_" + strconv.Itoa(r.Number)
	}
	return "REGISTRY_PROXY_" + setting
}

func (r Remote) anonymous() bool { return r.Credentials == nil || r.Credentials == authn.Anonymous }

// Check goes the way to r, and returns what was found at each step. It ends early
// when ctx does.
func (d Doctor) Check(ctx context.Context, r Remote) []Finding {
	e := newExamination(d, r)
	e.run(ctx)
	return e.findings
}

func (d Doctor) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d Doctor) timeout() time.Duration {
	if d.Timeout > 0 {
		return d.Timeout
	}
	return DefaultTimeout
}

func (d Doctor) agent() string {
	if d.UserAgent != "" {
		return d.UserAgent
	}
	return "registry-module"
}

// examination is one Check. Its steps run one after the other, each in a goroutine of
// its own; where one was left behind, no other looks at what it may still change.
type examination struct {
	Doctor
	r        Remote
	findings []Finding
	// blocked tells that something has failed, so that nothing more is tried, and
	// left that a step was left behind.
	blocked, left bool
	secrets       upstream.Secrets

	// Settings, from the first step on.
	roots     *x509.CertPool // nil: the system's
	repo, ref string         // of the image; empty is none
	given     *given         // nil: there are no credentials
	remote    *upstream.Remote

	// What was found on the way.
	proxy      *url.URL // for the registry; nil is none
	clockWrong bool     // so that certificates cannot be judged
	challenge  upstream.Challenge
	realm      *url.URL
	login      *Finding // what a token service says of the credentials
	manifest   upstream.Exchange

	mu sync.Mutex
	// seen are the requests of this step, of which the last ones count, and their
	// number.
	seen struct {
		last, token upstream.Exchange
		number      int
	}
	date *reading
}

func newExamination(d Doctor, r Remote) *examination {
	e := &examination{Doctor: d, r: r}
	if r.Proxy == nil {
		e.r.Proxy = http.ProxyFromEnvironment
	}
	return e
}

// step does one step and takes down what came of it.
func (e *examination) step(ctx context.Context, name string, check func(context.Context) Finding) {
	f := skipped("not tried")
	switch {
	case ctx.Err() != nil:
		f = skipped("interrupted")
	case !e.blocked:
		start := time.Now()
		f = e.inTime(ctx, check)
		if f.Took == 0 {
			f.Took = time.Since(start)
		}
		if ctx.Err() != nil {
			f = skipped("interrupted")
		}
	}
	f.Step = name
	e.blocked = e.blocked || f.Status == Failed
	e.findings = append(e.findings, f)
}

// inTime returns what comes of check within the time for a step. Who heeds the context
// ends a little before; who does not, as reading a file may not, is left behind.
func (e *examination) inTime(ctx context.Context, check func(context.Context) Finding) Finding {
	e.mu.Lock()
	e.seen.last, e.seen.token, e.seen.number = upstream.Exchange{}, upstream.Exchange{}, 0
	e.mu.Unlock()
	limit := e.timeout()
	limited, cancel := context.WithTimeout(ctx, limit-max(limit/16, min(limit/2, graceTime)))
	defer cancel()
	found := make(chan Finding, 1)
	go func() { found <- check(limited) }()
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case f := <-found:
		return f
	case <-over.C:
		e.left = true
		return failed("Look for a file system that hangs (mount, dmesg), or for a file that is a pipe; or try again with a larger --timeout.",
			"this has not ended within %s, and was left behind: most likely a file cannot be read", limit)
	}
}

// observe takes note of a request of package upstream.
func (e *examination) observe(x upstream.Exchange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen.last = x
	e.seen.number++
	if x.Token {
		e.seen.token = x
	}
	if x.Status != 0 && sameOrigin(x.URL, e.r.URL) {
		e.noteDate(x.Header, x.Sent, x.Came)
	}
}

// last is the last request of this step, and lastToken the last one for a token.
func (e *examination) last() upstream.Exchange {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.last
}

func (e *examination) lastToken() upstream.Exchange {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.token
}

// asked is how many requests there were in this step.
func (e *examination) asked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.number
}

func (e *examination) run(ctx context.Context) {
	e.step(ctx, "settings", e.settings)
	if e.blocked || ctx.Err() != nil {
		return
	}
	defer func() { _ = e.remote.Close() }() // it closes idle connections
	if e.r.Offline {
		e.step(ctx, "network", func(context.Context) Finding {
			return skipped("not tried: REGISTRY_PROXY_OFFLINE is set, so that the registry is never contacted")
		})
		return
	}
	e.step(ctx, "proxy", e.whichProxy)
	e.travel(ctx, "", leg{url: e.r.URL, proxy: e.proxy, who: e.registry()})
	clockFirst := !e.left && e.clockWrong
	if clockFirst {
		e.step(ctx, "clock", e.clock)
	}
	e.step(ctx, "api", e.api)
	if !clockFirst {
		blocked := e.blocked
		e.step(ctx, "clock", e.clock)
		e.blocked = blocked // a certificate was accepted all the same: what else works?
	}
	e.step(ctx, "auth", e.authentication)
	if !e.blocked && e.realm != nil {
		if !sameOrigin(e.realm, e.r.URL) {
			e.travelToTokenService(ctx)
		}
		e.step(ctx, "token", e.token)
	}
	e.step(ctx, "credentials", e.credentials)
	e.step(ctx, "manifest", e.headManifest)
	e.step(ctx, "rate-limit", e.rateLimit)
}

// settings looks at what needs no network.
func (e *examination) settings(context.Context) Finding {
	if e.r.URL == nil {
		return failed("Set "+e.r.Variable("REMOTEURL")+", for example to https://registry-1.docker.io.", "no URL is configured")
	}
	e.r.Image = e.image()
	var err error
	if e.r.Image != "" {
		if e.repo, e.ref, err = ParseImage(e.r.URL.Host, e.r.Image); err != nil {
			return failed("Write --image NAME:TAG, for example library/alpine:latest.", "the image cannot be asked for: %v", err)
		}
	}
	opts := upstream.Options{
		URL:           e.r.URL.String(),
		AllowedRealms: e.r.AllowedRealms,
		CAFile:        e.r.CAFile,
		CertFile:      e.r.CertFile,
		KeyFile:       e.r.KeyFile,
		Insecure:      e.r.Insecure,
		Proxy:         e.r.Proxy,
		UserAgent:     e.agent(),
		Observe:       e.observe,
	}
	text := e.r.URL.String() + ", without credentials"
	if !e.r.anonymous() {
		text = e.r.URL.String() + ", with credentials"
		e.given = &given{from: e.r.Credentials, secrets: &e.secrets, inUse: e.r.InUse}
		opts.Credentials = e.given
	}
	if e.Resolver != nil || e.DialContext != nil {
		opts.DialContext = e.dialHost
	}
	// It reads and checks the files, and what it takes is what the program takes.
	if e.remote, err = upstream.New(opts); err != nil {
		return failed("Correct it; the settings are "+e.r.Variable("REMOTEURL")+", "+e.r.Variable("CA")+", "+
			e.r.Variable("CERTIFICATE")+", "+e.r.Variable("KEY")+" and "+e.r.Variable("ALLOWEDREALMS")+".",
			"the settings cannot be used: %s", e.secrets.Clean(err.Error()))
	}
	e.roots = readRoots(e.r.CAFile)
	if e.r.CAFile != "" {
		text += ", authorities of " + e.r.CAFile
	}
	if e.r.CertFile != "" {
		text += ", client certificate " + e.r.CertFile
	}
	return ok("%s", text)
}
