package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"registry-module/config"
)

// TestReloadsAreOne has many come while a reload is under way, which get one more.
func TestReloadsAreOne(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	begun, proceed := make(chan struct{}, 100), make(chan struct{})
	load := s.reloader.load
	s.reloader.load = func() (*config.Config, error) {
		begun <- struct{}{}
		<-proceed
		return load()
	}
	var wg sync.WaitGroup
	ask := func() {
		wg.Go(func() {
			if _, err := s.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	ask()
	<-begun
	for range 20 {
		ask()
	}
	for waiting := false; !waiting; {
		s.reloader.mu.Lock()
		waiting = s.next != nil
		s.reloader.mu.Unlock()
		runtime.Gosched()
	}
	close(proceed)
	wg.Wait()
	if n := s.State().Reloads; n < 2 || n > 21 {
		t.Errorf("%d reloads", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&reloader{}).Reload(ctx); !errors.Is(err, errNoReload) {
		t.Error(err)
	}
}

// TestWatch looks at files, through links, and takes those that have not changed for a while.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"1", "2"} {
		if err := os.MkdirAll(filepath.Join(dir, "v"+version), 0o700); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, filepath.Join(dir, "v"+version, "secret"), "secret "+version)
	}
	link := func(to string) {
		t.Helper()
		temporary := filepath.Join(dir, "data.new")
		if err := os.Symlink(to, temporary); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
	link("v1")
	secret, plain := filepath.Join(dir, "data", "secret"), filepath.Join(dir, "plain")
	w := new(fileWatch)
	w.read(map[string]string{secret: sumOf(secret), plain: ""})
	steps := func(what string, want ...bool) {
		t.Helper()
		for i, want := range want {
			if got := w.changed(); got != want {
				t.Errorf("%s, look %d: %v", what, i, got)
			}
		}
		w.look()
		w.read(map[string]string{secret: "", plain: ""})
	}
	steps("nothing", false, false, false)
	link("v2")
	steps("the link", false, true)
	steps("nothing more", false, false)
	replaceFile(t, plain, "new")
	steps("a new file", false, true)
	if err := os.WriteFile(plain, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	steps("half a file", false)
	if err := os.Remove(plain); err != nil {
		t.Fatal(err)
	}
	if w.changed() {
		t.Error("a file that has just gone")
	}
	if err := os.WriteFile(plain, []byte("whole, now"), 0o600); err != nil {
		t.Fatal(err)
	}
	steps("written in steps", false, true)
	// What has changed between being read and being looked at first.
	w = new(fileWatch)
	w.read(map[string]string{plain: "another sum"})
	steps("changed since", false, true)
}

// TestHangup reloads by signal, and by changes of the file and of a secret, on a clock of the
// test's own.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	replaceFile(t, secret, "first")
	t.Setenv("REGISTRY_HTTP_SECRET_FILE", secret)
	hangups := make(chan os.Signal, 1)
	s := newReloadSite(t, "}\n", reloading{hangups: hangups, every: time.Millisecond})
	running := start(t.Context(), s.watch)
	defer func() { _ = running.Close() }()
	until := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for limit := time.After(2 * time.Minute); !ok(); {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("%s is not so: %+v", what, s.State())
			}
		}
	}
	hangups <- os.Interrupt
	until("the signal", func() bool { return s.State().Reloads == 1 })
	s.write(", headers: {X-Site: [c]}}\n")
	until("the file", func() bool { return s.get("").Header().Get("X-Site") == "c" })
	replaceFile(t, secret, "second")
	until("the secret", func() bool { return s.current.Load().cfg.Stock.HTTP.Secret == "second" })
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	until("the missing secret", func() bool { return s.State().Error != "" })
	failures := s.State().Failures
	replaceFile(t, secret, "third")
	until("the new secret", func() bool { return s.State().Error == "" && s.current.Load().cfg.Stock.HTTP.Secret == "third" })
	if n := s.State().Failures; n != failures {
		t.Errorf("%d failures, want the %d of one version", n, failures)
	}
}
