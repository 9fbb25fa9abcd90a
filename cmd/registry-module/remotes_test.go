package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

// internet is an HTTP proxy to registries that are called as in real life.
type internet struct {
	registries map[string]http.Handler

	mu     sync.Mutex
	others []string // hosts that were asked for and do not exist
}

func (i *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if registry := i.registries[r.URL.Host]; registry != nil {
		registry.ServeHTTP(w, r)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.others = append(i.others, r.URL.Host)
	http.Error(w, "no such host", http.StatusBadGateway)
}

// Images of well-known registries can be pulled by all that they are called, and
// each is fetched once.
func TestWellKnownRegistries(t *testing.T) {
	hub, mcr, upper := upstreamtest.NewHandler(), upstreamtest.NewHandler(), upstreamtest.NewHandler()
	net := &internet{registries: map[string]http.Handler{
		"registry-1.docker.io": hub, "mcr.microsoft.com": mcr, "upper.test:8000": upper,
	}}
	proxy := httptest.NewServer(net)
	t.Cleanup(proxy.Close)
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	hub.AddRandomImage("library/alpine", "3", 1, 100)
	hub.AddRandomImage("team/app", "3", 1, 100)
	mcr.AddRandomImage("azureiotedge-agent", "3", 1, 100)
	mcr.AddRandomImage("alpine", "3", 1, 100) // of somebody else
	upper.AddRandomImage("quay.io/team/app", "3", 1, 100)

	cfg := testConfig(t, t.TempDir(), "")
	remote := func(host string, r config.Remote) {
		r.URL, r.HTTPProxy = &url.URL{Scheme: "http", Host: host}, via
		cfg.Remotes = append(cfg.Remotes, r)
	}
	remote("mcr.microsoft.com", config.Remote{Default: true, Deny: []string{"alpine"}, TagTTL: config.DefaultTagTTL})
	remote("registry-1.docker.io", config.Remote{Default: true, Alias: "hub", TagTTL: config.DefaultTagTTL})
	remote("upper.test:8000", config.Remote{Namespaces: []string{"quay.io"}, TagTTL: config.DefaultTagTTL})
	serving(t, cfg)
	pull := func(target string) (status int, body string) {
		t.Helper()
		resp, err := http.Get("http://" + cfg.Addr + "/v2/" + target)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // it was read to its end
		return resp.StatusCode, string(content)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)

	repos := map[*upstreamtest.Registry]string{hub: "library/alpine", mcr: "azureiotedge-agent", upper: "quay.io/team/app"}
	for image, targets := range map[*upstreamtest.Registry][]string{
		hub: {
			"alpine/manifests/3?ns=docker.io", "library/alpine/manifests/3?ns=docker.io", "library/alpine/manifests/3?ns=registry-1.docker.io",
			"library/alpine/manifests/3?ns=hub", "library/alpine/manifests/3?ns=index.docker.io",
			"docker.io/alpine/manifests/3", "docker.io/library/alpine/manifests/3", "registry-1.docker.io/library/alpine/manifests/3",
			"index.docker.io/alpine/manifests/3", "hub/alpine/manifests/3", "hub/library/alpine/manifests/3",
			"alpine/manifests/3", "library/alpine/manifests/3",
		},
		mcr: {
			"azureiotedge-agent/manifests/3", "mcr.microsoft.com/azureiotedge-agent/manifests/3",
			"azureiotedge-agent/manifests/3?ns=mcr.microsoft.com",
		},
		upper: {"team/app/manifests/3?ns=quay.io", "quay.io/team/app/manifests/3"},
	} {
		want := ""
		for _, target := range targets {
			status, body := pull(target)
			if want == "" {
				want = body
			}
			if status != http.StatusOK || body != want {
				t.Errorf("%s: status %d, %.200s", target, status, body)
			}
		}
		n := 0
		for _, r := range image.Log() { // but not for what somebody else has
			if r.Kind == upstreamtest.ManifestGet && r.Repo == repos[image] {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s and its other names cost %d requests for the manifest", targets[0], n)
		}
	}
	for target, want := range map[string]int{
		"alpine/manifests/3?ns=ghcr.io":           http.StatusNotFound,
		"alpine/manifests/3?ns=mcr.microsoft.com": http.StatusForbidden,
		"mcr.microsoft.com/alpine/manifests/3":    http.StatusForbidden,
	} {
		if status, body := pull(target); status != want {
			t.Errorf("%s: status %d, want %d\n%s", target, status, want, body)
		}
	}
	if len(net.others) > 0 {
		t.Errorf("these were asked: %q", net.others)
	}
	status, catalog := pull("_catalog")
	for _, name := range []string{`"azureiotedge-agent"`, `"registry-1.docker.io/library/alpine"`, `"quay.io/team/app"`} {
		if status != http.StatusOK || !strings.Contains(catalog, name) {
			t.Errorf("%s is not in the catalog: %s", name, catalog)
		}
	}
}

// What was pulled from several remotes is served under the same names when none is
// configured any more.
func TestMirrorOfSeveral(t *testing.T) {
	dir := t.TempDir()
	first, second := upstreamtest.NewHandler(), upstreamtest.NewHandler()
	net := &internet{registries: map[string]http.Handler{"first.test": first, "second.test": second}}
	proxy := httptest.NewServer(net)
	t.Cleanup(proxy.Close)
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	first.AddRandomImage("a", "v1", 1, 100)
	second.AddRandomImage("a", "v1", 1, 100)
	cfg := testConfig(t, dir, "")
	for _, host := range []string{"first.test", "second.test"} {
		cfg.Remotes = append(cfg.Remotes, config.Remote{
			URL: &url.URL{Scheme: "http", Host: host}, HTTPProxy: via, Default: true, TagTTL: config.DefaultTagTTL,
		})
	}
	targets := []string{"a/manifests/v1", "second.test/a/manifests/v1", "a/manifests/v1?ns=first.test", "a/manifests/v1?ns=second.test"}
	pull := func(addr string) (bodies []string) {
		t.Helper()
		for _, target := range targets {
			resp, err := http.Get("http://" + addr + "/v2/" + target)
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: status %d, %v", target, resp.StatusCode, err)
			}
			_ = resp.Body.Close() // it was read to its end
			bodies = append(bodies, string(content))
		}
		http.DefaultClient.CloseIdleConnections()
		return bodies
	}
	second.AddRandomImage("only/second", "v1", 1, 100)
	stop := serving(t, cfg)
	want := pull(cfg.Addr)
	targets = append(targets, "only/second/manifests/v1")
	pull(cfg.Addr)
	targets = targets[:len(want)]
	stop()
	if want[0] == want[1] || want[0] != want[2] || want[1] != want[3] {
		t.Fatal("the two remotes are mixed up")
	}
	mirror := testConfig(t, dir, "")
	stop = serving(t, mirror)
	if got := pull(mirror.Addr); !slices.Equal(got, want) {
		t.Error("without remotes, something else is served")
	}
	resp, err := http.Get("http://" + mirror.Addr + "/v2/only/second/manifests/v1")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a name that was found at the second default: %v, %v", resp, err)
	}
	_ = resp.Body.Close() // its status is of interest
	http.DefaultClient.CloseIdleConnections()
	stop()

	// In another order, content stays where it is.
	slices.Reverse(cfg.Remotes)
	cfg.Offline = true
	cfg.Remotes[0].Default, cfg.Remotes[1].Default = false, true
	stop = serving(t, cfg)
	if got := pull(cfg.Addr); !slices.Equal(got, want) {
		t.Error("in another order, something else is served")
	}
	stop()
}
