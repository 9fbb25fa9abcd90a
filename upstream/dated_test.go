package upstream_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestAgeOfAnswers asks a remote that is a cache itself.
func TestAgeOfAnswers(t *testing.T) {
	const content = `{"schemaVersion":2}`
	now := digest.FromString(content)
	noDigest := http.Header{"Docker-Content-Digest": nil}
	head := []ut.Kind{ut.ManifestHead}
	resolve := func(known digest.Digest) func(*testing.T, *upstream.Remote, string) (cache.Descriptor, error) {
		return func(t *testing.T, r *upstream.Remote, ref string) (cache.Descriptor, error) {
			return r.Resolve(t.Context(), "a/b", ref, known)
		}
	}
	for name, test := range map[string]struct {
		ask    func(*testing.T, *upstream.Remote, string) (cache.Descriptor, error)
		faults []ut.Fault
	}{
		"fetched": {ask: func(t *testing.T, r *upstream.Remote, ref string) (cache.Descriptor, error) {
			m, err := r.Manifest(t.Context(), "a/b", ref)
			return m.Descriptor, err
		}},
		"asked for":           {ask: resolve("")},
		"unchanged":           {ask: resolve(now)},
		"changed":             {ask: resolve("sha256:" + digestZero)},
		"by GET":              {resolve(now), []ut.Fault{{Kinds: head, Status: 405}}},
		"by GET, unsaid":      {resolve(now), []ut.Fault{{IgnoreIfNoneMatch: true, Header: noDigest}}},
		"nothing, and no GET": {resolve(""), []ut.Fault{{Kinds: head, Header: noDigest}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, of := range []struct {
				ref, age, warning string
				want              time.Duration
				stale             bool
			}{
				{"v1", "", "", 0, false},
				{"v1", "90", "", 90 * time.Second, false},
				{"v1", "90", `110 - "Response is Stale"`, 90 * time.Second, true},
				{"v1", "long", `299 - "Careful"`, 0, false},
				{now.String(), "90", `110 - "Response is Stale"`, 0, false},
			} {
				reg := ut.New(t)
				reg.AddManifest("a/b", "v1", "application/json", []byte(content))
				says := http.Header{}
				if of.age != "" {
					says.Set("Age", of.age)
				}
				if of.warning != "" {
					says.Set("Warning", of.warning)
				}
				reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead, ut.ManifestGet}, Header: says})
				for _, f := range test.faults {
					f.Header = merge(f.Header, says)
					reg.Script(f)
				}
				d, err := test.ask(t, newRemote(t, upstream.Options{URL: reg.URL()}), of.ref)
				if err != nil || d.Age != of.want || d.Stale != of.stale {
					t.Errorf("%s of age %q, with warning %q: %+v, %v", of.ref, of.age, of.warning, d, err)
				}
			}
		})
	}
}

// merge returns what is in a or in b.
func merge(a, b http.Header) http.Header {
	both := a.Clone()
	if both == nil {
		both = http.Header{}
	}
	for name, values := range b {
		both[name] = values
	}
	return both
}
