package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// TestBlobOracle asks a repository of one remote for what is in a private one of
// another, and expects what it gets for what nobody has.
func TestBlobOracle(t *testing.T) {
	t.Parallel()
	public, private := app(t, "public").In("public/app", "1.0"), app(t, "private").In("private/app", "1.0")
	first, second := origin(t, lab.OriginOptions{}, public), origin(t, lab.OriginOptions{}, private)
	m := module(t, inFrontOf(called("first", true, first), called("second", false, second)))
	wholeImage(t, m, way{}, public)
	wholeImage(t, m, way{alias: "second"}, private)
	nobodys := lab.BytesBlob([]byte("nobody has this")).Digest

	for _, by := range []way{{}, {alias: "first"}, {ns: hostOf(first)}, {ns: "first"}} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			for what, secret := range map[string]digest.Digest{
				"/blobs/":     private.Blobs[0].Digest,
				"/manifests/": private.Root().Digest,
			} {
				ask := func(dgst digest.Digest) (shown string, asked int) {
					first.Reset()
					second.Reset()
					a := do(t, method, by.url(m, public.Repo, what+dgst.String()))
					untouched(t, "oracle", second)
					a.Header.Del("Date")
					text := fmt.Sprint(a.Status, a.Header, string(a.Body))
					return strings.ReplaceAll(text, dgst.String(), "DIGEST"), len(first.Requests())
				}
				want, wantAsked := ask(nobodys)
				got, asked := ask(secret)
				if got != want || !strings.HasPrefix(got, "404") {
					t.Errorf("%s of a private %s %v: answered\n%s\nand for what nobody has\n%s", method, what, by, got, want)
				}
				// That a manifest does not exist is remembered.
				if asked != wantAsked || asked == 0 && what == "/blobs/" {
					t.Errorf("%s of a private %s %v: the remote was asked %d times, want %d as for what nobody has", method, what, by, asked, wantAsked)
				}
			}
		}
	}
	checkStore(t, m)

	// While the remote is away nobody knows what it has.
	takeDown(t, first)
	for _, by := range []way{{}, {alias: "first"}, {ns: hostOf(first)}} {
		for _, dgst := range []digest.Digest{nobodys, private.Blobs[0].Digest} {
			refused(t, "away", by.blob(m, public.Repo, dgst), http.StatusServiceUnavailable, "UNAVAILABLE")
		}
	}
}

// TestBlobOfTwoRemotes has one layer at two remotes. It is downloaded and stored once, and
// is served under each only after that one has said that it has it.
func TestBlobOfTwoRemotes(t *testing.T) {
	t.Parallel()
	img := app(t, "shared")
	first, second := origin(t, lab.OriginOptions{}, img), origin(t, lab.OriginOptions{}, img)
	m := module(t, inFrontOf(called("first", true, first), called("second", false, second)))
	layer := img.Blobs[0]
	at := way{alias: "second"}

	wholeImage(t, m, way{}, img)
	untouched(t, "the first has it", second)
	eventually(t, "all is stored", func() bool { return allStored(m, img) && stored(m, img.Root().Digest) })
	n := checkStore(t, m)
	takeDown(t, second)
	refused(t, "not vouched for", at.manifest(m, img.Repo, img.Tag), http.StatusServiceUnavailable, "UNAVAILABLE")
	refused(t, "not vouched for", at.blob(m, img.Repo, layer.Digest), http.StatusServiceUnavailable, "UNAVAILABLE")

	bringUp(t, second)
	first.Reset()
	eventually(t, "the second vouches for it", func() bool {
		f := must(fetch(t.Context(), at.blob(m, img.Repo, layer.Digest)))(t)
		return f.whole(layer) == nil
	})
	wholeImage(t, m, at, img)
	if c := second.Counts(); c.BlobHEAD != len(img.Blobs) || c.BlobGET != 0 {
		t.Errorf("the second was asked for %v\nwant %d HEADs of blobs, and no GET\n%v", c, len(img.Blobs), second)
	}
	untouched(t, "the second vouches for it", first)
	if again := checkStore(t, m); again != n {
		t.Errorf("%d blobs are stored, and %d before the second remote: each once", again, n)
	}

	takeDown(t, first)
	takeDown(t, second)
	wholeImage(t, m, at, img)
	wholeImage(t, m, way{}, img)
}

// TestDeny forbids what is cached already.
func TestDeny(t *testing.T) {
	t.Parallel()
	secret, open := app(t, "secret").In("secret/app", "1.0"), app(t, "open").In("open/app", "1.0")
	first, second := origin(t, lab.OriginOptions{}, secret, open), origin(t, lab.OriginOptions{}, secret, open)
	dir := tempDir(t)
	m := moduleIn(t, dir, inFrontOf(called("first", true, first), called("second", false, second)))
	ways := []way{{}, {alias: "first"}, {ns: "first"}, {ns: hostOf(first)}, {alias: "second"}, {ns: hostOf(second)}}
	for _, by := range ways {
		wholeImage(t, m, by, secret)
		wholeImage(t, m, by, open)
	}
	if got := catalog(t, m); !slices.Contains(got, secret.Repo) {
		t.Errorf("before: the catalog is %v, want %s in it", got, secret.Repo)
	}
	stop(t, m)

	deny := lab.Env{"REGISTRY_PROXY_DENY": "[secret/**]"}
	m = moduleIn(t, dir, inFrontOf(called("first", true, first, deny), called("second", false, second, deny)))
	first.Reset()
	second.Reset()
	for _, by := range ways {
		for _, url := range []string{
			by.manifest(m, secret.Repo, secret.Tag), by.manifest(m, secret.Repo, secret.Root().Digest.String()),
			by.blob(m, secret.Repo, secret.Blobs[0].Digest), by.url(m, secret.Repo, "/tags/list"),
		} {
			if a := refused(t, fmt.Sprint("denied ", by), url, http.StatusForbidden, "DENIED"); a.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s: a challenge", url)
			}
		}
		wholeImage(t, m, by, open)
	}
	untouched(t, "denied", first, second)
	for _, repo := range catalog(t, m) {
		if strings.Contains(repo, "secret/") {
			t.Errorf("the catalog has %s, which is denied", repo)
		}
	}
	stop(t, m)

	// Among defaults, a remote that is denied a name is as if it were not there.
	other := app(t, "other").In(secret.Repo, "1.0")
	third := origin(t, lab.OriginOptions{}, other)
	m = module(t, inFrontOf(called("first", true, first, deny), called("third", true, third)))
	wholeImage(t, m, way{}, other)
	untouched(t, "skipped", first)
}

// TestAllow serves only what is allowed.
func TestAllow(t *testing.T) {
	t.Parallel()
	secret, open := app(t, "secret").In("secret/app", "1.0"), app(t, "open").In("open/deep/app", "1.0")
	first := origin(t, lab.OriginOptions{}, secret, open)
	m := module(t, called("first", true, first, lab.Env{"REGISTRY_PROXY_ALLOW": "[open/**]"}))
	for _, by := range []way{{}, {alias: "first"}, {ns: "first"}} {
		wholeImage(t, m, by, open)
	}
	first.Reset()
	for _, by := range []way{{}, {alias: "first"}, {ns: "first"}} {
		refused(t, fmt.Sprint("not allowed ", by), by.manifest(m, secret.Repo, secret.Tag), http.StatusForbidden, "DENIED")
	}
	untouched(t, "not allowed", first)
}

// catalog returns the names of repositories that a module lists.
func catalog(t *testing.T, m *lab.Server) []string {
	t.Helper()
	var list struct{ Repositories []string }
	a := get(t, m.URL()+"/v2/_catalog")
	if err := json.Unmarshal(a.Body, &list); err != nil || a.Status != http.StatusOK {
		t.Fatalf("catalog: status %d, %v\n%s", a.Status, err, a.Body)
	}
	return list.Repositories
}
