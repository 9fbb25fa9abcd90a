package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/e2e/lab"
)

// TestAttached finds signatures, SBOMs and attestations through the module, with the
// upstream there and with it away in several ways: what was found once is found
// again, and what nobody has asked for is not said to be nothing.
func TestAttached(t *testing.T) {
	t.Parallel()
	aways := map[string]func(r remote) error{
		"refused": remote.Down,
		"503": func(r remote) error {
			r.Use(lab.Answer(anyRequest, refuse(http.StatusServiceUnavailable)))
			return nil
		},
	}
	for name, start := range shelves() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := start(t).fill(t, "team/plain", "team/index")
			unasked := sample(t, lab.DockerList).In("team/unasked", "1.0")
			if err := up.push(t.Context(), unasked); err != nil {
				t.Fatal(err)
			}
			modules := map[string]*lab.Server{"fresh": module(t, up.Env()), "stale": module(t, up.Env(), lab.Env{"REGISTRY_PROXY_TAGTTL": "0"})}
			for what, m := range modules {
				up.Reset()
				if err := up.verifyAll(t.Context(), m); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if what == "fresh" {
					up.once(t)
				}
				up.subjects[1].tools(t, what, m)
				up.Reset()
				if err := up.verifyAll(t.Context(), m); err != nil {
					t.Errorf("%s, again: %v", what, err)
				}
				// Where there is no API, the list of referrers is a manifest.
				if c := up.Counts(); what == "fresh" && c.Requests != 0 || c.BlobGET != 0 || up.tags == 0 && c.ManifestGET != 0 {
					t.Errorf("%s, again: %v\n%v", what, c, up)
				}
			}
			for away, leave := range aways {
				if err := leave(up); err != nil {
					t.Fatal(err)
				}
				for what, m := range modules {
					what += ", " + away
					if err := up.verifyAll(t.Context(), m); err != nil {
						t.Errorf("%s: %v", what, err)
					}
					up.subjects[1].tools(t, what, m)
					neverAsked(t, what, m, unasked)
				}
				if away == "refused" { // once: oras tries again for seconds
					oras := lab.NewClient(tempDir(t), bin.oras)
					if out, err := oras.CLI(t.Context(), "discover", "--plain-http", "--format", "json", unasked.ByDigest(modules["fresh"].Addr)); err == nil {
						t.Errorf("oras discover of what was never asked for:\n%s", out)
					}
				}
				bringUp(t, up)
				up.Use()
			}
			for _, m := range modules {
				checkStore(t, m)
			}
		})
	}
}

// neverAsked expects that nothing is said of an image that nobody has asked for while
// the upstream was there.
func neverAsked(t *testing.T, what string, m *lab.Server, img lab.Image) {
	t.Helper()
	dgst := img.Root().Digest
	for _, path := range []string{"/referrers/" + dgst.String(), "/manifests/" + lab.ReferrersTag(dgst), "/manifests/" + lab.ReferrersTag(dgst) + ".sig"} {
		refused(t, what, m.URL()+"/v2/"+img.Repo+path, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
}

// pullAhead pulls the images, and waits until what is attached to them is stored.
func (s *shelf) pullAhead(t *testing.T, by string, m *lab.Server) {
	t.Helper()
	p, _ := pullers()[by](t, nil, m)
	for _, img := range s.images {
		must(p.Pull(t.Context(), img.ByTag(m.Addr), "linux/amd64"))(t)
	}
	eventually(t, "all that is attached is stored", func() bool {
		for _, sub := range s.subjects {
			for _, img := range slices.Concat(sub.tagged, sub.referrers) {
				if !allStored(m, img) || !stored(m, img.Root().Digest) {
					return false
				}
			}
		}
		return true
	})
}

// TestAttachedAhead pulls images, and nothing else, through a module with
// REGISTRY_CACHE_REFERRERS: what is attached to them comes with them.
func TestAttachedAhead(t *testing.T) {
	t.Parallel()
	for name, start := range shelves() {
		for _, by := range []string{"crane", "docker"} {
			t.Run(name+"/"+by, func(t *testing.T) {
				t.Parallel()
				up := start(t).fill(t, "team/app", "team/app")
				m := module(t, up.Env(), lab.Env{"REGISTRY_CACHE_REFERRERS": "true"})
				up.pullAhead(t, by, m)
				up.once(t)
				takeDown(t, up)
				up.offline(t, m)
				up.subjects[1].tools(t, "without upstream", m)
				checkStore(t, m)
			})
		}
	}
}

// TestAttachedOutlives shows that what is attached is still listed after a kill, when
// the index was lost, and by a module that has no remote.
func TestAttachedOutlives(t *testing.T) {
	t.Parallel()
	for name, start := range shelves() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := start(t).fill(t, "team/plain", "team/index")
			dir := tempDir(t)
			m := moduleIn(t, dir, up.Env())
			if err := up.verifyAll(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			takeDown(t, up)
			eventually(t, "all that is attached is on the disk", func() bool { return up.linked(m) })
			if err := m.Kill(); err != nil {
				t.Fatal(err)
			}
			for _, step := range []struct {
				what string
				lose bool
				env  lab.Env
			}{
				{"after a kill", false, up.Env()},
				{"index lost", true, up.Env()},
				{"no remote", false, lab.Env{}},
				{"no remote, index lost", true, lab.Env{}},
			} {
				if step.lose {
					if err := os.RemoveAll(filepath.Join(m.Data, "index")); err != nil {
						t.Fatal(err)
					}
				}
				m = moduleIn(t, dir, step.env)
				if err := up.verifyAll(t.Context(), m); err != nil {
					t.Errorf("%s: %v", step.what, err)
				}
				up.subjects[1].tools(t, step.what, m)
				stop(t, m)
			}
		})
	}
}

// TestAttachedAtSecond has an image at the second of the default remotes. That the
// first one lists no referrers, of what it does not have, hides none.
func TestAttachedAtSecond(t *testing.T) {
	t.Parallel()
	nothing := content(v1.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`)
	lists := func(r *http.Request) bool { return lab.KindOf(r.URL.Path) == lab.Referrers }
	for says, test := range map[string]struct {
		first func(*testing.T) remote
		shelf string
	}{
		"an empty list": {func(t *testing.T) remote {
			r := upstream(t, lab.UpstreamOptions{})
			r.Use(lab.Answer(lists, nothing))
			return r
		}, "tag schema"},
		"no API":    {func(t *testing.T) remote { return upstream(t, lab.UpstreamOptions{}) }, "API"},
		"not found": {func(t *testing.T) remote { return referring(t) }, "tag schema"},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			before, up := test.first(t), shelves()[test.shelf](t).fill(t, "team/plain", "team/index")
			env := inFrontOf(called("first", true, before), called("second", true, up))
			m, away := module(t, env), module(t, env)

			// Whoever might have it has to be asked first.
			takeDown(t, before)
			sub := up.subjects[1]
			refused(t, "the first is away", away.URL()+"/v2/"+sub.repo+"/referrers/"+sub.of.Digest.String(), http.StatusServiceUnavailable, "UNAVAILABLE")
			if n := len(up.Requests()); n != 0 {
				t.Errorf("the first is away, and the second was asked %d times", n)
			}
			bringUp(t, before)

			// For the list before anything else: it alone finds out which remote is meant.
			if err := sub.list(t.Context(), m, lab.NotarySignature); err != nil {
				t.Error(err)
			}
			if err := up.verifyAll(t.Context(), m); err != nil {
				t.Error(err)
			}
			takeDown(t, up)
			takeDown(t, before)
			up.offline(t, m)
			sub.tools(t, "both are away", m)
		})
	}
}
