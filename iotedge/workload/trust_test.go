package workload_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/iotedge/workload"
	wt "registry-module/iotedge/workload/workloadtest"
)

// trusting runs fn in a bubble with the trust bundle of api, which is outside of it.
func trusting(t *testing.T, api *wt.API, fn func(*testing.T, *workload.TrustBundle, *test.Hook)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log, hook := newLog()
		b := newClient(t, options(api)).NewTrustBundle(log)
		fn(t, b, hook)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// wantBundle fails unless b gives want without waiting.
func wantBundle(t *testing.T, b *workload.TrustBundle, want []byte) {
	t.Helper()
	start := time.Now()
	if got, err := b.Authorities(t.Context()); err != nil || string(got) != string(want) {
		t.Errorf("got %v,\n%s\nwant\n%s", err, got, want)
	}
	if waited := time.Since(start); waited != 0 {
		t.Errorf("it has waited for %v", waited)
	}
}

func TestTrustBundleIsKept(t *testing.T) {
	api := wt.New(t, wt.Options{})
	first := api.Root().PEM()
	trusting(t, api, func(t *testing.T, b *workload.TrustBundle, hook *test.Hook) {
		if n := api.Requests(); n != 0 {
			t.Errorf("%d requests before it is needed", n)
		}
		for range 10 {
			wantBundle(t, b, first)
			time.Sleep(20 * time.Second)
		}
		if n := api.Requests(wt.TrustBundle); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		if err := api.Rotate(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		start := time.Now() // nobody waits for the new one, which may be there already
		if _, err := b.Authorities(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		synctest.Wait()
		settle(t, api, 2)
		wantBundle(t, b, api.Root().PEM())
		if n := logged(hook, logrus.InfoLevel, "authorities of the IoT Edge trust bundle are trusted"); n != 2 {
			t.Errorf("%d lines tell of bundles, want 2", n)
		}
	})
}

// settle waits until the API has answered n requests for the trust bundle, and that has
// been taken note of.
func settle(t *testing.T, api *wt.API, n int) {
	t.Helper()
	for api.Requests(wt.TrustBundle) < n {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Millisecond) // which needs that all else in the bubble waits
}

// What was good stays, whatever the API says later.
func TestTrustBundleSurvives(t *testing.T) {
	for name, tt := range map[string]struct {
		fault wt.Fault
		says  string
	}{
		"refused":  {wt.Fault{Status: 500, Message: "no"}, "HTTP status 500: no"},
		"away":     {wt.Fault{Drop: true}, "just being restarted"},
		"nonsense": {wt.Fault{Body: "{}"}, "not the JSON"},
		"empty":    {wt.Fault{Body: `{"certificate": ""}`}, "is empty: set trust_bundle_cert in config.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			api := wt.New(t, wt.Options{})
			trusting(t, api, func(t *testing.T, b *workload.TrustBundle, hook *test.Hook) {
				wantBundle(t, b, api.Root().PEM())
				api.Break(wt.TrustBundle, tt.fault)
				time.Sleep(6 * time.Minute)
				if got, _ := b.Authorities(t.Context()); string(got) != string(api.Root().PEM()) { // the answer may be there already
					t.Errorf("got %q", got)
				}
				settle(t, api, 2)
				for range 20 {
					got, err := b.Authorities(t.Context())
					if string(got) != string(api.Root().PEM()) || err == nil || !strings.Contains(err.Error(), tt.says) {
						t.Fatalf("got %q, error %v does not say %q", got, err, tt.says)
					}
					time.Sleep(15 * time.Second)
				}
				if n := api.Requests(wt.TrustBundle); n < 9 || n > 13 {
					t.Errorf("%d requests in 5 minutes", n)
				}
				if n := logged(hook, logrus.WarnLevel, "what it was before is trusted"); n != 1 {
					t.Errorf("%d lines say so, want 1", n)
				}
				api.Mend()
				time.Sleep(time.Minute)
				for range 60_000 { // for a minute at most
					if _, err := b.Authorities(t.Context()); err == nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				wantBundle(t, b, api.Root().PEM())
				if n := logged(hook, logrus.InfoLevel, "can be had again"); n != 1 {
					t.Errorf("%d lines say that it is over, want 1", n)
				}
			})
		})
	}
}

// While there is none, it is asked for at most every few seconds, and had as soon as the
// API answers.
func TestNoTrustBundleYet(t *testing.T) {
	api := wt.New(t, wt.Options{})
	api.Break(wt.TrustBundle, wt.Fault{Drop: true})
	trusting(t, api, func(t *testing.T, b *workload.TrustBundle, hook *test.Hook) {
		for range 60 {
			if got, err := b.Authorities(t.Context()); got != nil || err == nil || !strings.Contains(err.Error(), "just being restarted") {
				t.Fatalf("got %q, %v", got, err)
			}
			time.Sleep(time.Second)
		}
		if n := api.Requests(wt.TrustBundle); n != 6 {
			t.Errorf("%d requests in a minute, want 6", n)
		}
		if n := logged(hook, logrus.WarnLevel, "there is no IoT Edge trust bundle yet"); n != 1 {
			t.Errorf("%d lines say so, want 1", n)
		}
		api.Mend()
		time.Sleep(10 * time.Second)
		wantBundle(t, b, api.Root().PEM())
	})
}

// A certificate of an unknown authority has it asked for again, at most every few
// seconds.
func TestDoubt(t *testing.T) {
	api := wt.New(t, wt.Options{})
	trusting(t, api, func(t *testing.T, b *workload.TrustBundle, _ *test.Hook) {
		wantBundle(t, b, api.Root().PEM())
		if err := api.Rotate(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for range 10 {
			b.Doubt(t.Context())
			wantBundle(t, b, api.Root().PEM())
		}
		if n := api.Requests(wt.TrustBundle); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

// An API that hangs holds up nobody for longer than he wants, and Close ends it.
func TestTrustBundleHangs(t *testing.T) {
	api := wt.New(t, wt.Options{})
	api.Break(wt.TrustBundle, wt.Fault{Hang: true})
	b := newClient(t, options(api)).NewTrustBundle(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := b.Authorities(ctx); got != nil || err == nil || !strings.Contains(err.Error(), "has not answered yet") {
		t.Errorf("got %q, %v", got, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if got, err := b.Authorities(t.Context()); got != nil || err == nil {
		t.Errorf("after it was closed: %q, %v", got, err)
	}
	b.Doubt(t.Context())
	if n := api.Requests(wt.TrustBundle); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// The runtime is restarted at the same socket.
func TestRuntimeIsRestarted(t *testing.T) {
	api := wt.New(t, wt.Options{})
	c := newClient(t, options(api))
	for range 3 {
		if _, err := c.TrustBundle(t.Context()); err != nil {
			t.Error(err)
		}
		api.Stop()
		if _, err := c.TrustBundle(t.Context()); err == nil {
			t.Error("nobody is there, and answers")
		}
		if err := api.Start(); err != nil {
			t.Fatal(err)
		}
	}
}
