package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/google/go-containerregistry/pkg/registry"
)

// MemoryOptions says what kind of memory registry to start.
type MemoryOptions struct {
	// Canary and Name are as in [UpstreamOptions].
	Canary *Canary
	Name   string
}

// Memory is an upstream that is the registry of go-containerregistry, which keeps
// all in memory and knows everybody. It serves a blob in each of its repositories, and
// lists referrers.
type Memory struct {
	// Ledger has every request to the gateway.
	Ledger
	hosts
	direct *Gateway // past the ledger, for pushes
}

// StartMemory starts it. Stop ends it.
func StartMemory(o MemoryOptions) (_ *Memory, err error) {
	m := new(Memory)
	m.Tap = o.Canary.tap(o.Name)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a registry in memory: %w", err), m.Stop())
		}
	}()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	if m.direct, err = NewGateway(content); err != nil {
		return nil, err
	}
	m.Gateway, err = NewGateway(content, func(next http.Handler) http.Handler { return m.Record("", next) })
	return m, err
}

// Push puts images into it. The ledger does not see it.
func (m *Memory) Push(ctx context.Context, images ...Image) error {
	for _, img := range images {
		if err := (pusher{url: m.direct.URL() + "/v2/" + img.Repo}).image(ctx, img); err != nil {
			return fmt.Errorf("pushing %s: %w", img.ByTag(m.Addr), err)
		}
	}
	return nil
}

// Stop ends it.
func (m *Memory) Stop() error {
	err := m.Down()
	if m.direct != nil {
		err = errors.Join(err, m.direct.Down())
	}
	return err
}
