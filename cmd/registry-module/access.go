package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/auth/access"
	"registry-module/auth/policy"
	"registry-module/cache"
	"registry-module/config"
	"registry-module/internal/reloaded"
	"registry-module/server"
	"registry-module/upstream"
	"registry-module/upstream/breaker"
)

// callersName is the file in the data directory that has whom remotes have let in.
const callersName = "registry-module.callers.json"

// askedRemote asks a remote about callers, unless it is known not to answer.
type askedRemote struct {
	remote  *upstream.Remote
	breaker *breaker.Breaker
}

// Check implements access.Checker.
func (a askedRemote) Check(ctx context.Context, repo, kind, reference, user, password string) error {
	if why, due := a.breaker.Away(); why != nil && !due {
		return why
	}
	return a.remote.Check(ctx, repo, kind, reference, user, password)
}

// wireAccess says who may pull what; nil lets everybody pull. Asked are those of cfg, and
// names says what clients call a repository.
func wireAccess(cfg *config.Config, asked []askedRemote, names namer, callers access.Document, log logrus.FieldLogger) (*gate, error) {
	opts := access.Options{Document: callers, PassThrough: make(map[string]access.PassThrough), Log: log}
	for i, r := range cfg.Remotes {
		if r.PassThrough {
			opts.PassThrough[r.URL.Host] = access.PassThrough{Checker: asked[i], TTL: r.PassThroughTTL, Grace: r.PassThroughGrace}
		}
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
		}, reloaded.Options{Log: log})
		if err != nil {
			return nil, err
		}
		opts.Policy = rules.Get
	}
	by, err := access.New(opts)
	if err != nil {
		return nil, err
	}
	return &gate{by, names}, nil
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

// Close implements io.Closer.
func (g *gate) Close() error { return g.by.Close(context.Background()) }

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
