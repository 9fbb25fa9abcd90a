package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"registry-module/e2e/lab"
)

// server is what clients pull from.
type server struct {
	name string
	url  string
	proc *lab.Process // nil: it is not ours to measure
	dir  string
	// admin is the URL of the module's admin address; the others have none.
	admin string
	// ended is called before it is stopped, unless it is nil.
	ended func()
}

// fleet is the servers of one scenario.
type fleet []*server

// launch starts servers by their names, each with an empty directory and the
// upstream as its remote. One that does not start is left out. Call stop.
func (b *bench) launch(ctx context.Context, names ...string) fleet {
	var f fleet
	for _, name := range b.available(names...) {
		s, err := b.start(ctx, name)
		if err != nil {
			b.fail(err)
			continue
		}
		f = append(f, s)
	}
	return f
}

// available leaves out the servers that could not be built.
func (b *bench) available(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return name != direct && b.binaries[name] == ""
	})
}

// start starts one, with settings beside those that all have.
func (b *bench) start(ctx context.Context, name string, settings ...lab.Env) (*server, error) {
	if name == direct {
		return &server{name: name, url: b.upstream.Registry}, nil
	}
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	env := lab.Env{
		"REGISTRY_PROXY_REMOTEURL":        b.upstream.Registry,
		"REGISTRY_LOG_LEVEL":              "warn",
		"REGISTRY_LOG_ACCESSLOG_DISABLED": "true", // as nginx has it
	}
	if b.profile != "" {
		env["REGISTRY_ADMIN_PPROF"] = "true" // those that do not know it take no notice
	}
	for _, more := range settings {
		maps.Copy(env, more)
	}
	s := &server{name: name, dir: dir}
	switch name {
	case module:
		r, err := lab.StartModule(ctx, b.binaries[module], dir, env)
		if err != nil {
			return nil, err
		}
		s.proc, s.url, s.admin = r.Process, r.URL(), "http://"+r.Admin
		s.ended = b.profiler(ctx, s.admin)
	case stock:
		env["REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR"] = "inmemory" // as in its image
		r, err := lab.StartStock(ctx, b.binaries[stock], dir, env)
		if err != nil {
			return nil, err
		}
		s.proc, s.url = r.Process, r.URL()
	case zot:
		s.proc, s.url, err = startZot(ctx, b.binaries[zot], dir, b.upstream.Registry)
		if err != nil {
			return nil, err
		}
	case nginxCached:
		s.proc, s.url, err = lab.StartNginx(ctx, dir, nginxProxy(b.upstream.Registry))
		if err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("starting %s: no such server", name)
	}
	return s, nil
}

// stop ends the servers and removes their files.
func (f fleet) stop() error {
	var errs []error
	for _, s := range f {
		errs = append(errs, s.stop())
	}
	return errors.Join(errs...)
}

// joinStop stops the servers and adds to err what comes of it.
func joinStop(err error, f fleet) error { return errors.Join(err, f.stop()) }

func (s *server) stop() error {
	if s.ended != nil {
		s.ended()
	}
	if s.proc == nil {
		return nil
	}
	return errors.Join(s.proc.Stop(), os.RemoveAll(s.dir))
}

// turns yields the servers in an order that differs from one repetition to the
// next, so that none is always the one after a certain other.
func (f fleet) turns(repetition int) fleet {
	k := repetition % len(f)
	return append(append(fleet{}, f[k:]...), f[:k]...)
}
