package admin

import (
	"context"
	"io"
	"iter"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// MaxConns is how many connections the listener of the admin address should take at a time:
// all viewers that there may be, those that wait since their token was wrong, and far more
// for those who come and go. See registry-module/server/accept, which closes idle ones to
// make room.
const MaxConns = 128

// answerTimeout is how long a client may take for an answer, unless it is one that goes on.
const answerTimeout = time.Minute

// Options are what a [Server] shows and does. All functions are called by several goroutines
// at once, and only while somebody asks. The zero value answers that the process is alive.
type Options struct {
	// Version is the program's, Host the name of the machine (default: what it says of
	// itself), Started when the program has (default: now).
	Version, Host string
	Started       time.Time

	// Health answers GET /healthz; nil answers "ok".
	Health http.Handler
	// Ready says why no requests should be sent here, and what else is to be known that is
	// no such reason. Nil is ready. What remotes do must not be among the reasons.
	Ready func() (reasons, warnings []string)

	// Metrics answers GET MetricsPath, by default /metrics; nil for none.
	Metrics     http.Handler
	MetricsPath string
	// Pprof has profiles at /debug/pprof/. They slow the program down while they are made,
	// and name what its memory is used for.
	Pprof bool

	// Page makes what answers GET / and what is below /assets/, when the server is there
	// that it shows; nil for none.
	Page func(*Server) http.Handler

	// What the State consists of; nil is nothing. Served of Remotes need not be set where
	// there is a Recorder.
	Remotes func() []Remote
	Offline func() Offline
	Stats   func(context.Context) (cache.Stats, error)
	Config  func() Config
	Seed    func() *Seed
	// Recorder has traffic, history and problems; nil for none.
	Recorder *Recorder

	// Images lists what is stored; nil for nothing.
	Images func(context.Context) iter.Seq2[cache.Image, error]
	// Name is what clients call a repository. Nil takes its name at the remote.
	Name func(cache.Place) string

	// Actions change something, for who has the Token, which is read each time. The error of
	// Token is logged, and must not have it. Nil Actions or Token, or an
	// empty one: nothing can be changed.
	Actions Actions
	Token   func(context.Context) (string, error)
	// SeedJobs answers POST /seed, and looks for a token itself; nil for nobody.
	SeedJobs http.Handler

	// Log is told of attempts without the right token, and of what was done. Nil discards.
	Log logrus.FieldLogger
}

// Server answers on the admin address. It has to be closed.
type Server struct {
	opts   Options
	log    logrus.FieldLogger
	mux    *http.ServeMux
	looker looker
	lister lister
	hub    hub
	said   saidTexts
	gate   *Gate
	csrf   http.CrossOriginProtection

	stopping atomic.Bool
}

// New returns a server. It starts nothing: see [Server.Stop] and [Server.Close].
func New(opts Options) *Server {
	if opts.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		opts.Log = silent
	}
	if opts.Host == "" {
		opts.Host, _ = os.Hostname() // it is for display only
	}
	if opts.Started.IsZero() {
		opts.Started = time.Now()
	}
	if opts.MetricsPath == "" {
		opts.MetricsPath = "/metrics"
	}
	if opts.Recorder == nil {
		opts.Recorder = NewRecorder(RecorderOptions{})
	}
	s := &Server{opts: opts, log: opts.Log, mux: http.NewServeMux()}
	s.lister.init(opts)
	s.looker.init(s)
	s.hub.init(s.looker.look)
	if opts.Actions != nil && opts.Token != nil {
		s.gate = NewGate(GateOptions{
			Token: opts.Token, Realm: "registry-module admin", Setting: "REGISTRY_ADMIN_TOKENFILE",
			Purpose: "change something by the admin address", Log: opts.Log,
		})
	}
	s.routes()
	return s
}

// acts tells whether anything can be changed, be it that the token cannot be read now.
func (s *Server) acts(ctx context.Context) bool {
	if s.gate == nil {
		return false
	}
	token, err := s.opts.Token(ctx)
	return err != nil || token != ""
}

func (s *Server) routes() {
	health := s.opts.Health
	if health == nil {
		health = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeText(w, http.StatusOK, "ok\n")
		})
	}
	s.mux.Handle("GET /healthz", health)
	s.mux.HandleFunc("GET /readyz", s.serveReady)
	if s.opts.Metrics != nil {
		s.mux.Handle("GET "+s.opts.MetricsPath, s.opts.Metrics)
	}
	if s.opts.Pprof {
		s.mux.Handle("GET /debug/pprof/", newProfiles())
	}
	s.mux.HandleFunc("GET /state", s.serveState)
	s.mux.HandleFunc("GET /images", s.serveImages)
	s.mux.HandleFunc("GET /events", s.serveEvents)
	s.mux.HandleFunc("POST /actions/{action}", s.serveAction)
	if s.opts.SeedJobs != nil {
		s.mux.Handle("POST /seed", s.opts.SeedJobs)
	}
	if s.opts.Page != nil {
		page := s.opts.Page(s)
		s.mux.Handle("GET /{$}", page)
		s.mux.Handle("GET /assets/", page)
	}
}

// contentSecurityPolicy lets a page load what is served here, and nothing else: no script or
// style that is written into it, and no frame around it (Content Security Policy Level 3).
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	// With no-referrer the forms of the page would be sent with the origin null (Fetch,
	// section 3.2), and be refused.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if !strings.HasPrefix(r.URL.Path, "/assets/") {
		h.Set("Cache-Control", "no-store")
	}
	hurry(w, answerTimeout)
	s.mux.ServeHTTP(w, r)
}

// hurry bounds how long what is written from now on may take.
func hurry(w http.ResponseWriter, limit time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit)) // not every writer has one
}

// Stop has the server say that it is not ready: the process is about to end, and load
// balancers should send requests elsewhere. Everything else goes on.
func (s *Server) Stop() {
	s.stopping.Store(true)
	s.looker.forget()
}

// Close ends the streams of events, and gives none any more. It is for
// [http.Server.RegisterOnShutdown], and returns at once.
func (s *Server) Close() {
	s.Stop()
	s.hub.close()
	s.lister.close()
}
