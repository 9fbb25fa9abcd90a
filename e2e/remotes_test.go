package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// remote is an upstream of any kind.
type remote interface {
	fmt.Stringer
	URL() string
	Env() lab.Env
	Use(...lab.Middleware)
	Down() error
	Up() error
	Reset()
	Requests() []lab.Request
	Counts() lab.Counts
}

// settings are those of a module in front of some upstream.
type settings lab.Env

// Env returns them.
func (s settings) Env() lab.Env { return lab.Env(s) }

// byFile are the settings for an upstream whose password is in a file.
func byFile(t *testing.T, r *lab.Upstream) settings {
	t.Helper()
	file := filepath.Join(tempDir(t), "password")
	if err := os.WriteFile(file, []byte(r.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := r.Env()
	delete(env, "REGISTRY_PROXY_PASSWORD")
	env["REGISTRY_PROXY_PASSWORD_FILE"] = file
	return settings(env)
}

// byDockerConfig are the settings for an upstream whose credentials are in a
// config.json, as `docker login` writes it.
func byDockerConfig(t *testing.T, r *lab.Upstream) settings {
	t.Helper()
	file := filepath.Join(tempDir(t), "config.json")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, hostOf(r), base64.StdEncoding.EncodeToString([]byte(r.Username+":"+r.Password)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return settings{"REGISTRY_PROXY_REMOTEURL": r.Env()["REGISTRY_PROXY_REMOTEURL"], "REGISTRY_PROXY_DOCKERCONFIG": file}
}

// inFrontOf makes the settings of a module in front of several remotes out of those
// for each alone, in the order of their numbers.
func inFrontOf(remotes ...lab.Env) lab.Env {
	all := lab.Env{}
	for i, settings := range remotes {
		for name, value := range settings {
			if i > 0 {
				name += fmt.Sprintf("_%d", i+1)
			}
			all[name] = value
		}
	}
	return all
}

// called are the settings of a remote with an alias, which is a default as well or
// is not.
func called(alias string, isDefault bool, r interface{ Env() lab.Env }, more ...lab.Env) lab.Env {
	return merge(append([]lab.Env{r.Env(), {
		"REGISTRY_PROXY_ALIAS":   alias,
		"REGISTRY_PROXY_DEFAULT": fmt.Sprint(isDefault),
	}}, more...)...)
}

// hostOf is the host of a remote, as its module knows it.
func hostOf(r interface{ Env() lab.Env }) string {
	_, host, _ := strings.Cut(r.Env()["REGISTRY_PROXY_REMOTEURL"], "://")
	return host
}

// way is how a request says which remote it means. The zero value says nothing.
type way struct {
	alias string // as the first component of the path
	ns    string // in the query
}

// String is the way in messages.
func (w way) String() string {
	switch {
	case w.alias != "":
		return "by the path " + w.alias + "/"
	case w.ns != "":
		return "by ns=" + w.ns
	}
	return "by default"
}

func (w way) url(m *lab.Server, repo, rest string) string {
	if w.alias != "" {
		repo = w.alias + "/" + repo
	}
	url := m.URL() + "/v2/" + repo + rest
	if w.ns != "" {
		url += "?ns=" + w.ns
	}
	return url
}

func (w way) manifest(m *lab.Server, repo, ref string) string {
	return w.url(m, repo, "/manifests/"+ref)
}

func (w way) blob(m *lab.Server, repo string, dgst digest.Digest) string {
	return w.url(m, repo, "/blobs/"+dgst.String())
}

// wholeImage compares an image with what a module serves, to the byte: by tag and by
// digest, HEAD and GET.
func wholeImage(t *testing.T, m *lab.Server, by way, img lab.Image) {
	t.Helper()
	root := img.Root()
	for _, ref := range []string{img.Tag, root.Digest.String()} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			a := do(t, method, by.manifest(m, img.Repo, ref))
			if got := a.Header.Get("Docker-Content-Digest"); a.Status != http.StatusOK || got != root.Digest.String() {
				t.Errorf("%s %s:%s %v: status %d, %s, want 200, %s\n%.300s", method, img.Repo, ref, by, a.Status, got, root.Digest, a.Body)
			}
			if method == http.MethodGet && a.Status == http.StatusOK && string(a.Body) != string(root.Bytes) {
				t.Errorf("%s:%s %v: the manifest is\n%.300s\nwant\n%.300s", img.Repo, ref, by, a.Body, root.Bytes)
			}
			if got := a.Header.Get("OCI-Namespace"); got != by.ns {
				t.Errorf("%s %s:%s %v: OCI-Namespace %q, want %q", method, img.Repo, ref, by, got, by.ns)
			}
		}
	}
	for _, b := range img.Blobs {
		f := must(fetch(t.Context(), by.blob(m, img.Repo, b.Digest)))(t)
		if err := f.whole(b); err != nil {
			t.Errorf("a blob of %s %v: %v", img.Repo, by, err)
		}
	}
}

// untouched fails the test if a remote was asked for anything.
func untouched(t *testing.T, what string, remotes ...remote) {
	t.Helper()
	for _, r := range remotes {
		if n := len(r.Requests()); n != 0 {
			t.Errorf("%s: %d requests to a remote that it is not about, want none\n%v", what, n, r)
		}
	}
}

func resetAll[R remote](remotes []R) {
	for _, r := range remotes {
		r.Reset()
	}
}

// memory starts a registry in memory that has the images.
func memory(t *testing.T, o lab.MemoryOptions, images ...lab.Image) *lab.Memory {
	t.Helper()
	up := must(lab.StartMemory(o))(t)
	t.Cleanup(func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := up.Push(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	return up
}

// noSecrets fails the test if a secret was seen by a server that it is not meant
// for, or is in what the modules say.
func noSecrets(t *testing.T, canary *lab.Canary, modules ...*lab.Server) {
	t.Helper()
	for _, leak := range canary.Leaks() {
		t.Error(leak)
	}
	for _, m := range modules {
		for place, text := range map[string]string{
			"the log":                 string(must(os.ReadFile(m.Log()))(t)),
			"the metrics":             must(m.Metrics(t.Context()))(t),
			"the process's arguments": string(must(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID())))(t)),
		} {
			if text == "" {
				t.Errorf("%s: empty, so that nothing can be found", place)
			}
			for _, label := range canary.Find(text) {
				t.Errorf("%s: there is %s in it", place, label)
			}
		}
	}
}

// fourth is one of the four remotes of TestFourRemotes.
type fourth struct {
	remote
	alias string
	push  func(context.Context, ...lab.Image) error
	// env are the settings of a module in front of it.
	env lab.Env
}

// Env returns them.
func (f fourth) Env() lab.Env { return f.env }

// host is a name for it that is in no DNS.
func (f fourth) host() string { return f.alias + ".example.test" }

// image is content that no other remote has, and no other way is tried with.
func (f fourth) image(t *testing.T, way, repo string) lab.Image {
	t.Helper()
	return noise(t, f.alias+" "+way, 100<<10, 5000).In(repo, "1.0")
}

// fourRemotes starts them. The registries with tokens have token servers of their
// own.
func fourRemotes(t *testing.T, canary *lab.Canary) []fourth {
	t.Helper()
	one := upstream(t, lab.UpstreamOptions{Auth: lab.Bearer, Redirect: http.StatusTemporaryRedirect, Canary: canary, Name: "one"})
	two := upstream(t, lab.UpstreamOptions{Auth: lab.Identity, Canary: canary, Name: "two"})
	three := upstream(t, lab.UpstreamOptions{Auth: lab.Basic, Canary: canary, Name: "three"})
	four := memory(t, lab.MemoryOptions{Canary: canary, Name: "four"})
	return []fourth{
		{one, "one", one.Push, byFile(t, one).Env()},
		{two, "two", two.Push, two.Env()},
		{three, "three", three.Push, byDockerConfig(t, three).Env()},
		{four, "four", four.Push, four.Env()},
	}
}

// access is one way of a client to name an image.
type access struct {
	way way
	// name is what the client calls the registry of the image.
	name string
}

// accesses are the ways to each remote that a client has, the default one aside, and
// how it calls the module itself. It configures the client where it needs that.
func accesses(t *testing.T, p puller, m *lab.Server, remotes []fourth) map[string]func(fourth) access {
	t.Helper()
	all := map[string]func(fourth) access{
		"alias": func(f fourth) access { return access{way{alias: f.alias}, m.Addr + "/" + f.alias} },
	}
	configure := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	switch p := p.(type) {
	case *lab.Containerd:
		configure(p.Mirror(m.Addr, m.URL()))
		for _, f := range remotes {
			configure(p.Mirror(hostOf(f), m.URL()))
		}
		all["ns"] = func(f fourth) access { return access{way{ns: hostOf(f)}, hostOf(f)} }
	case *lab.Podman:
		for _, f := range remotes {
			configure(p.Mirror(f.host(), m.Addr+"/"+f.alias))
		}
		all["mirror"] = func(f fourth) access { return access{way{alias: f.alias}, f.host()} }
	}
	return all
}

// TestFourRemotes pulls from four upstreams through one module, with each client and
// by each way to say which one is meant. Each upstream has images of the same names
// with content of its own.
func TestFourRemotes(t *testing.T) {
	for name, start := range pullers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			canary := new(lab.Canary)
			remotes := fourRemotes(t, canary)
			var envs []lab.Env
			for _, f := range remotes {
				envs = append(envs, called(f.alias, true, f))
			}
			m := module(t, inFrontOf(envs...), lab.Env{"REGISTRY_LOG_LEVEL": "debug"})
			client, _ := start(t, remotes[0].remote.(*lab.Upstream), m)
			ways := accesses(t, client, m, remotes)

			for i, f := range remotes {
				others := slices.Delete(slices.Clone(remotes), i, i+1)
				for what, to := range ways {
					img := f.image(t, what, what+"/app")
					a := to(f)
					pullRight(t, client, m, f, remotes, img, a, "linux/amd64")
					for _, other := range others {
						untouched(t, what+" "+f.alias, other)
					}
					warm(t, m, remotes, img, a.way)
				}
				// Without a word about the remote, those before it are asked whether they
				// have it, and those after it are not asked.
				img := f.image(t, "default", "default-"+f.alias+"/app")
				pullRight(t, client, m, f, remotes, img, access{way{}, m.Addr}, "linux/amd64")
				for _, after := range remotes[i+1:] {
					untouched(t, "by default "+f.alias, after)
				}
				for _, before := range remotes[:i] {
					if c := before.Counts(); c.BlobGET+c.BlobHEAD+c.Signed > 0 {
						t.Errorf("by default %s: %s was asked for blobs\n%v", f.alias, before.alias, before)
					}
				}
				warm(t, m, remotes, img, way{})
			}
			checkStore(t, m)
			noSecrets(t, canary, m)
			for _, server := range []string{"one", "one/token", "one/signed", "two", "two/token", "three", "four"} {
				if canary.Requests(server) == 0 {
					t.Errorf("%s was sent nothing, so that nothing was looked at", server)
				}
			}
		})
	}
}

// pullRight pushes an image to a remote, and pulls it.
func pullRight(t *testing.T, client puller, m *lab.Server, from fourth, remotes []fourth, img lab.Image, a access, platform string) {
	t.Helper()
	if err := from.push(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	resetAll(remotes)
	digests, err := client.Pull(t.Context(), img.ByTag(a.name), platform)
	if err != nil {
		t.Fatalf("%s from %s, %v: %v", img.Repo, from.alias, a.way, err)
	}
	if want := img.Root().Digest.String(); !slices.Contains(digests, want) {
		t.Errorf("%s from %s, %v: the client has %v, want %s", img.Repo, from.alias, a.way, digests, want)
	}
	if got := from.Counts(); got.BlobBytes != img.Size() {
		t.Errorf("%s from %s, %v: %d bytes of blobs were fetched, want %d\n%v", img.Repo, from.alias, a.way, got.BlobBytes, img.Size(), from)
	}
}

// warm compares an image that was pulled with what was pushed, and expects that no
// remote is asked about it.
func warm(t *testing.T, m *lab.Server, remotes []fourth, img lab.Image, by way) {
	t.Helper()
	resetAll(remotes)
	wholeImage(t, m, by, img)
	for _, r := range remotes {
		untouched(t, fmt.Sprint("warm ", by), r)
	}
}
