package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

// Where a name was found can be seen and undone, with the server running and
// without.
func TestBindings(t *testing.T) {
	dir, err := os.MkdirTemp("", "bindings") // short enough for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)

	first, second := upstreamtest.NewHandler(), upstreamtest.NewHandler()
	second.AddRandomImage("team/app", "v1", 1, 100)
	cfg := testConfig(t, dir, "")
	var hosts []string
	for _, r := range []http.Handler{first, second} {
		s := httptest.NewServer(r)
		t.Cleanup(s.Close)
		host := strings.TrimPrefix(s.URL, "http://")
		hosts = append(hosts, host)
		cfg.Remotes = append(cfg.Remotes, config.Remote{URL: &url.URL{Scheme: "http", Host: host}, Default: true})
	}
	stop := serving(t, cfg)
	pull := func() {
		t.Helper()
		resp, err := http.Get("http://" + cfg.Addr + "/v2/team/app/manifests/v1")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // its status is of interest
		http.DefaultClient.CloseIdleConnections()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	list := func() (all []cache.Binding) {
		t.Helper()
		out, _, err := command(t, "bindings", "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &all)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return all
	}

	if all := list(); len(all) != 0 {
		t.Errorf("before the first pull: %v", all)
	}
	pull()
	check := func(state string) {
		t.Helper()
		all := list()
		if len(all) != 1 || all[0].Name != "team/app" || all[0].Host != hosts[1] || all[0].Since.IsZero() {
			t.Errorf("%s: %+v", state, all)
		}
		out, _, err := command(t, "bindings")
		if err != nil || !strings.Contains(out, "NAME") || !strings.Contains(out, hosts[1]) {
			t.Errorf("%s: %v\n%s", state, err, out)
		}
	}
	check("running")
	if info, err := os.Stat(controlPath(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}

	_, _, err = command(t, "bindings", "rm", "team/app", "nothing")
	if _, partly := errors.AsType[partlyError](err); !partly || !strings.Contains(err.Error(), "not bound: nothing") {
		t.Errorf("removing one that is and one that is not: %v", err)
	}
	if _, _, err := command(t, "bindings", "rm", "team/app"); err == nil {
		t.Error("removing what is not bound is no failure")
	}
	if all := list(); len(all) != 0 {
		t.Errorf("after the removal: %v", all)
	}
	asked := first.Requests()
	pull()
	if first.Requests() == asked {
		t.Error("the first remote is not asked")
	}

	stop()
	check("stopped")
	if _, _, err := command(t, "bindings", "rm", "team/app"); err != nil {
		t.Error(err)
	}
	if all := list(); len(all) != 0 {
		t.Errorf("after the removal: %v", all)
	}
}

func TestBindingsUsage(t *testing.T) {
	for _, args := range [][]string{{"bindings", "-o", "xml"}, {"bindings", "x"}, {"bindings", "rm"}} {
		_, _, err := command(t, args...)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// Without a server, the command works on a directory that is there and the user's, and
// leaves nothing that the server could not read.
func TestBindingsWithoutServer(t *testing.T) {
	missing := t.TempDir() + "/missing"
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", missing)
	if _, _, err := command(t, "bindings"); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("of a directory that is not there: %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
	dir := t.TempDir()
	if err := ownedBy(os.Geteuid(), dir); err != nil {
		t.Error(err)
	}
	if err := ownedBy(os.Geteuid()+1, dir); err == nil || !strings.Contains(err.Error(), "run this command as that user") {
		t.Errorf("of another user: %v", err)
	}
	// Too long for a socket: the server has none.
	long := t.TempDir() + strings.Repeat("/too-long", 15)
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", long)
	stop := serving(t, testConfig(t, long, ""))
	if _, _, err := command(t, "bindings"); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("while a server without a socket runs: %v", err)
	}
	stop()
	if out, _, err := command(t, "bindings", "-o", "json"); err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("%q, %v", out, err)
	}
}

// The server works without its socket, where the path is too long for one.
func TestServesWithoutSocket(t *testing.T) {
	dir := t.TempDir() + strings.Repeat("/too-long", 15)
	cfg := testConfig(t, dir, "")
	serving(t, cfg)
	resp, err := http.Get("http://" + cfg.Addr + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // its status is of interest
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %d", resp.StatusCode)
	}
}
