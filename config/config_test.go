package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// write puts text into a new file and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// loadWith loads a configuration file with that text, or none where it is
// empty, and an environment.
func loadWith(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	path := ""
	if text != "" {
		path = write(t, "config.yml", text)
	}
	return source{environ: environ}.load(path)
}

func mustLoad(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	c, err := loadWith(t, text, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t, "")
	for name, check := range map[string]bool{
		"Source":             c.Source == "",
		"DataDir":            c.DataDir == "/var/lib/registry",
		"Net":                c.Net == "tcp",
		"Addr":               c.Addr == ":8000",
		"AdminAddr":          c.AdminAddr == ":5001",
		"HasRemote":          len(c.Remotes) == 0,
		"Offline":            !c.Offline,
		"OfflineSchedule":    c.OfflineSchedule.IsZero(),
		"MaxSize":            c.MaxSize == 0,
		"MinFree":            c.MinFree == Amount{Percent: 5},
		"Bandwidth":          c.Bandwidth == 0,
		"Prefetch":           !c.Prefetch,
		"Referrers":          !c.Referrers,
		"Resume":             !c.Resume,
		"PartialTTL":         c.PartialTTL == 7*24*time.Hour,
		"Pins":               len(c.Pins) == 0,
		"ScrubInterval":      c.ScrubInterval == 7*24*time.Hour,
		"ScrubRate":          c.ScrubRate == 8<<20,
		"SeedFile":           c.SeedFile == "",
		"SeedTokenFile":      c.SeedTokenFile == "",
		"BundleTrustKeys":    len(c.BundleTrustKeys) == 0,
		"Warnings":           len(c.Warnings) == 0,
		"Stock.Log.Level":    c.Stock.Log.Level == "info",
		"Stock.Storage.Type": c.Stock.Storage.Type() == "filesystem",
		"Stock.Catalog":      c.Stock.Catalog.MaxEntries == 1000,
		"Stock.Tags":         c.Stock.Tags.MaxTags == 1000,
		"Stock.HTTP.Addr":    c.Stock.HTTP.Addr == ":8000",
	} {
		if !check {
			t.Errorf("unexpected default of %s in %+v", name, c)
		}
	}
}

func TestSettings(t *testing.T) {
	const remote = "REGISTRY_PROXY_REMOTEURL=https://r.example.com"
	tests := []struct {
		name    string
		file    string
		environ []string
		got     func(*Config) any
		want    any
	}{
		{"data directory from a variable", "", []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/data"},
			func(c *Config) any { return c.DataDir }, "/data"},
		{"data directory for the app", "", []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/data"},
			func(c *Config) any { return c.Stock.Storage.Parameters()["rootdirectory"] }, "/data"},
		{"data directory from a file", "version: 0.1\nstorage: {filesystem: {rootdirectory: /data}}", nil,
			func(c *Config) any { return c.DataDir }, "/data"},
		{"a variable wins over the file", "version: 0.1\nhttp: {addr: ':1'}", []string{"REGISTRY_HTTP_ADDR=:2"},
			func(c *Config) any { return c.Addr }, ":2"},
		{"storage without driver", "version: 0.1\nstorage: {delete: {enabled: true}}", nil,
			func(c *Config) any { return c.Stock.Storage.Type() }, "filesystem"},
		{"file without storage", "version: 0.1", nil,
			func(c *Config) any { return c.DataDir }, "/var/lib/registry"},
		{"storage driver by its name", "version: 0.1\nstorage: filesystem", nil,
			func(c *Config) any { return c.DataDir }, "/var/lib/registry"},
		{"read-only by a variable", "", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=true"},
			func(c *Config) any { return c.Stock.Storage["maintenance"]["readonly"].(map[any]any)["enabled"] }, true},
		{"read-only as a whole by a variable", "", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY={enabled: true}"},
			func(c *Config) any { return c.Stock.Storage["maintenance"]["readonly"].(map[any]any)["enabled"] }, true},
		{"read-only over a file", "version: 0.1\nstorage: {maintenance: {readonly: {enabled: false}}}", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=true"},
			func(c *Config) any { return c.Stock.Storage["maintenance"]["readonly"].(map[any]any)["enabled"] }, true},
		{"redis as cache becomes memory", "version: 0.1\nstorage: {cache: {blobdescriptor: redis}}", nil,
			func(c *Config) any { return c.Stock.Storage["cache"]["blobdescriptor"] }, "inmemory"},
		{"an empty redirect section is no section", "version: 0.1\nstorage: {redirect: {}}", nil,
			func(c *Config) any { _, ok := c.Stock.Storage["redirect"]; return ok }, false},
		{"admin address", "", []string{"REGISTRY_HTTP_DEBUG_ADDR=127.0.0.1:9"},
			func(c *Config) any { return c.AdminAddr }, "127.0.0.1:9"},
		{"unix socket", "", []string{"REGISTRY_HTTP_NET=unix", "REGISTRY_HTTP_ADDR=/run/registry.sock"},
			func(c *Config) any { return c.Net + " " + c.Addr }, "unix /run/registry.sock"},
		{"prefix", "", []string{"REGISTRY_HTTP_PREFIX=/a/"},
			func(c *Config) any { return c.Stock.HTTP.Prefix }, "/a/"},
		{"old name of the log level", "version: 0.1\nloglevel: Debug", nil,
			func(c *Config) any { return c.Stock.Log.Level }, "debug"},
		{"the app gets no proxy", "", []string{remote},
			func(c *Config) any { return c.Stock.Proxy.RemoteURL }, ""},
		{"remote without scheme", "", []string{"REGISTRY_PROXY_REMOTEURL=Registry.example.com:5000"},
			func(c *Config) any { return c.Remotes[0].URL }, "https://registry.example.com:5000"},
		{"remote with slash", "", []string{"REGISTRY_PROXY_REMOTEURL=http://localhost:5000/"},
			func(c *Config) any { return c.Remotes[0].URL }, "http://localhost:5000"},
		{"remote with IPv6 address", "", []string{"REGISTRY_PROXY_REMOTEURL='http://[::1]'"},
			func(c *Config) any { return c.Remotes[0].URL }, "http://[::1]"},
		{"remote by its other name", "", []string{"REGISTRY_PROXY_REMOTEURL=docker.io"},
			func(c *Config) any { return c.Remotes[0].URL }, "https://registry-1.docker.io"},
		{"has remote", "", []string{remote}, func(c *Config) any { return len(c.Remotes) > 0 }, true},
		{"empty remote is none", "", []string{"REGISTRY_PROXY_REMOTEURL="}, func(c *Config) any { return len(c.Remotes) > 0 }, false},
		{"default tag lifetime", "", []string{remote}, func(c *Config) any { return c.Remotes[0].TagTTL }, "5m0s"},
		{"no tag lifetime", "", []string{remote, "REGISTRY_PROXY_TAGTTL=0"}, func(c *Config) any { return c.Remotes[0].TagTTL }, "0s"},
		{"tag lifetime in a file", "version: 0.1\nproxy: {remoteurl: r.example.com, tagttl: 1h}", nil,
			func(c *Config) any { return c.Remotes[0].TagTTL }, "1h0m0s"},
		{"no rules for tags", "", []string{remote}, func(c *Config) any { return c.Remotes[0].TagRules }, "[]"},
		{"rules for tags", "", []string{remote, "REGISTRY_PROXY_TAGRULES=semver=immutable, library/**:latest=always,team/app:{stable,prod-*}=1h *=10m"},
			func(c *Config) any { return c.Remotes[0].TagRules }, "[semver=immutable library/**:latest=always team/app:{stable,prod-*}=1h *=10m]"},
		{"rules for tags in quotes", "", []string{remote, "REGISTRY_PROXY_TAGRULES='{a,b}=1h,c=2h'"},
			func(c *Config) any { return c.Remotes[0].TagRules }, "[{a,b}=1h c=2h]"},
		{"rules for tags in brackets", "", []string{remote, `REGISTRY_PROXY_TAGRULES=["{a,b}=1h", c=2h]`},
			func(c *Config) any { return c.Remotes[0].TagRules }, "[{a,b}=1h c=2h]"},
		{"rule for tags that begins with a class", "", []string{remote, "REGISTRY_PROXY_TAGRULES=[0-9]*=1h, [a-z]:[vw]=2h"},
			func(c *Config) any { return len(c.Remotes[0].TagRules) }, 2},
		{"rules for tags in a file", "version: 0.1\nproxy: {remoteurl: r, tagrules: [semver=immutable, 'team/app:{a,b}=0']}", nil,
			func(c *Config) any { return c.Remotes[0].TagRules }, "[semver=immutable team/app:{a,b}=always]"},
		{"rules for tags as text in a file", "version: 0.1\nproxy: {remoteurl: r, tagrules: '{a,b}=1h, *=2h'}", nil,
			func(c *Config) any { return c.Remotes[0].TagRules }, "[{a,b}=1h *=2h]"},
		{"rules for tags of Docker Hub", "", []string{"REGISTRY_PROXY_REMOTEURL=docker.io", "REGISTRY_PROXY_TAGRULES=library/nginx:a=1h **:b=1h {x,y}/*:c=1h {x,**}:d=1h e=1h"},
			func(c *Config) any { return len(c.Remotes[0].TagRules) }, 5},
		{"rules for tags of a namespace", "", []string{remote, "REGISTRY_PROXY_NAMESPACES=quay.io", "REGISTRY_PROXY_TAGRULES=quay.io/**:a=1h"},
			func(c *Config) any { return len(c.Remotes[0].TagRules) }, 1},
		{"default time of revalidation", "", []string{remote}, func(c *Config) any { return c.Remotes[0].StaleWhileRevalidate }, "1m0s"},
		{"no revalidation", "", []string{remote, "REGISTRY_PROXY_STALEWHILEREVALIDATE=0"}, func(c *Config) any { return c.Remotes[0].StaleWhileRevalidate }, "0s"},
		{"revalidation of a rule", "", []string{remote, "REGISTRY_PROXY_TAGTTL=0", "REGISTRY_PROXY_TAGRULES=a=1h", "REGISTRY_PROXY_STALEWHILEREVALIDATE=2m"},
			func(c *Config) any { return c.Remotes[0].StaleWhileRevalidate }, "2m0s"},
		{"default revalidation and no lifetime", "", []string{remote, "REGISTRY_PROXY_TAGTTL=0"}, func(c *Config) any { return c.Remotes[0].StaleWhileRevalidate }, "1m0s"},
		{"no limit of age", "", []string{remote}, func(c *Config) any { return c.Remotes[0].MaxStale == nil }, true},
		{"no limit of age by an empty variable", "version: 0.1\nproxy: {remoteurl: r, maxstale: 1h}", []string{"REGISTRY_PROXY_MAXSTALE="},
			func(c *Config) any { return c.Remotes[0].MaxStale == nil }, true},
		{"nothing is stale", "", []string{remote, "REGISTRY_PROXY_MAXSTALE=0"}, func(c *Config) any { return *c.Remotes[0].MaxStale }, "0s"},
		{"limit of age", "version: 0.1\nproxy: {remoteurl: r, maxstale: 24h}", nil, func(c *Config) any { return *c.Remotes[0].MaxStale }, "24h0m0s"},
		{"limit of age as long as the lifetime", "", []string{remote, "REGISTRY_PROXY_MAXSTALE=5m"}, func(c *Config) any { return *c.Remotes[0].MaxStale }, "5m0s"},
		{"limit of age below a lifetime that no tag has", "", []string{remote, "REGISTRY_PROXY_MAXSTALE=2m", "REGISTRY_PROXY_TAGRULES=*=1m"},
			func(c *Config) any { return *c.Remotes[0].MaxStale }, "2m0s"},
		{"default time of absence", "", []string{remote}, func(c *Config) any { return c.Remotes[0].NegativeTTL }, "30s"},
		{"no time of absence", "version: 0.1\nproxy: {remoteurl: r, negativettl: 0}", nil, func(c *Config) any { return c.Remotes[0].NegativeTTL }, "0s"},
		{"age limit", "", []string{remote, "REGISTRY_PROXY_TTL=168h"}, func(c *Config) any { return c.Remotes[0].TTL }, "168h0m0s"},
		{"alias", "", []string{remote, "REGISTRY_PROXY_ALIAS=hub"}, func(c *Config) any { return c.Remotes[0].Alias }, "hub"},
		{"offline", "", []string{remote, "REGISTRY_PROXY_OFFLINE=true"}, func(c *Config) any { return c.Offline }, true},
		{"offline at times", "", []string{remote, "REGISTRY_PROXY_OFFLINESCHEDULE=Mon-Fri 08:00-18:00, daily 22:00-06:00"},
			func(c *Config) any { return c.OfflineSchedule.String() }, "Mon-Fri 08:00-18:00, daily 22:00-06:00"},
		{"offline at times, in the file", "version: 0.1\nproxy: {remoteurl: r, offlineschedule: 'Sat-Sun 00:00-24:00'}", nil,
			func(c *Config) any { return c.OfflineSchedule.String() }, "Sat-Sun 00:00-24:00"},
		{"offline at no time", "version: 0.1\nproxy: {remoteurl: r, offlineschedule: 'Sat-Sun 00:00-24:00'}", []string{"REGISTRY_PROXY_OFFLINESCHEDULE="},
			func(c *Config) any { return c.OfflineSchedule.IsZero() }, true},
		{"password that looks like a number", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=0123"},
			func(c *Config) any { return string(c.Remotes[0].Credentials.Password) }, "0123"},
		{"password in quotes", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD='a #1'"},
			func(c *Config) any { return string(c.Remotes[0].Credentials.Password) }, "a #1"},
		{"realms with commas", "", []string{remote, "REGISTRY_PROXY_ALLOWEDREALMS=a.example.com, b.example.com:8443"},
			func(c *Config) any { return c.Remotes[0].AllowedRealms }, "[a.example.com b.example.com:8443]"},
		{"realms in a file", "version: 0.1\nproxy: {remoteurl: r, allowedrealms: [a.example.com]}", nil,
			func(c *Config) any { return c.Remotes[0].AllowedRealms }, "[a.example.com]"},
		{"maximum size", "", []string{"REGISTRY_CACHE_MAXSIZE=20GiB"}, func(c *Config) any { return c.MaxSize }, int64(20 << 30)},
		{"no maximum size", "", []string{"REGISTRY_CACHE_MAXSIZE=0"}, func(c *Config) any { return c.MaxSize }, int64(0)},
		{"maximum size in a file", "version: 0.1\ncache: {maxsize: 500MB}", nil, func(c *Config) any { return c.MaxSize }, int64(500e6)},
		{"least maximum size", "", []string{"REGISTRY_CACHE_MAXSIZE=64MiB"}, func(c *Config) any { return c.MaxSize }, int64(64 << 20)},
		{"pins", "", []string{"REGISTRY_CACHE_PINS=team/app:1.*, docker.io/library/{alpine,nginx} team/**"}, func(c *Config) any { return c.Pins },
			"[team/app:1.* docker.io/library/{alpine,nginx} team/**]"},
		{"pins in a file", "version: 0.1\ncache: {pins: ['registry.example.com:5000/a/**:v[0-9]*', b]}", nil, func(c *Config) any { return c.Pins },
			"[registry.example.com:5000/a/**:v[0-9]* b]"},
		{"no scrub", "", []string{"REGISTRY_CACHE_SCRUBINTERVAL=0"}, func(c *Config) any { return c.ScrubInterval }, "0s"},
		{"scrub each day", "version: 0.1\ncache: {scrubinterval: 24h}", nil, func(c *Config) any { return c.ScrubInterval }, "24h0m0s"},
		{"scrub slowly", "version: 0.1\ncache: {scrubrate: 512KiB/s}", nil, func(c *Config) any { return c.ScrubRate }, int64(512 << 10)},
		{"scrub as fast as can be", "", []string{"REGISTRY_CACHE_SCRUBRATE=0"}, func(c *Config) any { return c.ScrubRate }, int64(0)},
		{"default connections", "", []string{remote}, func(c *Config) any { return c.Remotes[0].Connections }, 4},
		{"default connections in all", "", []string{remote}, func(c *Config) any { return c.Remotes[0].MaxConnections }, 16},
		{"connections", "", []string{remote, "REGISTRY_PROXY_CONNECTIONS=16"}, func(c *Config) any { return c.Remotes[0].Connections }, 16},
		{"connections in a file", "version: 0.1\nproxy: {remoteurl: r, connections: 1, maxconnections: 256}", nil,
			func(c *Config) any { return fmt.Sprint(c.Remotes[0].Connections, c.Remotes[0].MaxConnections) }, "1 256"},
		{"few connections in all", "", []string{remote, "REGISTRY_PROXY_MAXCONNECTIONS=2"},
			func(c *Config) any { return fmt.Sprint(c.Remotes[0].Connections, c.Remotes[0].MaxConnections) }, "2 2"},
		{"as many connections in all", "", []string{remote, "REGISTRY_PROXY_CONNECTIONS=8", "REGISTRY_PROXY_MAXCONNECTIONS=8"},
			func(c *Config) any { return c.Remotes[0].MaxConnections }, 8},
		{"no bandwidth limit", "", []string{remote, "REGISTRY_PROXY_BANDWIDTH=0"}, func(c *Config) any { return c.Remotes[0].Bandwidth }, int64(0)},
		{"bandwidth in bytes", "", []string{remote, "REGISTRY_PROXY_BANDWIDTH=20MiB/s"}, func(c *Config) any { return c.Remotes[0].Bandwidth }, int64(20 << 20)},
		{"bandwidth in bits", "version: 0.1\nproxy: {remoteurl: r, bandwidth: 160Mbit/s}", nil, func(c *Config) any { return c.Remotes[0].Bandwidth }, int64(20e6)},
		{"bandwidth of all", "", []string{"REGISTRY_CACHE_BANDWIDTH=1MB"}, func(c *Config) any { return c.Bandwidth }, int64(1e6)},
		{"default stall timeout", "", []string{remote}, func(c *Config) any { return c.Remotes[0].StallTimeout }, "30s"},
		{"stall timeout", "", []string{remote, "REGISTRY_PROXY_STALLTIMEOUT=2m"}, func(c *Config) any { return c.Remotes[0].StallTimeout }, "2m0s"},
		{"default time of retries", "", []string{remote}, func(c *Config) any { return c.Remotes[0].RetryFor }, "5m0s"},
		{"no retries", "version: 0.1\nproxy: {remoteurl: r, retryfor: 0}", nil, func(c *Config) any { return c.Remotes[0].RetryFor }, "0s"},
		{"fetching what is attached", "", []string{"REGISTRY_CACHE_REFERRERS=true"}, func(c *Config) any { return c.Referrers }, true},
		{"prefetching", "", []string{"REGISTRY_CACHE_PREFETCH=true"}, func(c *Config) any { return c.Prefetch }, true},
		{"resuming", "version: 0.1\ncache: {resume: true}", nil, func(c *Config) any { return c.Resume }, true},
		{"nothing unfinished is kept", "", []string{"REGISTRY_CACHE_PARTIALTTL=0"}, func(c *Config) any { return c.PartialTTL }, "0s"},
		{"unfinished is kept for a day", "version: 0.1\ncache: {partialttl: 24h}", nil, func(c *Config) any { return c.PartialTTL }, "24h0m0s"},
		{"bindings for a month", "", nil, func(c *Config) any { return c.BindingTTL }, "720h0m0s"},
		{"bindings for ever", "", []string{"REGISTRY_CACHE_BINDINGTTL=0"}, func(c *Config) any { return c.BindingTTL }, "0s"},
		{"bindings for a day", "version: 0.1\ncache: {bindingttl: 24h}", nil, func(c *Config) any { return c.BindingTTL }, "24h0m0s"},
		{"free space in percent", "", []string{"REGISTRY_CACHE_MINFREE=10%"}, func(c *Config) any { return c.MinFree }, "10%"},
		{"free space in bytes", "", []string{"REGISTRY_CACHE_MINFREE=2GiB"}, func(c *Config) any { return c.MinFree.Bytes }, int64(2 << 30)},
		{"anchors", "version: 0.1\nhttp: &h {addr: ':1'}\nproxy: {<<: {alias: a}, remoteurl: r}", nil,
			func(c *Config) any { return c.Addr + c.Remotes[0].Alias }, ":1a"},
		{"variables for parts come after those for the whole", "", []string{"REGISTRY_HTTP_ADDR=:2", "REGISTRY_HTTP={addr: ':1', net: tcp}"},
			func(c *Config) any { return c.Addr }, ":2"},
		{"lists by index", "version: 0.1\nnotifications: {endpoints: [{name: a, url: 'http://a'}]}",
			[]string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME=b", "REGISTRY_NOTIFICATIONS_ENDPOINTS_1_URL=http://b"},
			func(c *Config) any {
				return c.Stock.Notifications.Endpoints[0].URL + c.Stock.Notifications.Endpoints[1].URL
			}, "http://ahttp://b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, tt.file, tt.environ...)
			if got := tt.got(c); got != tt.want && fmt.Sprint(got) != tt.want {
				t.Errorf("got %v (%T), want %v", got, got, tt.want)
			}
			// TestWarnings has these.
			warned := slices.ContainsFunc([]string{"redis", "read-only"}, func(s string) bool { return strings.Contains(tt.name, s) })
			if len(c.Warnings) > 0 && !warned {
				t.Errorf("warnings: %q", c.Warnings)
			}
		})
	}
}

func TestFileIsFound(t *testing.T) {
	named := write(t, "config.yml", "version: 0.1\nhttp: {addr: ':1'}")
	byVariable := write(t, "config.yml", "version: 0.1\nhttp: {addr: ':2'}")
	stock := write(t, "config.yml", "version: 0.1\nhttp: {addr: ':3'}")
	environ := []string{"REGISTRY_CONFIGURATION_PATH=" + byVariable}
	tests := []struct {
		name           string
		source         source
		path           string
		addr, wantPath string
	}{
		{"argument", source{environ: environ, stockPaths: []string{stock}}, named, ":1", named},
		{"variable", source{environ: environ, stockPaths: []string{stock}}, "", ":2", byVariable},
		{"empty variable", source{environ: []string{"REGISTRY_CONFIGURATION_PATH="}, stockPaths: []string{stock}}, "", ":3", stock},
		{"stock path", source{stockPaths: []string{filepath.Join(t.TempDir(), "absent"), stock}}, "", ":3", stock},
		{"none", source{stockPaths: []string{filepath.Join(t.TempDir(), "absent")}}, "", ":8000", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.source.load(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			if c.Addr != tt.addr || c.Source != tt.wantPath {
				t.Errorf("got %s from %q, want %s from %q", c.Addr, c.Source, tt.addr, tt.wantPath)
			}
		})
	}
}

func TestLoadReadsTheProcessEnvironment(t *testing.T) {
	t.Setenv("REGISTRY_CONFIGURATION_PATH", write(t, "config.yml", "version: 0.1"))
	t.Setenv("REGISTRY_PROXY_TAGTTL", "7m")
	t.Setenv("REGISTRY_PROXY_REMOTEURL", "r.example.com")
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if c.Remotes[0].TagTTL != 7*time.Minute {
		t.Errorf("TagTTL is %v, want 7m", c.Remotes[0].TagTTL)
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name    string
		file    string
		environ []string
		want    []string // parts of the warnings, one for each
	}{
		{"mistyped variable", "", []string{"REGISTRY_PROXY_TAGTLL=1m"},
			[]string{`REGISTRY_PROXY_TAGTLL is not a setting and is ignored (did you mean "REGISTRY_PROXY_TAGTTL"?)`}},
		{"unlike anything", "", []string{"REGISTRY_BANANA=1"}, []string{"REGISTRY_BANANA is not a setting and is ignored"}},
		{"path too deep", "", []string{"REGISTRY_HTTP_ADDR_MORE=1"}, []string{"REGISTRY_HTTP_ADDR_MORE is not a setting"}},
		{"negative index", "", []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_-1_URL=1"}, []string{"ENDPOINTS_-1_URL is not a setting"}},
		{"lower case", "", []string{"REGISTRY_proxy_TTL=1"}, []string{"REGISTRY_proxy_TTL is not a setting"}},
		{"mistyped key", "version: 0.1\nproxy:\n  remoteurl: r\n  tagtl: 1m", nil,
			[]string{`proxy.tagtl in line 4 is not a setting and is ignored (did you mean "tagttl"?)`}},
		{"mistyped section", "version: 0.1\nprxy: {}", nil, []string{`(did you mean "proxy"?)`}},
		{"mistyped key in a list", "version: 0.1\nnotifications:\n  endpoints:\n  - name: a\n    url: http://a\n    tiemout: 1s", nil,
			[]string{`notifications.endpoints.0.tiemout in line 6 is not a setting and is ignored (did you mean "timeout"?)`}},
		{"mistyped parameter", "", []string{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTRY=/data"},
			[]string{`storage.filesystem.rootdirectry is not a setting and is ignored (did you mean "rootdirectory"?)`}},
		{"redis", "version: 0.1\nredis: {addrs: ['localhost:6379']}", nil, []string{"redis is not used"}},
		{"no unit", "version: 0.1\nhttp: {draintimeout: 60}", nil, []string{"60 has no unit and means nanoseconds"}},
		{"comment in a value", "", []string{"REGISTRY_HTTP_HOST=http://a #b"}, []string{"REGISTRY_HTTP_HOST (http.host) is read as YAML"}},
		{"settings of no remote", "", []string{"REGISTRY_PROXY_TAGTTL=1m"}, []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl) is not set"}},
		{"limits of no remote", "", []string{"REGISTRY_PROXY_BANDWIDTH=1MB/s"}, []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl) is not set"}},
		{"clear text", "", []string{"REGISTRY_PROXY_REMOTEURL=http://r", "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=p"},
			[]string{"the password is sent in clear text"}},
		{"lifetime beside a rule for all", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_TAGTTL=1m", "REGISTRY_PROXY_TAGRULES=a=1h *=2m"},
			[]string{"proxy.tagttl has no effect: the rule *=2m in proxy.tagrules is for all tags"}},
		{"revalidation without lifetime", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_TAGTTL=0", "REGISTRY_PROXY_STALEWHILEREVALIDATE=1m"},
			[]string{"proxy.stalewhilerevalidate has no effect: by proxy.tagttl and proxy.tagrules the remote is asked about a tag each time or never"}},
		{"revalidation beside rules", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_TAGRULES=semver=immutable *=always", "REGISTRY_PROXY_STALEWHILEREVALIDATE=1m"},
			[]string{"proxy.stalewhilerevalidate has no effect"}},
		{"limit of age below the lifetime", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_MAXSTALE=1m"},
			[]string{"proxy.maxstale is shorter than proxy.tagttl, which is 5m: it means the same as 0"}},
		{"limit of age below that of a rule", "", []string{"REGISTRY_PROXY_REMOTEURL_2=r", "REGISTRY_PROXY_MAXSTALE_2=1h", "REGISTRY_PROXY_TAGRULES_2=a=2h semver=immutable"},
			[]string{"REGISTRY_PROXY_MAXSTALE_2 (proxy.remotes.0.maxstale) is shorter than the rule a=2h in REGISTRY_PROXY_TAGRULES_2 (proxy.remotes.0.tagrules) says"}},
		{"nothing is stale", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_MAXSTALE=0"}, nil},
		{"offline always and at times", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_OFFLINE=true", "REGISTRY_PROXY_OFFLINESCHEDULE=daily 08:00-18:00"},
			[]string{"REGISTRY_PROXY_OFFLINE (proxy.offline) is true, so that REGISTRY_PROXY_OFFLINESCHEDULE (proxy.offlineschedule) has no effect: remove one of them"}},
		{"not offline, but at times", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_OFFLINE=false", "REGISTRY_PROXY_OFFLINESCHEDULE=daily 08:00-18:00"}, nil},
		{"write timeout", "", []string{"REGISTRY_PROXY_CACHEWRITETIMEOUT=1m"}, []string{"proxy.cachewritetimeout is not used"}},
		{"HTTP/2 without TLS", "", []string{"REGISTRY_HTTP_H2C_ENABLED=true"}, []string{"http.h2c has no effect"}},
		{"health checks", "version: 0.1\nhealth: {file: [{file: /x}], http: [{uri: 'http://x'}], tcp: [{addr: 'x:1'}], storagedriver: {enabled: true}}", nil,
			[]string{"health (file, http, tcp, storagedriver) has no effect"}},
		{"log hooks", "version: 0.1\nlog: {hooks: [{type: mail, disabled: true}, {type: mail}, {type: mail}]}", nil,
			[]string{"log.hooks has no effect"}},
		{"read-only", "", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=true"}, []string{"storage.maintenance.readonly has no effect"}},
		{"age limit", "", []string{"REGISTRY_PROXY_REMOTEURL=r", "REGISTRY_PROXY_TTL=168h"}, nil},
		{"rate of no scrub", "", []string{"REGISTRY_CACHE_SCRUBINTERVAL=0", "REGISTRY_CACHE_SCRUBRATE=1MiB/s"},
			[]string{"REGISTRY_CACHE_SCRUBRATE (cache.scrubrate) has no effect: by REGISTRY_CACHE_SCRUBINTERVAL (cache.scrubinterval) what is stored is never read for that"}},
		{"settings that are off", "version: 0.1\nhttp: {h2c: {enabled: false}}\nhealth: {storagedriver: {enabled: false, interval: 10s}}\n" +
			"log: {hooks: [{type: mail, disabled: true}]}\nstorage: {maintenance: {readonly: {enabled: false}}}\nproxy: {remoteurl: r, ttl: '0'}", nil, nil},
		{"service links", "", []string{"REGISTRY_PORT=tcp://10.0.0.1:80", "REGISTRY_PORT_80_TCP_ADDR=10.0.0.1", "REGISTRY_SERVICE_HOST=10.0.0.1",
			"REGISTRY_NAME=/a/registry", "REGISTRY_ENV_PATH=/bin",
			"REGISTRY_MODULE_SERVICE_HOST=10.0.0.1", "REGISTRY_MODULE_SERVICE_PORT_HTTP=80", "REGISTRY_MODULE_PORT=tcp://10.0.0.1:80", "REGISTRY_MODULE_PORT_80_TCP_PROTO=tcp", "REGISTRY_VERSION=3", "REGISTRY_CONFIGURATION_PATH="}, nil},
		{"variables of others", "", []string{"PATH=/bin", "REGISTRYX=1", "NOTHING"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mustLoad(t, tt.file, tt.environ...).Warnings
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want %q", got[i], want)
				}
			}
		})
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := Secret("hunter2")
	text, err := json.Marshal(struct{ S Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	all := string(text) + fmt.Sprintf("%v %+v %#v %s %q %x %d %v", s, s, s, s, s, s, s, Credentials{Password: s})
	if strings.Contains(all, "hunter2") || strings.Contains(all, fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the secret is in %s", all)
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no secret prints as %q", got)
	}
}

func TestUnreadableFile(t *testing.T) {
	big := write(t, "config.yml", strings.Repeat("#", maxFileSize+1))
	for path, want := range map[string]string{
		filepath.Join(t.TempDir(), "absent.yml"): "no such file",
		t.TempDir():                              "is a directory",
		big:                                      "larger than 1 MiB",
	} {
		// What the environment has is checked all the same.
		_, err := source{environ: []string{"REGISTRY_HTTP_ADDR=nowhere"}}.load(path)
		if errs, ok := errors.AsType[*Errors](err); !ok || len(errs.Problems) != 2 {
			t.Fatalf("%s: got %v, want two problems", path, err)
		}
		for _, want := range []string{path, want, "REGISTRY_CONFIGURATION_PATH", "REGISTRY_HTTP_ADDR"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want %q in it", err, want)
			}
		}
	}
}
