// Package server answers the OCI distribution API over HTTP from a cache of remote
// registries.
//
// It is the embedded distribution v3 app, whose storage is replaced by the cache
// through its registry middleware, so that routing, catalog, notifications and
// configuration are the stock ones; and what stands in front of it: checks of what
// clients send, the choice of the remote that a request means, a stop for requests
// that go round in a circle, the question who may have what, and a short way for what
// is stored already, which gives the same answers.
//
// It promises honest statuses (one table, errors.go), that no response ends well
// whose bytes do not match the digest, and that nothing that a client sends gets
// further than its own request, nor to anything before [Access] was asked. It trusts the
// cache for content and Access for identity. Of this module it imports cache,
// internal/tracing and internal/via.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/trace"

	"registry-module/cache"
)

// Router finds out which repositories of which remotes a request can mean.
type Router interface {
	// Route returns them in order of preference, at least one, for a request for
	// the repository name with the namespace parameter ns, which may be empty.
	// Errors are or wrap [cache.ErrNotServed] and [cache.ErrRefused].
	Route(ns, name string) (places []cache.Place, err error)

	// Listed returns the name by which clients can ask for a repository, or false
	// where there is none.
	Listed(cache.Place) (name string, ok bool)
}

// Options are what [New] needs. Cache and Router are required.
type Options struct {
	Cache  *cache.Cache
	Router Router

	// Name is what requests on our behalf call us in their Via headers. One that
	// comes back is refused. Empty recognizes none.
	Name string

	// Config is the stock configuration, of which http.headers, http.prefix,
	// catalog, tags, notifications and log.accesslog are used here. Requests are not
	// counted here, whatever http.debug.prometheus says: that is for the Observer.
	// Nil is the stock default.
	Config *configuration.Configuration

	// Access decides who may pull what. Nil lets everybody pull.
	Access Access

	// Apps are where the embedded app is taken from, so that servers that follow one
	// another share it. They have to be closed after the server. Default: it has one of
	// its own.
	Apps *Apps

	// Metrics get registry_module_answers_total by kind (tag, tags, referrers) and
	// freshness (fresh, revalidating, stale). Servers with the same ones count together.
	// Default: none.
	Metrics prometheus.Registerer

	// Observer is told of each answer, and of each request if it is a [Beginner]; nil for
	// nobody.
	Observer Observer

	// Tracing gets a span of each request, below the one that the client has told, and
	// what is done for it as spans below that. Nil is that nothing is traced.
	Tracing trace.TracerProvider

	// Sample is how many of the requests get a line in the log, unless log.accesslog is
	// disabled; the zero value is all.
	Sample Sample

	// Log gets one line per request and what goes wrong; default nothing.
	Log logrus.FieldLogger
}

// Server is an http.Handler. Create it with [New].
type Server struct {
	app       http.Handler
	own       *Apps // that app is of; nil where it is somebody else's
	ns        *namespace
	cache     *cache.Cache
	router    Router
	name      string // in Via headers
	access    Access
	headers   http.Header
	prefix    string // http.prefix as it is in a request
	shortcut  bool   // stored content need not go through the app
	accessLog bool
	tracing   trace.TracerProvider // nil: off
	sample    Sample
	answers   *prometheus.CounterVec
	observer  Observer
	beginner  Beginner // the observer, if it is one
	parts     *lru.Cache[digest.Digest, int]
	log       logrus.FieldLogger
	lines     *logrus.Entry // what those of the access log have in common
	now       func() time.Time
}

// New returns a server. The app's background work ends with ctx or Close. The
// app writes its own log with logrus' standard logger, which cannot be changed
// from outside.
func New(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		opts.Log = discard
	}
	if opts.Config == nil {
		opts.Config = &configuration.Configuration{}
	}
	s := &Server{
		cache:   opts.Cache,
		router:  opts.Router,
		name:    opts.Name,
		access:  opts.Access,
		headers: opts.Config.HTTP.Headers,
		prefix:  (&url.URL{Path: strings.TrimSuffix(opts.Config.HTTP.Prefix, "/")}).EscapedPath(),
		// The app sends the notifications, so everything has to go through it where
		// somebody wants these.
		shortcut:  !slices.ContainsFunc(opts.Config.Notifications.Endpoints, func(e configuration.Endpoint) bool { return !e.Disabled }),
		answers:   newAnswers(),
		observer:  opts.Observer,
		accessLog: !opts.Config.Log.AccessLog.Disabled,
		tracing:   opts.Tracing,
		sample:    opts.Sample,
		log:       opts.Log,
		lines:     opts.Log.WithFields(nil),
		now:       time.Now,
	}
	if opts.Metrics != nil {
		err := opts.Metrics.Register(s.answers)
		if before, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			s.answers, ok = before.ExistingCollector.(*prometheus.CounterVec)
			if ok {
				err = nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("counting answers: %w", err)
		}
	}
	s.beginner, _ = opts.Observer.(Beginner)
	var err error
	if s.parts, err = lru.New[digest.Digest, int](memParts); err != nil {
		return nil, fmt.Errorf("remembering manifests: %w", err)
	}
	s.ns = &namespace{cache: opts.Cache, router: opts.Router, log: opts.Log, fresh: s.show}
	if opts.Apps == nil {
		s.own = new(Apps)
		opts.Apps = s.own
	}
	s.app, err = opts.Apps.app(ctx, opts.Config)
	return s, err
}

// Close ends what an app of its own does in the background.
func (s *Server) Close() error {
	if s.own == nil {
		return nil
	}
	return s.own.Close()
}
