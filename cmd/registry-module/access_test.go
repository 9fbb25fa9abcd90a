package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/upstream/upstreamtest"
)

// A policy that is replaced holds without a restart, within a second or so. One that is no
// good leaves the one before in place, and is in the log.
func TestPolicyIsReplaced(t *testing.T) {
	up := upstreamtest.New(t)
	up.AddRandomImage("a/app", "v1", 1, 100)
	up.AddRandomImage("b/app", "v1", 1, 100)
	cfg := testConfig(t, t.TempDir(), up.Host())
	cfg.AccessPolicy = filepath.Join(t.TempDir(), "policy.yml")
	replace := func(text string) {
		t.Helper()
		temporary := cfg.AccessPolicy + ".new"
		if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, cfg.AccessPolicy); err != nil {
			t.Fatal(err)
		}
	}
	replace(`rules: [{anonymous: true, pull: [a/*]}]`)
	log, hook := test.NewNullLogger()
	p, err := wire(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	status := func(repo string) int {
		w := httptest.NewRecorder()
		p.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/"+repo+"/manifests/v1", nil))
		return w.Code
	}
	// until asks until what is expected is so, for no longer than a second and what a busy
	// machine takes.
	until := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for limit := time.After(5 * time.Second); !ok(); {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("%s is not so", what)
			}
		}
	}
	warned := func() bool {
		status("a/app") // which has the file looked at
		for _, e := range hook.AllEntries() {
			if strings.Contains(e.Message, cfg.AccessPolicy+": the new version cannot be used") {
				text, err := e.String()
				return err == nil && strings.Contains(text, "REGISTRY_ACCESS_POLICY") && strings.Contains(text, "line 1")
			}
		}
		return false
	}
	if a, b := status("a/app"), status("b/app"); a != 200 || b != 401 {
		t.Fatalf("statuses %d and %d, want 200 and 401", a, b)
	}
	replace(`rules: [{anonymous: true, pull: [b/*]}]`)
	until("the new policy", func() bool { return status("b/app") == 200 })
	if a := status("a/app"); a != 401 {
		t.Errorf("what is not allowed any more, and cached: status %d", a)
	}
	replace(`rules: [{anonymous: true, pul: [a/*]}]`)
	until("the warning", warned)
	if a, b := status("a/app"), status("b/app"); a != 401 || b != 200 {
		t.Errorf("after a policy that is no good: statuses %d and %d, want 401 and 200", a, b)
	}
	if err := os.Remove(cfg.AccessPolicy); err != nil {
		t.Fatal(err)
	}
	if a, b := status("a/app"), status("b/app"); a != 401 || b != 200 {
		t.Errorf("without a policy: statuses %d and %d, want 401 and 200", a, b)
	}
	replace(`rules: [{anonymous: true, pull: [a/*]}]`)
	until("the policy after that", func() bool { return status("a/app") == 200 })
}
