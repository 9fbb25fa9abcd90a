package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/auth"
	"registry-module/auth/access"
	"registry-module/auth/policy"
	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/reloaded"
	"registry-module/server"
)

// callersName is the file in the data directory that has whom remotes have let in.
const callersName = "registry-module.callers.json"

// askedRemote asks the remote that now has a host about callers, unless it is known not to
// answer.
type askedRemote struct {
	current *atomic.Pointer[generation]
	host    string
}

// Check implements access.Checker.
func (a askedRemote) Check(ctx context.Context, repo, kind, reference, user, password string) error {
	s := a.current.Load().stack(a.host)
	if s == nil {
		return fmt.Errorf("%s: %w any more", a.host, cache.ErrNotServed)
	}
	if why, due := s.breaker.Away(); why != nil && !due {
		return why
	}
	return s.remote.Check(ctx, repo, kind, reference, user, password)
}

// accessControl says who may pull what, whatever it is called: that is for the generation.
// It goes on from one to the next where nothing of its settings has changed, since it
// remembers whom it has let in.
type accessControl struct {
	shared
	*access.Gate
	settings accessSettings
}

// accessSettings are what of a configuration it is made of.
type accessSettings struct {
	auth        configuration.Auth
	keys        []string // digests of files that are read once
	policy      string
	passThrough map[string][2]time.Duration // by host
}

func accessSettingsOf(cfg *config.Config) accessSettings {
	s := accessSettings{auth: cfg.Stock.Auth, policy: cfg.AccessPolicy, passThrough: make(map[string][2]time.Duration)}
	for _, r := range cfg.Remotes {
		if r.PassThrough {
			s.passThrough[r.URL.Host] = [2]time.Duration{r.PassThroughTTL, r.PassThroughGrace}
		}
	}
	if kind := cfg.Stock.Auth.Type(); kind == "token" {
		for _, name := range []string{"rootcertbundle", "jwks"} {
			path, _ := cfg.Stock.Auth.Parameters()[name].(string)
			s.keys = append(s.keys, cfg.Files[path])
		}
	}
	return s
}

// callersDocument keeps whom remotes have let in, for the one that decides now: what those
// of earlier generations find out yet is not worth a quarrel.
type callersDocument struct {
	access.Document
	writing sync.Mutex
	owner   atomic.Pointer[accessControl]
}

// own has of write from now on, and nobody else.
func (d *callersDocument) own(of *accessControl) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.owner.Store(of)
}

// callersOf is a callersDocument as one of them sees it.
type callersOf struct {
	*callersDocument
	of *accessControl
}

// Write implements access.Document.
func (d callersOf) Write(ctx context.Context, content []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.owner.Load() != d.of {
		return nil
	}
	return d.Document.Write(ctx, content)
}

// wireAccess says who may pull what; nil lets everybody pull. That of the generation before
// goes on where it can. All that it is made of is looked at in any case.
func (p *program) wireAccess(cfg *config.Config, before *generation) (*accessControl, error) {
	a := &accessControl{settings: accessSettingsOf(cfg)}
	opts := access.Options{Document: callersOf{&p.callers, a}, PassThrough: make(map[string]access.PassThrough), Log: p.log}
	for host, lasts := range a.settings.passThrough {
		opts.PassThrough[host] = access.PassThrough{Checker: askedRemote{&p.current, host}, TTL: lasts[0], Grace: lasts[1]}
	}
	kind := cfg.Stock.Auth.Type()
	if kind == "" || kind == "none" {
		if len(opts.PassThrough) == 0 && cfg.AccessPolicy == "" {
			return nil, nil
		}
	} else {
		params := cfg.Stock.Auth.Parameters()
		var err error
		if opts.Controller, err = auth.NewAccessController(kind, params); err != nil {
			return nil, err
		}
		opts.Realm, _ = params["realm"].(string)
		if kind == "htpasswd" {
			opts.PasswordFile, _ = params["path"].(string)
		}
	}
	if path := cfg.AccessPolicy; path != "" {
		rules, err := reloaded.New([]string{path}, func(contents [][]byte) (*policy.Policy, error) {
			p, err := policy.Parse(contents[0])
			if err != nil {
				err = fmt.Errorf("access.policy (REGISTRY_ACCESS_POLICY): %s: %w", path, err)
			}
			return p, err
		}, reloaded.Options{Log: p.log})
		if err != nil {
			return nil, err
		}
		opts.Policy = rules.Get
	}
	if before != nil && before.access != nil {
		if reflect.DeepEqual(before.access.settings, a.settings) {
			return before.access, nil
		}
		_ = before.access.Save(context.Background()) // it has said so in the log
	}
	var err error
	if a.Gate, err = access.New(opts); err != nil {
		return nil, err
	}
	a.close = func() error { return a.Gate.Close(context.Background()) }
	return a, nil
}

// namer knows what clients can call a repository.
type namer interface{ Names(cache.Place) []string }

// gate is access control in terms of package server.
type gate struct {
	by    *access.Gate
	names namer
}

// Authorize implements server.Access.
func (g *gate) Authorize(r *http.Request, asked server.Asked) (server.Caller, error) {
	ask := access.Ask{Resource: asked.Resource, Catalog: asked.Catalog, Kind: asked.Content, Reference: asked.Reference}
	if len(asked.Places) > 0 {
		first := asked.Places[0]
		ask.Names, ask.Host, ask.Repo = g.names.Names(first), first.Host, first.Repo
	}
	by, err := g.by.Authorize(r, ask)
	if err != nil {
		return nil, refusal(err)
	}
	c := caller{by, g.names}
	// Which of the remotes has it is not to be found out by who may not pull from one.
	for _, place := range asked.Places[min(1, len(asked.Places)):] {
		if !c.MayPull(place) {
			return nil, server.ErrForbidden
		}
	}
	return c, nil
}

// refusal is err in terms of package server.
func refusal(err error) error {
	busy, isBusy := errors.AsType[*access.BusyError](err)
	switch {
	case errors.Is(err, access.ErrDenied):
		return fmt.Errorf("%w: %w", server.ErrForbidden, err)
	case isBusy:
		return &server.BusyError{RetryAfter: busy.RetryAfter, Err: err}
	case errors.Is(err, access.ErrUnavailable):
		return fmt.Errorf("%w: %w", server.ErrUndecided, err)
	}
	return err
}

// caller is somebody who was let in.
type caller struct {
	*access.Caller
	names namer
}

// MayPull implements server.Caller.
func (c caller) MayPull(p cache.Place) bool {
	return c.Caller.MayPull(c.names.Names(p), p.Host, p.Repo)
}
