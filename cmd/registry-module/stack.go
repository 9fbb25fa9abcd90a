package main

import (
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/via"
	"registry-module/iotedge/workload"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
	"registry-module/upstream/metered"
	"registry-module/upstream/throttled"
)

// stack is a remote registry as the cache asks it: the connections, tokens and state that
// are kept from one generation to the next where nothing of what they depend on has changed.
type stack struct {
	shared
	settings stackSettings
	remote   *upstream.Remote
	limit    *throttled.Limiter
	breaker  *breaker.Breaker
}

// stackSettings are what of a remote's configuration a stack is made of.
type stackSettings struct {
	url                            string
	credentials                    config.Credentials
	realms                         []string
	ca, certificate, key           string
	insecure, trustBundle, noProxy bool
	proxy                          *url.URL
	stall                          time.Duration
}

func stackSettingsOf(r config.Remote) stackSettings {
	return stackSettings{
		url: r.URL.String(), credentials: r.Credentials, realms: r.AllowedRealms,
		ca: r.CAFile, certificate: r.CertFile, key: r.KeyFile,
		insecure: r.Insecure, trustBundle: r.TrustBundle, noProxy: r.NoHTTPProxy, proxy: r.HTTPProxy, stall: r.StallTimeout,
	}
}

// links are by what remotes are connected.
type links struct {
	log logrus.FieldLogger
	// contact is what all remotes go by.
	contact upstream.Switch
	// name is what requests to remotes call this process in their Via headers.
	name string
	// requests and health count what is asked of remotes, and what becomes of them, and go
	// on where one is connected anew.
	requests *metered.Counters
	health   map[string]*breaker.Counts // by host
	// changed is told of each change of a remote's state.
	changed func(from, to breaker.Status)
	// limit is that of all together.
	limit *throttled.Limiter
	// bundle has the authorities that the device trusts; nil where no remote has needed
	// them yet.
	bundle *workload.TrustBundle
}

func newLinks(reg prometheus.Registerer, log logrus.FieldLogger) (*links, error) {
	requests, err := metered.NewCounters(reg)
	return &links{
		log: log, name: via.NewName(), requests: requests, health: make(map[string]*breaker.Counts), limit: new(throttled.Limiter),
	}, err
}

// Close implements io.Closer. It breaks off what is connected to anybody.
func (l *links) Close() error {
	l.contact.Set(errors.New("the program ends"))
	if l.bundle == nil {
		return nil
	}
	return l.bundle.Close()
}

// connect connects remotes, in their order. Those that before returns for their hosts, if
// any, go on where they can. All that is wrong is in the error.
func (l *links) connect(remotes []config.Remote, before func(host string) *stack) (stacks []*stack, _ error) {
	var errs []error
	for _, r := range remotes {
		s := before(r.URL.Host)
		if s == nil || !reflect.DeepEqual(s.settings, stackSettingsOf(r)) {
			var err error
			if s, err = l.newStack(r); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		stacks = append(stacks, s)
	}
	return stacks, errors.Join(errs...)
}

// newStack connects a remote registry.
func (l *links) newStack(r config.Remote) (*stack, error) {
	if r.TrustBundle && l.bundle == nil {
		var err error
		if l.bundle, err = newTrustBundle(l.log); err != nil {
			return nil, err
		}
	}
	remote, err := upstream.New(upstream.Options{
		URL:           r.URL.String(),
		Credentials:   auth.New(credentialsOf(r)),
		AllowedRealms: r.AllowedRealms,
		CAFile:        r.CAFile,
		Authorities:   authoritiesOf(r, l.bundle),
		CertFile:      r.CertFile,
		KeyFile:       r.KeyFile,
		Insecure:      r.Insecure,
		Proxy:         proxyOf(r),
		StallTimeout:  r.StallTimeout,
		Switch:        &l.contact,
		Name:          l.name,
		UserAgent:     "registry-module/" + version,
		Log:           l.log,
	})
	if err != nil {
		return nil, err
	}
	host := remote.Host()
	if l.health[host] == nil {
		l.health[host] = new(breaker.Counts)
	}
	// From the inside: what is counted has been asked for, and is what the link
	// carries; what would lead to nothing does not even get to it.
	s := &stack{settings: stackSettingsOf(r), remote: remote, limit: throttled.NewLimiter(r.Bandwidth)}
	var up cache.Upstream = metered.New(remote, l.requests)
	up = throttled.New(up, s.limit, l.limit)
	s.breaker = breaker.New(up, breaker.Options{Log: l.log, Offline: l.contact.Offline, Counts: l.health[host], Changed: l.changed})
	// Downloads that are under way go on with it, for as long as they take: it is not
	// closed before the program ends.
	s.close = func() error { remote.CloseIdle(); return nil }
	return s, nil
}

// credentialsOf says where the credentials for a remote come from.
func credentialsOf(r config.Remote) auth.Options {
	c := r.Credentials
	return auth.Options{
		Host:              r.URL.Host,
		Username:          c.Username,
		Password:          string(c.Password),
		PasswordFile:      c.PasswordFile,
		IdentityToken:     string(c.IdentityToken),
		IdentityTokenFile: c.IdentityTokenFile,
		DockerConfig:      c.DockerConfig,
		Command:           c.Command,
		CommandLifetime:   c.CommandLifetime,
	}
}

// proxyOf gives the HTTP proxy for requests to a remote; nil is what the environment
// says.
func proxyOf(r config.Remote) func(*http.Request) (*url.URL, error) {
	switch {
	case r.NoHTTPProxy:
		return func(*http.Request) (*url.URL, error) { return nil, nil }
	case r.HTTPProxy != nil:
		return http.ProxyURL(r.HTTPProxy)
	}
	return nil
}

// breakers are those of the current remotes, in the order of the configuration.
func (p *program) breakers() (all []*breaker.Breaker) {
	if g := p.current.Load(); g != nil {
		for _, s := range g.stacks {
			all = append(all, s.breaker)
		}
	}
	return all
}
