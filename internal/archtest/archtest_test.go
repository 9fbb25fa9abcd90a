package archtest

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// architecture is the import rule of docs/design.md: imports go one way, from
// cmd to server to cache to internal, and what implements an interface of cache
// imports cache, never the other way round.
var architecture = Rules{
	Module: "registry-module",
	Local: map[string]Rule{
		"cmd/registry-module": {
			[]string{"auth", "auth/access", "auth/policy", "cache", "cache/disk", "cache/index", "config", "doctor", "doctor/images", "doctor/machine", "doctor/report", "iotedge/deployment", "iotedge/workload", "metrics", "seed", "seed/bundle", "seed/source", "server", "server/accept", "server/admin", "server/admin/dashboard", "server/notify", "server/pulls", "upstream", "upstream/breaker", "upstream/metered", "upstream/router", "upstream/throttled", "internal/..."},
			"main is where all parts are put together; what only tests need is not for a binary that is shipped",
		},
		"server": {
			[]string{"cache", "internal/..."},
			"server speaks HTTP for a cache; which store, remote and configuration are behind it is for main to choose",
		},
		"server/admin": {
			[]string{"cache", "server", "internal/..."},
			"admin shows and changes what it is given through its own interfaces, in terms of cache; who implements them is for main to choose",
		},
		"server/admin/dashboard": {
			[]string{"cache", "server/admin"},
			"the dashboard shows the state that admin tells of, and changes nothing itself",
		},
		"server/notify": {
			[]string{"cache", "internal/..."},
			"notify tells webhooks what it is told, in terms of cache; who tells it is for main to choose",
		},
		"server/pulls": {
			[]string{"cache", "server", "internal/..."},
			"pulls makes pulls of the requests that it is told of",
		},
		"metrics": {
			[]string{"cache", "server", "internal/..."},
			"metrics counts in terms of those that it looks at; where they are scraped is for main to choose",
		},
		"server/accept": {
			[]string{"internal/..."},
			"accept knows connections and certificates; what is served on them is for the HTTP server",
		},
		"seed": {
			[]string{"cache", "internal/..."},
			"seed says what is to be in a cache; which remotes and files that comes from is for main to choose",
		},
		"seed/source": {
			[]string{"seed", "internal/..."},
			"source only reads what is written",
		},
		"seed/bundle": {
			[]string{"internal/..."},
			"bundle knows files and digests; what is stored, and where, is for its callers",
		},
		"cache": {
			[]string{"cache/tagpolicy", "gc", "internal/..."},
			"cache declares the interfaces that it consumes, so that it does not know who implements them",
		},
		"cache/tagpolicy": {
			nil,
			"tagpolicy knows names and durations, and so can be used by whoever reads or applies a policy",
		},
		"cache/disk": {
			[]string{"cache", "internal/..."},
			"disk implements cache.Blobs and cache.Refs and knows nothing but digests and bytes",
		},
		"cache/index": {
			[]string{"cache", "internal/..."},
			"index implements cache.Index and knows nothing but keys and values",
		},
		"cache/cachetest": {
			[]string{"cache", "internal/..."},
			"the contract suites know the interfaces of cache, not who implements them",
		},
		"upstream": {
			[]string{"auth", "cache", "internal/..."},
			"upstream implements cache.Upstream; where content goes is no concern of it",
		},
		"upstream/breaker": {
			[]string{"cache", "internal/..."},
			"breaker decorates any cache.Upstream",
		},
		"upstream/metered": {
			[]string{"cache", "internal/..."},
			"metered decorates any cache.Upstream",
		},
		"upstream/router": {
			[]string{"cache", "upstream", "internal/..."},
			"router answers in terms of cache, and upstream knows what registries are called",
		},
		"upstream/throttled": {
			[]string{"cache", "internal/..."},
			"throttled decorates any cache.Upstream",
		},
		"upstream/upstreamtest": {
			[]string{"internal/..."},
			"a fake remote registry must not share the code that is tested against it",
		},
		"auth": {
			[]string{"internal/..."},
			"auth gives credentials and decisions to those who declare an interface for them",
		},
		"auth/access": {
			[]string{"auth/policy", "cache", "internal/..."},
			"access decides about requests: by a policy, by who is asked through the interfaces that it declares, and in cache's terms for what a remote says",
		},
		"auth/policy": {
			[]string{"internal/pattern"},
			"policy knows names and patterns alone, so that a decision can be made, and tested, by whoever has those",
		},
		"config": {
			[]string{"cache/tagpolicy", "internal/pattern", "internal/schedule", "upstream"},
			"config only reads what is written; upstream knows what the URL of a registry means, tagpolicy what a rule does, pattern what a name can look like, and schedule what times of the week are",
		},
		"iotedge/deployment": {
			nil,
			"deployment knows manifests and names of settings; what a setting means is for config, and where files go for main",
		},
		"doctor": {
			[]string{"auth", "doctor/chain", "doctor/images", "doctor/report", "upstream", "internal/..."},
			"doctor looks at what is outside, in the way that upstream goes; what the configuration says is for main to tell",
		},
		"doctor/chain": {
			nil,
			"chain judges certificates, whoever has shown them to whom",
		},
		"doctor/images": {
			[]string{"upstream", "internal/..."},
			"images reads names, and upstream knows what registries are called",
		},
		"doctor/machine": {
			[]string{"doctor/report", "upstream", "internal/..."},
			"machine looks at this machine alone; upstream has the one way to clean texts",
		},
		"doctor/report": {
			nil,
			"report is the words and the form of what is found, whoever finds it",
		},
		"iotedge/workload": {
			[]string{"internal/..."},
			"workload asks the IoT Edge runtime; who shows or trusts what it gives is for main to choose",
		},
		"iotedge/workload/workloadtest": {
			[]string{"internal/..."},
			"a fake workload API must not share the code that is tested against it",
		},
		"deploy": {
			nil,
			"samples and their test",
		},
		"gc": {
			nil,
			"gc plans over a graph that it is given; what is stored, and removing it, is for its callers",
		},
		"gc/...": {
			[]string{"gc", "gc/..."},
			"simulations replay pulls through the plans of gc, and nothing else",
		},
		"internal/...": {
			[]string{"internal/..."},
			"internal packages are leaves that all others can build on",
		},
		"e2e/...": {
			[]string{"cache/cachetest", "iotedge/workload/workloadtest", "upstream/upstreamtest", "e2e/...", "internal/..."},
			"end-to-end tests and benchmarks look at the binary from outside",
		},
	},
	Restricted: map[string]Rule{
		"registry-module/config": {
			[]string{"cmd/registry-module"},
			"packages declare options of their own, which main fills in from the configuration",
		},
		"registry-module/cache/cachetest": {
			[]string{"e2e/..."},
			"it is for tests only",
		},
		"registry-module/upstream/upstreamtest": {
			[]string{"e2e/..."},
			"it is for tests only",
		},
		"registry-module/iotedge/workload/workloadtest": {
			[]string{"e2e/..."},
			"it is for tests only",
		},
		"net/http": {
			[]string{"auth", "auth/access", "cmd/registry-module", "doctor", "doctor/machine", "iotedge/workload", "iotedge/workload/workloadtest", "server", "server/accept", "server/admin", "server/admin/dashboard", "server/notify", "upstream", "upstream/upstreamtest", "internal/...", "e2e/..."},
			"the cache knows nothing of HTTP: package server has the table from errors to statuses",
		},
		"testing": {
			[]string{"cache/cachetest", "upstream/upstreamtest", "internal/archtest", "e2e/..."},
			"it registers flags and is of no use in a binary that is shipped",
		},
		"github.com/dgraph-io/badger": {
			[]string{"cache/index"},
			"the index can be replaced only while one package knows what it is made of",
		},
		"github.com/distribution/distribution": {
			[]string{"auth", "auth/access", "cmd/registry-module", "config", "server", "server/notify", "e2e/..."},
			"the stock registry is how we speak to clients and are configured, not how we keep content",
		},
		"github.com/google/go-containerregistry": {
			[]string{"auth", "doctor", "upstream", "upstream/upstreamtest", "cmd/registry-module", "e2e/..."},
			"it is how we speak to remotes; the cache verifies bytes itself",
		},
		"go.opentelemetry.io": {
			[]string{"cmd/registry-module", "server", "internal/tracing", "e2e/..."},
			"who tells of what it does calls internal/tracing; who listens is for main to choose, and where a trace begins for the server",
		},
		"github.com/spf13/cobra": {
			[]string{"cmd/registry-module"},
			"only main has a command line",
		},
	},
}

func TestArchitecture(t *testing.T) {
	packages, err := Read(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range architecture.Check(packages) {
		t.Error(problem)
	}
}

// TestCheckFindsViolations tests the checker itself on a module of five files.
func TestCheckFindsViolations(t *testing.T) {
	rules := Rules{
		Module: "m",
		Local: map[string]Rule{
			"a":     {[]string{"b"}, "reason one"},
			"b":     {nil, "reason two"},
			"c/...": {[]string{"c/..."}, "reason three"},
		},
		Restricted: map[string]Rule{
			"example.com/db": {[]string{"a"}, "reason four"},
		},
	}
	good := fstest.MapFS{
		"go.mod":              {Data: []byte("module m")},
		"a/a.go":              {Data: []byte("// Package a is first.\npackage a\nimport (\n\"m/b\"\n\"example.com/db/v4\"\n)")},
		"b/b_test.go":         {Data: []byte("package b_test\nimport \"m/c/d\"")},
		"b/doc.go":            {Data: []byte("// Package b is second.\npackage b")},
		"b/b.go":              {Data: []byte("//go:build linux\n\npackage b")},
		"c/d/main.go":         {Data: []byte("// Command d is third.\npackage main\nimport \"m/c/e\"")},
		"c/e/e.go":            {Data: []byte("// Package e is fourth.\npackage e")},
		"b/testdata/x.go":     {Data: []byte("not Go")},
		".hidden/x.go":        {Data: []byte("not Go")},
		"b/_old/x.go":         {Data: []byte("not Go")},
		"c/d/testdata/x.json": {Data: []byte("{}")},
	}
	tests := []struct {
		name string
		file string // is added or replaced, or removed where text is empty
		text string
		want string
	}{
		{"nothing wrong", "b/b.go", "package b", ""},
		{"import that is not allowed", "b/b.go", "package b\nimport \"m/a\"", "b must not import a: reason two"},
		{"import of a restricted package", "b/b.go", "package b\nimport _ \"example.com/db/v4/options\"", "b must not import example.com/db/v4/options: reason four"},
		{"on another platform", "b/b_windows.go", "package b\nimport \"m/a\"", "b must not import a: reason two"},
		{"from below a pattern", "c/e/e.go", "// Package e is fourth.\npackage e\nimport \"m/a\"", "c/e must not import a: reason three"},
		{"new package", "d/d.go", "// Package d is new.\npackage d", "d has no rule: add it to the table in internal/archtest"},
		{"no comment", "b/doc.go", "package b", "b has no package comment"},
		{"only a directive", "b/doc.go", "//lint:ignore x y\npackage b", "b has no package comment"},
		{"two comments", "b/b.go", "// Package b is twice.\npackage b", "b has 2 package comments"},
		{"comment in a test as well", "b/b_test.go", "// Package b is tested.\npackage b", "b has 2 package comments"},
		{"another comment", "b/doc.go", "// This is b.\npackage b", `b has a package comment that does not begin with "Package b"`},
		{"rule without package", "a/a.go", "", "a has a rule but no package: remove it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for name, file := range good {
				fsys[name] = file
			}
			if tt.text == "" {
				delete(fsys, tt.file)
			} else {
				fsys[tt.file] = &fstest.MapFile{Data: []byte(tt.text)}
			}
			packages, err := Read(fsys)
			if err != nil {
				t.Fatal(err)
			}
			got := rules.Check(packages)
			if tt.want == "" && len(got) == 0 {
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0], tt.want) || tt.want == "" {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	fsys := fstest.MapFS{"a/a.go": {Data: []byte("not Go")}}
	if _, err := Read(fsys); err == nil {
		t.Error("a file that does not parse was accepted")
	}
}
