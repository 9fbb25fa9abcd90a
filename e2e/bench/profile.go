package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// profileSeconds is how long each profile of the processor takes: what is shorter than
// that at the end of a server is in none.
const profileSeconds = 2

// profiler takes profiles of a module for as long as it runs, one after the other, and
// writes them as files that `go tool pprof` takes all at once. Call the function that it
// returns before the module ends; nil is that there is nothing to call.
func (b *bench) profiler(ctx context.Context, admin string) (stop func()) {
	if b.profile == "" || b.noProfile.Load() {
		return nil
	}
	b.modules++
	name := fmt.Sprintf("%s-%d", b.scenario, b.modules)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ctx.Err() == nil; n++ {
			path := filepath.Join(b.profile, fmt.Sprintf("%s-%03d.pb.gz", name, n))
			if err := profileOnce(ctx, admin, path); err != nil {
				if ctx.Err() == nil && !b.noProfile.Swap(true) { // the rest of the run goes on without
					b.logf("%s: no profile: %v (the module gives one at its admin address with REGISTRY_ADMIN_PPROF=true)", b.scenario, err)
				}
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// profileOnce writes one profile to a file.
func profileOnce(ctx context.Context, admin, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", admin, profileSeconds), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", req.URL, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, profile, 0o644)
}
