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

	"registry-module/doctor/images"
	"registry-module/doctor/report"
	"registry-module/upstream"
)

// Resolver looks names up. A [net.Resolver] is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host; network is "ip". Failures are
	// told apart where they are a [net.DNSError].
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Doctor looks at remotes. The zero value works.
type Doctor struct {
	// Resolver looks names up. Default: [net.DefaultResolver].
	Resolver Resolver
	// DialContext opens connections, to addresses. Default: a [net.Dialer].
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the clock of this machine. Default: [time.Now].
	Now func() time.Time
	// Timeout bounds each step: what does not end by then is left behind. Default:
	// [report.DefaultTimeout].
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
	// Authorities are trusted, too; default none.
	Authorities upstream.Authorities
	// Insecure tells that certificates are not verified.
	Insecure bool

	// Proxy gives the proxy for a request. Default: [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// ProxySetting is where the proxy was configured, for advice. Default: the
	// variable of the environment for the scheme of what is asked.
	ProxySetting string

	// Image is the one whose manifest is asked for, NAME[:TAG] or NAME@DIGEST;
	// see [images.Parse]. Default: [images.Default], or none.
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
func (d Doctor) Check(ctx context.Context, r Remote) []report.Finding {
	e := &examination{Doctor: d, Steps: report.Steps{Timeout: d.Timeout}, r: r}
	if r.Proxy == nil {
		e.r.Proxy = http.ProxyFromEnvironment
	}
	e.run(ctx)
	return e.Findings
}

func (d Doctor) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d Doctor) agent() string {
	if d.UserAgent != "" {
		return d.UserAgent
	}
	return "registry-module"
}

// examination is one Check. Each step changes what the next ones look at.
type examination struct {
	Doctor
	report.Steps
	r       Remote
	secrets upstream.Secrets

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
	login      *report.Finding // what a token service says of the credentials
	manifest   upstream.Exchange

	mu   sync.Mutex
	seen requests // in this step
	date *reading
}

// requests are those of package upstream in a step: the last one, the last one for a
// token, and their number.
type requests struct {
	last, token upstream.Exchange
	number      int
}

// step does one step.
func (e *examination) step(ctx context.Context, name string, check func(context.Context) report.Finding) {
	e.mu.Lock()
	e.seen = requests{}
	e.mu.Unlock()
	e.Do(ctx, name, check)
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

// asked are the requests of this step so far.
func (e *examination) asked() requests {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

func (e *examination) run(ctx context.Context) {
	e.step(ctx, "settings", e.settings)
	if e.Blocked || ctx.Err() != nil {
		return
	}
	defer func() { _ = e.remote.Close() }() // it closes idle connections
	if e.r.Offline {
		e.step(ctx, "network", func(context.Context) report.Finding {
			return report.Skip("not tried: offline mode is on, so that the registry is not contacted; `registry-module offline` says why")
		})
		return
	}
	e.step(ctx, "proxy", e.whichProxy)
	e.travel(ctx, "", leg{url: e.r.URL, proxy: e.proxy, who: e.registry()})
	clockFirst := !e.Left && e.clockWrong
	if clockFirst {
		e.step(ctx, "clock", e.clock)
	}
	e.step(ctx, "api", e.api)
	if !clockFirst {
		blocked := e.Blocked
		e.step(ctx, "clock", e.clock)
		e.Blocked = blocked // a certificate was accepted all the same: what else works?
	}
	e.step(ctx, "auth", e.authentication)
	if !e.Blocked && e.realm != nil {
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
func (e *examination) settings(ctx context.Context) report.Finding {
	if e.r.URL == nil {
		return report.Fail("Set "+e.r.Variable("REMOTEURL")+", for example to https://registry-1.docker.io.", "no URL is configured")
	}
	if e.r.Image == "" {
		e.r.Image = images.Default(e.r.URL.Host)
	}
	var err error
	if e.r.Image != "" {
		if e.repo, e.ref, err = images.Parse(e.r.URL.Host, e.r.Image); err != nil {
			return report.Fail("Write --image NAME:TAG, for example library/alpine:latest.", "the image cannot be asked for: %v", err)
		}
	}
	opts := upstream.Options{
		URL:           e.r.URL.String(),
		AllowedRealms: e.r.AllowedRealms,
		CAFile:        e.r.CAFile,
		Authorities:   e.r.Authorities,
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
		return report.Fail("Correct it; the settings are "+e.r.Variable("REMOTEURL")+", "+e.r.Variable("CA")+", "+
			e.r.Variable("CERTIFICATE")+", "+e.r.Variable("KEY")+" and "+e.r.Variable("ALLOWEDREALMS")+".",
			"the settings cannot be used: %s", e.secrets.Clean(err.Error()))
	}
	var more []byte
	if e.r.Authorities != nil {
		if more, err = e.r.Authorities.Authorities(ctx); err != nil {
			return report.Fail("See whether the IoT Edge runtime runs (iotedge check), or set "+e.r.Variable("TRUSTBUNDLE")+"=false.",
				"the trust bundle cannot be had: %s", e.secrets.Clean(err.Error()))
		}
		text += ", authorities of the IoT Edge device"
	}
	e.roots = readRoots(e.r.CAFile, more)
	if e.r.CAFile != "" {
		text += ", authorities of " + e.r.CAFile
	}
	if e.r.CertFile != "" {
		text += ", client certificate " + e.r.CertFile
	}
	return report.Passed("%s", text)
}
