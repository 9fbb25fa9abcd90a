package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/seed"
	"registry-module/upstream/upstreamtest"
)

const seedToken = "0123456789abcdef0123456789abcdef"

// site is a data directory with the remote that its configuration names.
type site struct {
	t   *testing.T
	up  *upstreamtest.Registry
	cfg *config.Config
	// tokenFile holds the token of the server, if that runs.
	tokenFile string
}

func newSite(t *testing.T) *site {
	t.Helper()
	quiet(t)
	dir, err := os.MkdirTemp("", "seed") // short enough for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, up: upstreamtest.New(t), tokenFile: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(s.tokenFile, []byte(seedToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cfg = testConfig(t, dir, s.up.Host())
	s.cfg.SeedTokenFile = s.tokenFile
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
	t.Setenv("REGISTRY_PROXY_REMOTEURL", s.up.URL())
	t.Setenv("REGISTRY_LOG_LEVEL", "error")
	return s
}

// ways are those by which a site can be seeded: what has to run, and the arguments.
var ways = map[string]struct {
	server bool
	args   func(*site) []string
}{
	"directly":      {false, func(*site) []string { return nil }},
	"by the socket": {true, func(*site) []string { return nil }},
	"by the admin address": {true, func(s *site) []string {
		return []string{"--to", "http://" + s.cfg.AdminAddr, "--token-file", s.tokenFile}
	}},
}

// wantExit checks the status with which the program ends after err.
func wantExit(t *testing.T, err error, want int) {
	t.Helper()
	got := 0
	if err != nil {
		got = exitFailed
	}
	if _, ok := errors.AsType[partlyError](err); ok {
		got = exitPartly
	}
	if _, ok := errors.AsType[usageError](err); ok {
		got = exitUsage
	}
	if got != want {
		t.Errorf("status %d, want %d: %v", got, want, err)
	}
}

// Seeding brings everything, once, and pins it, whoever does it.
func TestSeed(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			image := s.up.AddRandomImage("team/app", "v1", 3, 50<<10)
			_, platforms := s.up.AddRandomIndex("team/many", "v2", 1, 10<<10, "linux/amd64", "linux/arm64")
			if way.server {
				serving(t, s.cfg)
			}
			run := func(want int, args ...string) (stdout, stderr string) {
				t.Helper()
				stdout, stderr, err := command(t, append(append([]string{"seed"}, args...), way.args(s)...)...)
				wantExit(t, err, want)
				for _, text := range []string{stdout, stderr, errorString(err)} {
					if strings.Contains(text, seedToken) {
						t.Errorf("the token is in %s", text)
					}
				}
				return stdout, stderr
			}

			all := []string{"team/app:v1", "$upstream:8000/team/many:v2", "--platform", "linux/arm64", "-o", "json"}
			out, _ := run(0, append(all, "--dry-run")...)
			var plan seed.Plan
			if err := json.Unmarshal([]byte(out), &plan); err != nil || len(plan.Images) != 2 || plan.Fetch == 0 || plan.Present != 0 || !plan.Fits {
				t.Fatalf("%v, plan %s", err, out)
			}
			if n := s.up.Requests(upstreamtest.BlobGet); n != 0 {
				t.Errorf("%d downloads for a plan", n)
			}
			if list, _, err := command(t, "ls", "-o", "json"); err != nil || strings.TrimSpace(list) != "[]" {
				t.Errorf("a plan leaves %s, %v", list, err)
			}

			out, _ = run(0, all...)
			var report seed.Report
			if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Images) != 2 || report.Failures() != 0 {
				t.Fatalf("%v, report %s", err, out)
			}
			for _, i := range report.Images {
				if i.State != seed.Seeded || !i.Pinned {
					t.Errorf("%+v", i)
				}
			}
			if report.Fetched != s.up.BlobBytes() || report.Fetched == 0 {
				t.Errorf("%d fetched, and the remote has sent %d", report.Fetched, s.up.BlobBytes())
			}
			for _, dgst := range append(image.Blobs(), platforms[1].Blobs()...) {
				if n := s.up.BlobRequests(dgst); n != 1 {
					t.Errorf("%d requests for %s", n, dgst)
				}
			}
			for _, dgst := range platforms[0].Blobs() {
				if n := s.up.BlobRequests(dgst); n != 0 {
					t.Errorf("%d requests for %s of another platform", n, dgst)
				}
			}
			out, _, err := command(t, "ls", "-o", "json", "--pinned", "team/app:v1")
			var images []cache.Image
			if err := errors.Join(err, json.Unmarshal([]byte(out), &images)); err != nil || len(images) != 1 || !images[0].Complete || images[0].Pins[0].Reason != cache.PinnedBySeed {
				t.Errorf("%v, %s", err, out)
			}

			s.up.ResetCounts()
			out, stderr := run(0, "team/app:v1", "localhost:8000/team/many:v2", "--platform", "linux/arm64")
			if n := s.up.BlobBytes(); n != 0 || s.up.Requests(upstreamtest.BlobGet) != 0 {
				t.Errorf("a second run fetches %d bytes", n)
			}
			if !strings.Contains(out, "2 images: 0 seeded, 2 present") || !strings.Contains(stderr, "present team/app:v1") {
				t.Errorf("printed\n%s\n%s", out, stderr)
			}

			// What fails stops nothing else.
			s.up.AddRandomImage("team/new", "v1", 1, 1<<10)
			out, _ = run(exitPartly, "team/none:v1", "team/new:v1", "-o", "json")
			if err := json.Unmarshal([]byte(out), &report); err != nil || report.Failures() != 1 || report.Images[0].State != seed.Failed || report.Images[0].Error == "" || report.Images[1].State != seed.Seeded {
				t.Errorf("%v, report %s", err, out)
			}
			run(exitPartly, "team/none:v1", "team/new:v1", "--dry-run")
			run(exitFailed, "team/none:v1")
			run(exitFailed, "team/none:v1", "--dry-run")
			// Of somebody who is not configured.
			if way.server {
				_, _, err := command(t, append([]string{"seed", "elsewhere.test/team/app:v1"}, way.args(s)...)...)
				wantExit(t, err, exitFailed)
				if err == nil || !strings.Contains(err.Error(), "REGISTRY_PROXY_REMOTEURL_2=https://elsewhere.test") {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

func errorString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What does not fit is refused before its first byte.
func TestSeedTooLarge(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.AddGenerated("team/huge", 100<<20, 1)
			layer := s.up.AddGenerated("team/huge", 100<<20, 1)
			conf := s.up.AddBlob("team/huge", []byte(`{"architecture":"amd64","os":"linux"}`))
			s.up.AddManifest("team/huge", "v1", "application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+
				conf.String()+`","size":37},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"`+layer.String()+`","size":104857600}]}`))
			t.Setenv("REGISTRY_CACHE_MAXSIZE", "64MiB")
			s.cfg.MaxSize = 64 << 20
			if way.server {
				serving(t, s.cfg)
			}
			_, _, err := command(t, append([]string{"seed", "team/huge:v1"}, way.args(s)...)...)
			wantExit(t, err, exitFailed)
			if err == nil || !strings.Contains(err.Error(), "no room") {
				t.Errorf("%v", err)
			}
			out, _, err := command(t, append([]string{"seed", "team/huge:v1", "--dry-run"}, way.args(s)...)...)
			wantExit(t, err, exitFailed)
			if !strings.Contains(out, "does not fit") {
				t.Errorf("printed %s", out)
			}
			if n := s.up.Requests(upstreamtest.BlobGet); n != 0 {
				t.Errorf("%d downloads", n)
			}
		})
	}
}

// Files name images, and all that is wrong is said at once.
func TestSeedFiles(t *testing.T) {
	s := newSite(t)
	s.up.AddRandomImage("team/app", "v1", 1, 1<<10)
	s.up.AddRandomImage("team/base", "v1", 1, 1<<10)
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("# of the line\nteam/app:v1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := rootCommand()
	var out bytes.Buffer
	root.SetArgs([]string{"seed", "-f", list, "-f", "-", "--no-pin", "-o", "json"})
	root.SetIn(strings.NewReader("version: 1\nprune: true\nimages: [team/base:v1]\n"))
	root.SetOut(&out)
	root.SetErr(io.Discard)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var report seed.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || len(report.Images) != 2 || report.Images[0].Pinned {
		t.Errorf("%v, %s", err, out.String())
	}
	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"nothing":           {nil, []string{"name the images"}},
		"all that is wrong": {[]string{"Team/App", "-f", list + ".none", "--platform", "x", "-o", "xml", "--to", "ftp://x"}, []string{"Team", list + ".none", "output format", "--token-file", "--to is not"}},
		"stdin twice":       {[]string{"-f", "-", "-f", "-"}, []string{"can be read once"}},
		"token alone":       {[]string{"a:1", "--token-file", list}, []string{"--token-file is for a server elsewhere"}},
		"password in --to":  {[]string{"a:1", "--to", "https://me:c0ffee@x", "--token-file", s.tokenFile}, []string{"--to holds credentials"}},
		"no token":          {[]string{"a:1", "--to", "https://x", "--token-file", list + ".none"}, []string{"--token-file: cannot read"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := command(t, append([]string{"seed"}, tt.args...)...)
			wantExit(t, err, exitUsage)
			for _, want := range tt.want {
				if !strings.Contains(errorString(err), want) {
					t.Errorf("%v, want %s", err, want)
				}
			}
			if strings.Contains(errorString(err), "c0ffee") {
				t.Errorf("a password is in %v", err)
			}
		})
	}
}

// While a server is offline it says so before it does anything, and so does a command
// without one.
func TestSeedOffline(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.AddRandomImage("team/app", "v1", 1, 1<<10)
			if way.server {
				serving(t, s.cfg)
			}
			if _, _, err := command(t, "offline", "on"); err != nil {
				t.Fatal(err)
			}
			for _, more := range [][]string{nil, {"--dry-run"}} {
				_, _, err := command(t, append(append([]string{"seed", "team/app:v1"}, way.args(s)...), more...)...)
				wantExit(t, err, exitFailed)
				if !strings.Contains(errorString(err), "registry-module offline off") {
					t.Errorf("%v", err)
				}
			}
			if n := s.up.Requests(); n != 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// Hosts that are not configured are asked where no server runs, by https.
func TestSeedStrangers(t *testing.T) {
	newSite(t)
	t.Setenv("REGISTRY_PROXY_REMOTEURL", "")
	ca := upstreamtest.NewCA(t)
	other := upstreamtest.NewWith(t, upstreamtest.Options{TLS: ca.ServerConfig(nil)})
	other.AddRandomImage("team/app", "v1", 1, 1<<10)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := command(t, "seed", "$upstream:8000/team/app:v1")
	if wantExit(t, err, exitFailed); !strings.Contains(errorString(err), "REGISTRY_PROXY_REMOTEURL") {
		t.Errorf("%v", err)
	}
	// It is not trusted, and that is what is wrong: it was asked.
	_, _, err = command(t, "seed", other.Host()+"/team/app:v1")
	if wantExit(t, err, exitFailed); !strings.Contains(errorString(err), "certificate") {
		t.Errorf("%v", err)
	}
}

// Names in deployments lead to places, and never to those of somebody else.
func TestSeedNames(t *testing.T) {
	_, routes := threeRemotes()
	n, err := newSeedNames(&config.Config{Addr: ":8000", Remotes: make([]config.Remote, 3)}, routes)
	if err != nil {
		t.Fatal(err)
	}
	free, err := newSeedNames(&config.Config{Addr: ":8000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		names *seedNames
		image string
		want  string // host and repository of each place, or what the error says
	}{
		"of the defaults":     {n, "team/app", "mcr.test/team/app registry-1.docker.io/team/app"},
		"ruled out at first":  {n, "alpine", "registry-1.docker.io/library/alpine"},
		"by the host":         {n, "docker.io/nginx", "registry-1.docker.io/library/nginx"},
		"ruled out":           {n, "mcr.test/denied", "refuse"},
		"by host and port":    {n, "ours.test:5000/team/app", "ours.test:5000/team/app"},
		"by the alias":        {n, "ours/team/app", "ours.test:5000/team/app"},
		"by a namespace":      {n, "quay.test/team/app", "ours.test:5000/quay.test/team/app"},
		"upstream":            {n, "$upstream:8000/ours/app", "ours.test:5000/app"},
		"upstream, no port":   {n, "$upstream/alpine", "registry-1.docker.io/library/alpine"},
		"upstream, namespace": {n, "$upstream:8000/other.test/app", "mcr.test/other.test/app registry-1.docker.io/other.test/app"},
		"localhost":           {n, "localhost:8000/ours/app", "ours.test:5000/app"},
		"loopback":            {n, "127.0.0.1:8000/ours/app", "ours.test:5000/app"},
		"loopback, IPv6":      {n, "[::1]:8000/ours/app", "ours.test:5000/app"},
		"another port":        {n, "127.0.0.1:9000/ours/app", "REGISTRY_PROXY_REMOTEURL_2=https://127.0.0.1:9000"},
		"of a stranger":       {n, "quay.io/team/app", "REGISTRY_PROXY_REMOTEURL_2=https://quay.io"},
		"as listed":           {n, "@mcr.test/quay.test/a", "is not the name"},
		"no remote":           {free, "team/app", "configured: none"},
		"no remote, upstream": {free, "$upstream:8000/team/app", "set REGISTRY_PROXY_REMOTEURL"},
	} {
		t.Run(name, func(t *testing.T) {
			places, _, err := tt.names.places(tt.image)
			var got []string
			for _, p := range places {
				got = append(got, p.Host+"/"+p.Repo)
			}
			if text := strings.Join(got, " ") + errorString(err); err == nil && text != tt.want || !strings.Contains(text, tt.want) {
				t.Errorf("%s, want %s", text, tt.want)
			}
		})
	}
	job := seed.Job{Wants: []seed.Want{{Image: "quay.io/a/b:1"}, {Image: "nginx"}, {Image: "$upstream:8000/a"}, {Image: "localhost:8000/a"}, {Image: "Quay.io:443/c"}, {Image: "docker.io/x/y@" + sum("a").String()}}}
	if got := strings.Join(free.strangers(job), " "); got != "registry-1.docker.io quay.io" {
		t.Errorf("strangers: %s", got)
	}
	if got := strings.Join(n.strangers(job), " "); got != "quay.io" {
		t.Errorf("strangers beside remotes: %s", got)
	}
}

// Where nobody may seed from afar, nobody can; and the address for clients has no such
// thing.
func TestSeedNotEnabled(t *testing.T) {
	s := newSite(t)
	serving(t, s.cfg)
	for name, to := range map[string]string{"the address for clients": s.cfg.Addr, "no server": freeAddr(t)} {
		_, _, err := command(t, "seed", "team/app:v1", "--to", "http://"+to, "--token-file", s.tokenFile)
		wantExit(t, err, exitFailed)
		if name != "no server" && !strings.Contains(errorString(err), "REGISTRY_SEED_TOKENFILE") || strings.Contains(errorString(err), seedToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	off := testConfigAt(t, testConfig(t, t.TempDir(), s.up.Host()), func(c *config.Config) { c.SeedTokenFile = "" })
	serving(t, off)
	_, _, err := command(t, "seed", "team/app:v1", "--to", "http://"+off.AdminAddr, "--token-file", s.tokenFile)
	if wantExit(t, err, exitFailed); !strings.Contains(errorString(err), "REGISTRY_SEED_TOKENFILE") {
		t.Errorf("%v", err)
	}
	if n := s.up.Requests(); n != 0 {
		t.Errorf("%d requests", n)
	}
	http.DefaultClient.CloseIdleConnections()
}
