package e2e

import (
	"net/http"
	"testing"

	"registry-module/e2e/lab"
)

// TestDiscoverTree has oras list all levels of referrers, as it does unless it is told a
// depth, and once more without the upstream and after a restart.
func TestDiscoverTree(t *testing.T) {
	for name, start := range shelves() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := start(t).fill(t, "team/app", "team/app")
			m := module(t, up.Env())
			oras := lab.NewClient(tempDir(t), bin.oras)
			tree := func() (string, error) {
				return oras.CLI(t.Context(), "discover", "--plain-http", "--format", "json", m.Addr+"/team/app@"+up.subjects[1].of.Digest.String())
			}
			if a := get(t, manifestURL(m, "team/app", up.subjects[1].of.Digest.String())); a.Status != http.StatusOK {
				t.Fatalf("status %d\n%s", a.Status, a.Body)
			}
			before := must(tree())(t)
			takeDown(t, up)
			if err := m.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := must(tree())(t); after != before {
				t.Errorf("without upstream:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// TestAheadTree does so of what came with REGISTRY_CACHE_REFERRERS.
func TestAheadTree(t *testing.T) {
	up, m := ahead(t, "team/app", "team/app")
	takeDown(t, up)
	oras := lab.NewClient(tempDir(t), bin.oras)
	must(oras.CLI(t.Context(), "discover", "--plain-http", "--format", "json", m.Addr+"/team/app@"+up.subjects[1].of.Digest.String()))(t)
}

// TestAheadOfTwoRepositories has what is attached in two repositories share blobs, as all
// artifacts share the empty configuration.
func TestAheadOfTwoRepositories(t *testing.T) {
	up, m := ahead(t, "team/plain", "team/index")
	takeDown(t, up)
	up.offline(t, m)
}

// TestAheadWithinIndex looks for the attestations that BuildKit puts into an index.
func TestAheadWithinIndex(t *testing.T) {
	up, m := ahead(t, "team/app", "team/app")
	takeDown(t, up)
	index := up.images[1]
	for _, at := range []int{1, 3} { // as Attested has them: platform, attestations, twice
		if err := gives(t.Context(), http.MethodGet, manifestURL(m, index.Repo, index.Manifests[at].Digest.String()), index.Manifests[at]); err != nil {
			t.Error(err)
		}
	}
}

// ahead pulls the images of an upstream through a module with REGISTRY_CACHE_REFERRERS,
// and waits until what is attached to them is stored.
func ahead(t *testing.T, plainRepo, indexRepo string) (*shelf, *lab.Server) {
	t.Helper()
	t.Parallel()
	up := shelves()["API"](t).fill(t, plainRepo, indexRepo)
	m := module(t, up.Env(), lab.Env{"REGISTRY_CACHE_REFERRERS": "true"})
	up.pullAhead(t, "crane", m)
	return up, m
}
