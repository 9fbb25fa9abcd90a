package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"registry-module/config"
)

// reloading says how a running program comes by another configuration. With the zero value
// it does not.
type reloading struct {
	// load reads it again.
	load func() (*config.Config, error)
	// hangups are signals to do so.
	hangups <-chan os.Signal
	// every is how often it is looked whether files have changed; 0 is never.
	every time.Duration
}

// lookEvery is how often it is looked whether files have changed.
const lookEvery = 2 * time.Second

// reloader replaces the configuration of a program.
type reloader struct {
	program *program
	reloading
}

func (p *program) reloadBy(r reloading) (*reloader, error) { return &reloader{p, r}, nil }

func (r *reloader) besides(others http.Handler) http.Handler { return others }

func (r *reloader) watch(ctx context.Context) { <-ctx.Done() }

// onTakeOver has tell called for each generation that becomes the current one from now on.
func (p *program) onTakeOver(tell func(*generation)) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.takenOver = append(p.takenOver, tell)
}
