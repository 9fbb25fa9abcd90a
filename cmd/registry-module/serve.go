package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/server/accept"
	"registry-module/server/admin"
)

// After SIGTERM, running requests have http.draintimeout to end, by default
// drainTimeout; those that are cut off then have returnTimeout to return, before
// what they use is closed. With the default all of that is over before docker
// stop and podman stop kill, which by default is after 10 s.
const (
	drainTimeout  = 8 * time.Second
	returnTimeout = time.Second
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve [config.yml]",
		Short: "Serve images, fetching from the remote registry what is missing",
		Long: `Serve the OCI distribution API. The configuration is that of the stock registry
image: a config.yml, and REGISTRY_* variables that take precedence over it.
Neither is needed: without a remote, the data directory is served as it is.`,
		Example: `  REGISTRY_PROXY_REMOTEURL=https://registry-1.docker.io registry-module serve
  registry-module serve /etc/distribution/config.yml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			cfg, err := config.Load(path)
			if err = withTracing(err, os.Getenv); err != nil {
				return inFormOf(cfg, err) // cfg is nil where it is what is wrong
			}
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			return inFormOf(cfg, serve(cmd.Context(), cfg, reloading{
				load:    func() (*config.Config, error) { return config.Reload(path) },
				hangups: hangups, every: lookEvery,
			}))
		},
	}
}

// serve runs until ctx ends.
func serve(ctx context.Context, cfg *config.Config, again reloading) error {
	log := newLogger(cfg, os.Stdout)
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	p, err := wire(ctx, cfg, log)
	if err != nil {
		return err
	}
	reloader, err := p.reloadBy(again)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	ln, err := listen(p.current.Load(), log)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	adminLn, err := listenAdmin(cfg, log)
	if err != nil {
		return errors.Join(err, ln.Close(), p.Close())
	}
	all := []served{
		{newAPIServer(p.handler, ln, log), ln},
		{newAdminServer(ctx, p.admin, adminLn, log), adminLn},
	}
	if control, err := listenControl(cfg.DataDir); err != nil {
		log.WithError(err).Warn("commands cannot talk to this server; it works without")
	} else {
		all = append(all, served{newControlServer(ctx, reloader.besides(p.control), log), control})
	}
	p.onTakeOver(func(g *generation) {
		setLogger(log, g.cfg, os.Stdout)
		ln.Speak(g.tls, demandsCertificates(g.cfg.Stock.HTTP.TLS))
	})
	announce(log, cfg, p, ln.Addr(), adminLn.Addr())
	p.start()
	watching := start(ctx, reloader.watch)
	context.AfterFunc(ctx, p.admin.Stop) // so that nobody is sent here any more
	err = run(ctx, log, p.drain, all...)
	return errors.Join(err, watching.Close(), p.Close())
}

// drain is how long running requests have to end.
func (p *program) drain() time.Duration {
	return cmp.Or(p.current.Load().cfg.Stock.HTTP.DrainTimeout, drainTimeout)
}

// announce says what the program is going to do.
func announce(log logrus.FieldLogger, cfg *config.Config, p *program, addr, admin net.Addr) {
	entry := log.WithFields(logrus.Fields{"version": version, "data": cfg.DataDir, "via": p.links.name, "admin": admin.String()})
	var hosts []string
	for _, r := range cfg.Remotes {
		hosts = append(hosts, r.URL.Host)
	}
	switch {
	case len(hosts) > 0 && p.offline.apply().Offline:
		entry.Infof("listening on %v; offline: %s is not contacted", addr, strings.Join(hosts, ", "))
	case len(hosts) > 0:
		entry.Infof("listening on %v for images of %s", addr, strings.Join(hosts, ", "))
	default:
		entry.Warnf("listening on %v; no remote registry is configured: only what the data directory holds is served; set REGISTRY_PROXY_REMOTEURL to fetch what is missing", addr)
	}
}

// served is a server and where it listens.
type served struct {
	server   *http.Server
	listener net.Listener
}

// run serves until ctx ends or one of the servers fails, then lets the running
// requests end, for as long as drain. Handlers have returned when it returns,
// unless they ignore that their connection is gone.
func run(ctx context.Context, log logrus.FieldLogger, drain func() time.Duration, all ...served) error {
	var connections sync.WaitGroup
	failed := make(chan error, len(all))
	for _, s := range all {
		s.server.ConnState = count(&connections, s.server.ConnState)
		go func() { failed <- s.server.Serve(s.listener) }()
	}
	var errs []error
	serving := len(all)
	select {
	case <-ctx.Done():
		log.Infof("stopping; running requests have %v to end; another signal ends at once", drain())
	case err := <-failed:
		errs = append(errs, err)
		serving--
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain())
	defer cancel()
	for _, s := range all {
		if err := s.server.Shutdown(limit); err != nil {
			log.WithError(err).Warn("requests were cut off")
			errs = append(errs, s.server.Close())
		}
	}
	for range serving {
		<-failed // http.ErrServerClosed: there are no new connections from here on
	}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		connections.Wait()
	}()
	select {
	case <-returned:
	case <-time.After(returnTimeout):
		log.Warn("requests that were cut off do not end")
	}
	return errors.Join(errs...)
}

// count counts the connections that are open, each until its handler has
// returned. Next, if set, is told what becomes of them, too.
func count(open *sync.WaitGroup, next func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	return func(c net.Conn, state http.ConnState) {
		if next != nil {
			next(c, state)
		}
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateHijacked, http.StateClosed:
			open.Done()
		}
	}
}

// maxHeader is the size in bytes of the header of a request; net/http allows for 4 KiB
// more. The tokens of registries have up to some 8 KiB. It is what bounds the memory of a
// connection: a header of many short lines takes 20 times its size, and anybody can send
// half of one and leave it at that.
const maxHeader = 16 << 10

// newHTTPServer bounds what idle and half-hearted clients may hold, and nothing
// else: a slow chain of proxies may take an hour for a layer. Package server
// bounds how long a client may take nothing.
func newHTTPServer(h http.Handler, log logrus.FieldLogger) *http.Server {
	return &http.Server{
		Handler:           boundBodies(h, 0),
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          httpLog(log),
	}
}

// newAPIServer is newHTTPServer for what anybody can reach. It serves ln alone, which
// bounds how many connections there are.
func newAPIServer(h http.Handler, ln *accept.Listener, log logrus.FieldLogger) *http.Server {
	srv := newHTTPServer(h, log)
	srv.Handler = onlyHTTP1(boundBodies(ln.Recheck(h), bodyTimeout))
	srv.ConnState = ln.ConnState
	return srv
}

// onlyHTTP1 tells a client that begins with HTTP/2 where that was not agreed on, which
// net/http leaves to its handler, to speak HTTP/1.1.
func onlyHTTP1(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			w.Header().Set("Connection", "close")
			http.Error(w, "this registry speaks HTTP/1.1", http.StatusHTTPVersionNotSupported)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// listen opens the API port: for plain HTTP, and, where there is a certificate, for TLS
// as well. Where clients have to show a certificate, plain HTTP is refused.
func listen(g *generation, log logrus.FieldLogger) (*accept.Listener, error) {
	ln, err := net.Listen(g.cfg.Net, g.cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening (REGISTRY_HTTP_ADDR): %w", err)
	}
	return accept.New(ln, accept.Options{TLS: g.tls, RequireTLS: demandsCertificates(g.cfg.Stock.HTTP.TLS), Log: log}), nil
}

func listenAdmin(cfg *config.Config, log logrus.FieldLogger) (*accept.Listener, error) {
	ln, err := net.Listen("tcp", cfg.AdminAddr)
	if err != nil {
		return nil, fmt.Errorf("listening for administration (REGISTRY_HTTP_DEBUG_ADDR): %w", err)
	}
	return accept.New(ln, accept.Options{MaxConns: admin.MaxConns, Log: log}), nil
}

// newAdminServer is newControlServer for the admin address, which lower layers cannot reach.
func newAdminServer(ctx context.Context, h *admin.Server, ln *accept.Listener, log logrus.FieldLogger) *http.Server {
	srv := newControlServer(ctx, h, log)
	srv.ConnState = ln.ConnState
	srv.RegisterOnShutdown(h.Close)
	return srv
}

// stockMetrics are the app's, which distribution registers with the global
// registry. Those of the process are left out: own has them.
type stockMetrics struct{}

// Gather implements prometheus.Gatherer.
func (stockMetrics) Gather() ([]*dto.MetricFamily, error) {
	families, err := prometheus.DefaultGatherer.Gather()
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
		name := f.GetName()
		// What is counted of requests is ours, by the same names.
		return !strings.HasPrefix(name, "registry_") || strings.HasPrefix(name, "registry_http_") || strings.HasPrefix(name, "registry_proxy_")
	}), err
}
