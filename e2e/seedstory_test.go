package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/e2e/lab"
	"registry-module/seed"
)

// TestSeedStory is the whole story: a machine that is online seeds a directory with what
// the deployment manifest of a site names; the directory is moved to a machine without a
// network; and there docker, containerd, podman and skopeo pull all of it by the names of
// the manifest.
func TestSeedStory(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	online := filepath.Join(tempDir(t), "data")

	// What it comes to, which leaves nothing behind.
	plan, err := f.run(t.Context(), online, "seed", "-f", f.manifest, "--platform", "linux/amd64,linux/arm64", "--dry-run")
	if err != nil {
		t.Fatalf("%v\n%s", err, plan)
	}
	for _, m := range f.modules {
		if !strings.Contains(plan, m.Repo) {
			t.Errorf("the plan does not name %s:\n%s", m.Repo, plan)
		}
	}
	if n := f.blobBytes(); n != 0 {
		t.Errorf("the plan has cost %d bytes of blobs", n)
	}

	r := f.seed(t, online)
	want := f.size(t)
	if len(r.Images) != len(f.modules) || r.Failures() != 0 || r.Fetched != want || f.blobBytes() != want {
		t.Errorf("%d images, %d failures, %d bytes fetched, %d sent; want %d, 0, %d: %+v", len(r.Images), r.Failures(), r.Fetched, f.blobBytes(), len(f.modules), want, r)
	}
	f.public.Reset()
	f.private.Reset()
	again := f.seed(t, online)
	if n := f.blobBytes(); n != 0 || again.Fetched != 0 || again.Failures() != 0 {
		t.Errorf("seeding again has fetched %d bytes: %+v", n, again)
	}
	for _, i := range again.Images {
		if i.State != seed.Present || !i.Pinned {
			t.Errorf("again: %+v", i)
		}
	}

	// To where there is no network.
	dir := tempDir(t)
	if err := os.Rename(online, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	m := darkened(t, dir, lab.Env{})
	f.serves(t, m, true)
	f.pulled(t, m)
	pinned := 0
	for _, i := range cliJSON[[]cache.Image](t, m, "ls") {
		for _, p := range i.Pins {
			if p.Reason == cache.PinnedBySeed {
				pinned++
				break
			}
		}
		if !i.Complete {
			t.Errorf("%s:%s is not complete: %+v", i.Repository, i.Tag, i)
		}
	}
	if pinned < len(f.modules) {
		t.Errorf("%d images are pinned, want %d", pinned, len(f.modules))
	}
	checkStore(t, m)
}

// TestSeedByServer seeds by way of a server that runs, and by the endpoint of one that is
// somewhere else: what is there already is not fetched again.
func TestSeedByServer(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	token := filepath.Join(tempDir(t), "token")
	if err := os.WriteFile(token, []byte("s3cret-token-of-the-site\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := module(t, f.env, lab.Env{"REGISTRY_SEED_TOKENFILE": token})
	r := f.seed(t, m.Data)
	if want := f.size(t); r.Failures() != 0 || f.blobBytes() != want {
		t.Errorf("%d bytes were sent, want %d: %+v", f.blobBytes(), want, r)
	}
	f.serves(t, m, false)
	f.public.Reset()
	f.private.Reset()

	elsewhere := filepath.Join(tempDir(t), "data")
	again := f.seed(t, elsewhere, "--to", "http://"+m.Admin, "--token-file", token)
	if n := f.blobBytes(); n != 0 || again.Fetched != 0 || again.Failures() != 0 {
		t.Errorf("seeding again has fetched %d bytes: %+v", n, again)
	}
	wrong := filepath.Join(tempDir(t), "wrong")
	if err := os.WriteFile(wrong, []byte("another-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := f.run(t.Context(), elsewhere, "seed", "-f", f.manifest, "--to", "http://"+m.Admin, "--token-file", wrong)
	if err == nil || strings.Contains(err.Error()+out, "another-token") {
		t.Errorf("with a wrong token: %v\n%s", err, out)
	}
	if _, err := os.Stat(elsewhere); err == nil {
		t.Errorf("seeding a server has made a data directory on this machine")
	}
	if log := string(must(os.ReadFile(m.Log()))(t)); strings.Contains(log, "s3cret-token") || strings.Contains(log, "another-token") {
		t.Errorf("a token is in the log:\n%s", log)
	}
}
