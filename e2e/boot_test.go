package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestBootWithoutNetwork starts on a data directory that was filled before, on a
// machine without a network: it cannot even ask for a name, or is told that there is
// none, or is told nothing. What is stored is served to clients on that machine.
func TestBootWithoutNetwork(t *testing.T) {
	t.Parallel()
	const starts = 5
	img := noise(t, "boot", 1<<20, 5000).In("team/app", "1.0")
	p := newPlace(t, nil, img)
	wholeImage(t, p.m, way{}, img)
	stop(t, p.m)

	for name, make := range map[string]func(*testing.T) *lab.Netns{
		"no route": func(t *testing.T) *lab.Netns { return netns(t, "192.0.2.53") },
		"NXDOMAIN": func(t *testing.T) *lab.Netns {
			ns := netns(t, "127.0.0.1")
			nameserver(t, ns, "127.0.0.1:53", [4]byte{}).Use(lab.NXDomain)
			return ns
		},
		"no answer": func(t *testing.T) *lab.Netns {
			ns := netns(t, "127.0.0.1")
			nameserver(t, ns, "127.0.0.1:53", [4]byte{}).Use(lab.Unheard)
			return ns
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := make(t)
			env := merge(inFrontOf(p.env, lab.Env{"REGISTRY_PROXY_REMOTEURL": "https://registry-1.docker.io"}),
				// The lifetime of the tag is over.
				lab.Env{"REGISTRY_PROXY_TAGTTL": "0"})
			var boots []time.Duration
			for range starts {
				begun := time.Now()
				m := must(lab.StartModuleIn(t.Context(), ns, bin.module, p.dir, env))(t)
				boots = append(boots, time.Since(begun))
				end(t, m)
				storedWithoutNetwork(t, "after a start", ns, m, img)
				if len(boots) > 1 {
					if err := m.Kill(); err != nil { // the next start comes after a power cut
						t.Fatal(err)
					}
					continue
				}
				realClients(t, ns, m, img)
				if err := m.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := m.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				realClients(t, ns, m, img)
				storedWithoutNetwork(t, "after kill -9", ns, m, img)
				unknownWithoutNetwork(t, ns, m)
				if err := m.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(boots)
			t.Logf("%s: first 200 after %v (median of %d; %v)", name, boots[starts/2], starts, boots)
			if boots[starts/2] > 2*time.Second {
				t.Errorf("ready after %v, want at most 2 s", boots[starts/2])
			}
		})
	}
}

// storedWithoutNetwork pulls by tag and digest, and measures how fast the tag is
// answered.
func storedWithoutNetwork(t *testing.T, when string, ns *lab.Netns, m *lab.Server, img lab.Image) {
	t.Helper()
	const count = 200
	c := clientIn(t, ns)
	a, first := timed(t, c, manifestURL(m, img.Repo, img.Tag))
	staleAnswer(t, img, a)
	if first > 2*time.Second {
		t.Errorf("%s: the very first answer took %v, want at most 2 s", when, first)
	}
	var rest []time.Duration
	for range count {
		a, took := timed(t, c, manifestURL(m, img.Repo, img.Tag))
		staleAnswer(t, img, a)
		rest = append(rest, took)
	}
	t.Logf("%s: first %v, the next %d: p50 %v, p99 %v, max %v", when, first, count,
		quantile(rest, 0.5), quantile(rest, 0.99), slices.Max(rest))
	if p99 := quantile(rest, 0.99); p99 > 4*50*time.Millisecond {
		t.Errorf("%s: p99 %v, want at most 200 ms", when, p99)
	}
	if a, _ := timed(t, c, manifestURL(m, img.Repo, img.Root().Digest.String())); a.Status != http.StatusOK {
		t.Errorf("%s: by digest: status %d, want 200\n%s", when, a.Status, a.Body)
	}
	for _, b := range img.Blobs {
		wholeBlob(t, m, img.Repo, b)
	}
}

// unknownWithoutNetwork asks for what is not stored.
func unknownWithoutNetwork(t *testing.T, ns *lab.Netns, m *lab.Server) {
	t.Helper()
	for _, repo := range []string{"team/other", remoteHost + "/team/other", "docker.io/library/alpine"} {
		a, took := timed(t, clientIn(t, ns), manifestURL(m, repo, "1.0"))
		t.Logf("%s, which is not stored: %d after %v", repo, a.Status, took)
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.code(t) != "UNAVAILABLE" || took > 6*time.Second {
			t.Errorf("%s: status %d after %v, Retry-After %q, want 503 with one\n%s", repo, a.Status, took, a.Header.Get("Retry-After"), a.Body)
		}
	}
}

// realClients pulls with clients that run in the namespace.
func realClients(t *testing.T, ns *lab.Netns, m *lab.Server, img lab.Image) {
	t.Helper()
	dir := tempDir(t)
	crane := must(ns.Command(dir, bin.crane))(t)
	skopeo := must(ns.Command(dir, must(lab.System("skopeo", "skopeo"))(t)))(t)
	env := lab.Env{"XDG_RUNTIME_DIR": dir, "DOCKER_CONFIG": dir}
	for what, ref := range map[string]string{"tag": img.ByTag(m.Addr), "digest": img.ByDigest(m.Addr)} {
		for name, args := range map[string][]string{
			"crane":  {crane, "pull", "--format", "oci", ref, filepath.Join(dir, "crane-"+what)},
			"skopeo": {skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "docker://" + ref, "dir:" + filepath.Join(dir, "skopeo-"+what)},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // the patience of engines
			if _, err := lab.Run(ctx, dir, env, args[0], args[1:]...); err != nil {
				t.Errorf("%s by %s: %v", name, what, err)
			}
			cancel()
		}
	}
	if out := must(lab.Run(t.Context(), dir, env, crane, "digest", img.ByTag(m.Addr)))(t); strings.TrimSpace(out) != img.Root().Digest.String() {
		t.Errorf("crane digest: %s, want %s", out, img.Root().Digest)
	}
}

// TestNoPacketLeaves counts what leaves a machine in offline mode, configured or
// switched, while an image is pulled that is stored, and one that is not.
func TestNoPacketLeaves(t *testing.T) {
	t.Parallel()
	const inside, outside = "10.213.7.2", "10.213.7.1"
	img := noise(t, "silent", 1<<20, 5000).In("team/app", "1.0")
	other := noise(t, "silent other", 5000).In("team/other", "1.0")
	// Here is the registry, there the module.
	p := &place{ns: netns(t, "127.0.0.1"), dir: tempDir(t)}
	p.Add(img, other)
	there := netns(t, outside)
	if err := lab.Join(t.Context(), p.ns, there, outside, inside); err != nil {
		t.Fatal(err)
	}
	p.names = nameserver(t, p.ns, outside+":53", [4]byte{10, 213, 7, 1})
	p.listen(t, p.ns, outside+":443")
	env := merge(p.settings(t), lab.Env{"REGISTRY_PROXY_TAGTTL": "0"})
	start := func(more lab.Env) *lab.Server {
		return must(lab.StartModuleIn(t.Context(), there, bin.module, p.dir, merge(env, more)))(t)
	}
	// silence fails the test if something leaves while images are pulled.
	silence := func(what string, m *lab.Server, before int) {
		t.Helper()
		storedWithoutNetwork(t, what, there, m, img)
		realClients(t, there, m, img)
		a, took := timed(t, clientIn(t, there), manifestURL(m, other.Repo, other.Tag))
		if a.Status != http.StatusServiceUnavailable || a.code(t) != "UNAVAILABLE" {
			t.Errorf("%s, not stored: status %d, want 503\n%s", what, a.Status, a.Body)
		}
		sent := must(there.Sent())(t) - before
		t.Logf("%s: %d packets; what is not stored: %d after %v: %s", what, sent, a.Status, took, a.Body)
		if sent != 0 {
			t.Errorf("%s: %d packets have left, want none", what, sent)
		}
	}

	m := start(nil)
	end(t, m)
	wholeImage(t, m, way{}, img)
	online := must(there.Sent())(t)
	t.Logf("online: %d packets", online)
	if online == 0 {
		t.Error("no packets are counted while the remote is asked")
	}
	offline(t, m, "on")
	silence("registry-module offline on", m, must(there.Sent())(t))
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	silence("after a restart", m, must(there.Sent())(t))
	offline(t, m, "auto")
	stop(t, m)

	before := must(there.Sent())(t)
	m = start(lab.Env{"REGISTRY_PROXY_OFFLINE": "true"})
	end(t, m)
	silence("REGISTRY_PROXY_OFFLINE", m, before)
	offline(t, m, "off")
	if a := get(t, manifestURL(m, other.Repo, other.Tag)); a.Status != http.StatusOK {
		t.Errorf("offline off: status %d, want 200\n%s", a.Status, a.Body)
	}
}

// offline switches offline mode as operators do.
func offline(t *testing.T, m *lab.Server, mode string) {
	t.Helper()
	out, err := lab.Run(t.Context(), m.Data, lab.Env{"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": m.Data}, bin.module, "offline", mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(out))
}
