package upstream

import (
	"cmp"
	"context"
	_ "crypto/sha256" // digests of both kinds are to be valid
	_ "crypto/sha512"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/cache"
)

// Options describe a remote registry. All but URL may be left out.
type Options struct {
	// URL is the registry's, as [ParseURL] reads it.
	URL string

	// Credentials are for the registry and its token service. Default: none.
	//
	// Where they have a method Renew(rejected authn.AuthConfig) bool, it is told
	// when they were rejected. If it says that others may be had, they are asked for
	// again, and what was rejected is tried once more with those. Of those of
	// package auth, all that can change have it.
	Credentials authn.Authenticator

	// AllowedRealms are hosts of token services that are trusted though they
	// are of another domain than the registry; see [auth.NewRealmPolicy].
	AllowedRealms []string

	// CAFile holds certificates (PEM) of authorities that are trusted beside
	// those of the system. It may be replaced: a version that is no good is logged,
	// and the one before it stays in use.
	CAFile string

	// Authorities are trusted beside those of the system and of CAFile. Default: none.
	Authorities Authorities

	// CertFile and KeyFile hold a client certificate and its key (PEM). They
	// are shown to the registry and to its token service, not to the hosts that
	// blobs are redirected to nor to HTTP proxies in between, and read anew for each
	// handshake, so that they may be replaced.
	CertFile, KeyFile string

	// Insecure makes any certificate of the registry and its token service do, but
	// not of the hosts that blobs are redirected to: who is in between can read the
	// credentials and what is fetched, and can move tags. Whoever sets it is to be
	// warned by whom reads the setting.
	Insecure bool

	// Name is what the registry is told in the Via header that we call ourselves,
	// behind those that the request came through, so that loops are noticed; see
	// package via. Default: there is no such header.
	Name string

	// Proxy gives the proxy for a request. Default: [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)

	// DialContext opens connections. It has to return soon when its context has
	// ended. Default: a [net.Dialer] with ConnectTimeout.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Switch rules out that anybody is contacted. Default: contact is always allowed.
	Switch *Switch

	// UserAgent is what requests call themselves. Default: "registry-module".
	UserAgent string

	// ConnectTimeout bounds name lookup and connecting. Default: 5 s.
	ConnectTimeout time.Duration
	// TLSTimeout bounds the TLS handshake. Default: 5 s. Where an HTTP proxy is in
	// between, that it connects us is bounded with both by the sum of the two.
	TLSTimeout time.Duration
	// HeaderTimeout bounds the wait from a request to the beginning of its
	// answer. Default: 15 s.
	HeaderTimeout time.Duration
	// StallTimeout bounds the wait for the next byte of a body. How long a body
	// takes as a whole is bounded by the caller's context only: links may be
	// thin. Default: 30 s.
	StallTimeout time.Duration

	// Observe is called for each request that is made, when its header has come or it
	// has failed, and holds it up for that long. Several may be under way. Default:
	// nobody is told.
	Observe func(Exchange)

	// Log gets what is of use to find mistakes in a configuration, at debug
	// level, and tells of files that were replaced, with warnings of credentials and CA
	// files that cannot be read any more. Default: nothing is logged.
	Log logrus.FieldLogger
}

// Remote is a remote registry. It is a [cache.Upstream], and safe for use by
// several goroutines.
type Remote struct {
	base  *url.URL
	agent string
	name  string // empty: no Via header
	stall time.Duration
	auth  *authorizer
	// secrets are what the remote and its token service are sent, and what they give
	// out for it.
	secrets Secrets
	// own is for the registry and its token service, foreign for the hosts that
	// they redirect to: it shows no client certificate.
	own, foreign guarded
	contact      *Switch
	observe      func(Exchange) // nil: nobody
	log          logrus.FieldLogger

	cursorsMu sync.Mutex
	cursors   map[cursorKey]*url.URL

	noReferrers lacking

	close context.CancelFunc
}

var _ cache.Upstream = (*Remote)(nil)

// New returns the remote registry that opts describe. It makes no connection.
func New(opts Options) (*Remote, error) {
	base, err := ParseURL(opts.URL)
	if err != nil {
		return nil, err
	}
	realms, err := auth.NewRealmPolicy(opts.AllowedRealms...)
	if err != nil {
		return nil, fmt.Errorf("remote registry %s: %w", base.Host, err)
	}
	r := &Remote{contact: cmp.Or(opts.Switch, new(Switch))}
	log := opts.Log
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	r.log = log.WithField("remote", base.Host)
	r.own, r.foreign, err = newTransports(opts, &r.secrets, r.contact, r.log)
	if err != nil {
		return nil, fmt.Errorf("remote registry %s: %w", base.Host, err)
	}
	r.base, r.name, r.observe = base, opts.Name, opts.Observe
	r.agent = cmp.Or(opts.UserAgent, "registry-module")
	r.stall = orDefault(opts.StallTimeout, 30*time.Second)
	r.cursors = make(map[cursorKey]*url.URL)
	var life context.Context
	life, r.close = context.WithCancel(context.Background())
	r.auth = newAuthorizer(life, r, opts.Credentials, realms)
	return r, nil
}

// Host implements [cache.Upstream]: the registry's host, with its port where
// that is not the scheme's.
func (r *Remote) Host() string { return r.base.Host }

// CloseIdle closes idle connections. What is under way goes on, and so does what is begun.
func (r *Remote) CloseIdle() {
	r.own.CloseIdleConnections()
	r.foreign.CloseIdleConnections()
}

// Close closes idle connections and gives up what is not done for one caller
// alone. Requests and bodies that are under way go on.
func (r *Remote) Close() error {
	r.close()
	r.CloseIdle()
	return nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
