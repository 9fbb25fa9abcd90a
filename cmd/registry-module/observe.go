package main

import (
	"net"
	"net/http"
	"os"
	"reflect"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/prometheus/client_golang/prometheus"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/metrics"
	"registry-module/server"
	"registry-module/server/admin"
	"registry-module/server/notify"
	"registry-module/server/pulls"
	"registry-module/upstream/breaker"
)

// observers are told what happens, for as long as the process lives.
type observers struct {
	answers   *metrics.Answers
	downloads *metrics.Downloads
	pulled    *pulls.Pulls
	recorder  *admin.Recorder
}

// observe makes what is told of all that happens.
func (p *program) observe(cfg *config.Config) error {
	p.observers = observers{
		answers:   metrics.NewAnswers(metrics.AnswersOptions{Stock: cfg.Stock.HTTP.Debug.Prometheus.Enabled}),
		downloads: metrics.NewDownloads(),
		pulled:    pulls.New(pulls.Options{Log: p.log}),
		recorder:  admin.NewRecorder(admin.RecorderOptions{Fetched: p.links.requests.Fetched}),
	}
	p.closers = append(p.closers, p.pulled)
	p.links.changed = p.remoteChanged
	for _, c := range []prometheus.Collector{p.answers, p.downloads, metrics.NewBuild(version)} {
		if err := p.metrics.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// tellApart has what concerns the remotes of g counted for each of them from now on. Those of
// earlier generations stay.
func (o observers) tellApart(g *generation) {
	remotes, _ := g.served.now()
	for _, r := range remotes {
		if r.Host != "" {
			o.answers.AddRemotes(r.Host)
			o.downloads.AddRemotes(r.Host)
		}
	}
}

// ofRequests are told of requests.
func (o observers) ofRequests() server.Observer {
	return server.Observers{o.answers, o.pulled, o.recorder}
}

// ofCache are told of what happens in the cache.
func (p *program) ofCache() cache.Observer {
	return cache.Observers{p.downloads, p.recorder, webhooks{p}}
}

// remoteChanged is told of each change of a remote's state.
func (p *program) remoteChanged(from, to breaker.Status) {
	p.recorder.RemoteChanged(shownRemote(to))
	if n := p.notifier(); n != nil {
		n.RemoteChanged(to.Remote, string(from.State), string(to.State), to.Reason)
	}
}

// notifier tells the webhooks of the current configuration; nil where there are none.
func (p *program) notifier() *notify.Notifier {
	if g := p.current.Load(); g != nil && g.webhooks != nil {
		return g.webhooks.Notifier
	}
	return nil
}

// webhooks has those of the current configuration told what happens in the cache.
type webhooks struct{ p *program }

// FillEnded implements cache.Observer.
func (w webhooks) FillEnded(cache.FillEnd) {} // of pulls they are told by the app

// Evicted implements cache.Observer.
func (w webhooks) Evicted(e cache.Eviction) {
	if n := w.p.notifier(); n != nil {
		n.Evicted(e)
	}
}

// RoomChanged implements cache.Observer.
func (w webhooks) RoomChanged(r cache.Room) {
	if n := w.p.notifier(); n != nil {
		n.RoomChanged(r)
	}
}

// notifications are the webhooks of a configuration, which go on with the next one where
// they are the same.
type notifications struct {
	shared
	*notify.Notifier
	endpoints []configuration.Endpoint
	addr      string
}

// wireNotifications prepares what webhooks are told beside pulls; nil where there are none.
func (p *program) wireNotifications(cfg *config.Config, before *generation) *notifications {
	n := &notifications{endpoints: cfg.Stock.Notifications.Endpoints, addr: cfg.Addr}
	if len(n.endpoints) == 0 {
		return nil
	}
	if before != nil && before.webhooks != nil && n.addr == before.webhooks.addr && reflect.DeepEqual(n.endpoints, before.webhooks.endpoints) {
		return before.webhooks
	}
	source, _ := os.Hostname() // it is for people
	if _, port, err := net.SplitHostPort(n.addr); err == nil {
		source = net.JoinHostPort(source, port)
	}
	n.Notifier = notify.New(notify.Options{Endpoints: n.endpoints, Source: source, Drain: returnTimeout, Log: p.log})
	n.close = n.Notifier.Close
	return n
}

// noticing has those who look at the list of images see what a command has changed.
func (p *program) noticing(commands http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		commands.ServeHTTP(w, r)
		if r.Method != http.MethodGet {
			p.recorder.ImagesChanged()
		}
	})
}
