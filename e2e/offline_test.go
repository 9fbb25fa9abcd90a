package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestStartOffline starts with an upstream that is down and an empty cache. It
// serves, and says of everything that it is not known.
func TestStartOffline(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	m := module(t, up.Env())

	if a := get(t, m.URL()+"/v2/"); a.Status != http.StatusOK {
		t.Errorf("/v2/: status %d, want 200", a.Status)
	}
	urls := []string{
		manifestURL(m, img.Repo, img.Tag),
		manifestURL(m, img.Repo, img.Root().Digest.String()),
		blobURL(m, img.Repo, img.Blobs[0].Digest),
	}
	for _, url := range urls {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := do(t, method, url)
			if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				t.Errorf("%s %s: status %d, Retry-After %q, want 503 with one", method, url, a.Status, a.Header.Get("Retry-After"))
			}
			if method == http.MethodGet {
				if code := a.code(t); code != "UNAVAILABLE" {
					t.Errorf("%s: code %s, want UNAVAILABLE", url, code)
				}
			}
		}
	}

	// It recovers as upstream does, without a restart. It may wait a moment
	// before it asks again.
	if err := up.Up(); err != nil {
		t.Fatal(err)
	}
	for _, url := range urls {
		eventually(t, url+" is served", func() bool { return get(t, url).Status == http.StatusOK })
	}
}

// TestNotFound shows that 404 is upstream's word, and that it was asked.
func TestNotFound(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	nothing := lab.BytesBlob([]byte("nobody has this")).Digest
	for url, code := range map[string]string{
		manifestURL(m, img.Repo, "no-such-tag"):    "MANIFEST_UNKNOWN",
		manifestURL(m, "no/such/repo", "1.0"):      "MANIFEST_UNKNOWN",
		manifestURL(m, img.Repo, nothing.String()): "MANIFEST_UNKNOWN",
		blobURL(m, img.Repo, nothing):              "BLOB_UNKNOWN",
	} {
		up.Reset()
		a := get(t, url)
		if a.Status != http.StatusNotFound || a.code(t) != code {
			t.Errorf("%s: status %d, want 404 %s\n%s", url, a.Status, code, a.Body)
		}
		if up.Counts().Requests == 0 {
			t.Errorf("%s: 404, and upstream was not asked", url)
		}
		if a := do(t, http.MethodHead, url); a.Status != http.StatusNotFound {
			t.Errorf("HEAD %s: status %d, want 404", url, a.Status)
		}
	}
}

// TestUpstreamRefuses shows what a client gets for content that is not cached
// when upstream refuses it: what upstream meant, and never a 404.
func TestUpstreamRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		with       http.HandlerFunc
		status     int
		code       string
		retryAfter string // "*" for any
	}{
		"429":       {refuse(http.StatusTooManyRequests, "Retry-After", "17"), http.StatusTooManyRequests, "TOOMANYREQUESTS", "17"},
		"401":       {refuse(http.StatusUnauthorized), http.StatusForbidden, "DENIED", ""},
		"403":       {refuse(http.StatusForbidden), http.StatusForbidden, "DENIED", ""},
		"500":       {refuse(http.StatusInternalServerError), http.StatusServiceUnavailable, "UNAVAILABLE", "*"},
		"502":       {refuse(http.StatusBadGateway), http.StatusServiceUnavailable, "UNAVAILABLE", "*"},
		"503":       {refuse(http.StatusServiceUnavailable), http.StatusServiceUnavailable, "UNAVAILABLE", "*"},
		"no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, http.StatusServiceUnavailable, "UNAVAILABLE", "*"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := sample(t, lab.OCIIndex)
			up := upstream(t, lab.UpstreamOptions{}, img)
			m := module(t, up.Env())
			up.Use(lab.Answer(func(r *http.Request) bool { return lab.KindOf(r.URL.Path) != lab.Ping }, tt.with))
			for _, url := range []string{manifestURL(m, img.Repo, img.Tag), blobURL(m, img.Repo, img.Blobs[0].Digest)} {
				a := get(t, url)
				if a.Status != tt.status || a.code(t) != tt.code {
					t.Errorf("%s: status %d, want %d %s\n%s", url, a.Status, tt.status, tt.code, a.Body)
				}
				if got := a.Header.Get("Retry-After"); tt.retryAfter == "*" && got == "" || tt.retryAfter != "*" && got != tt.retryAfter {
					t.Errorf("%s: Retry-After %q, want %q", url, got, tt.retryAfter)
				}
				if a.Header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s: upstream's challenge is passed on", url)
				}
			}
			if n := checkStore(t, m); n != 0 {
				t.Errorf("%d blobs are stored, want none", n)
			}
		})
	}
}

// refuse answers with a status and an error body as registries have it.
func refuse(status int, headers ...string) http.HandlerFunc {
	return lab.Refuse(status, fmt.Sprintf("X%d", status), headers...)
}

// TestCachedWhileAway pulls an image, breaks upstream in some way, and pulls
// again: with a tag that is fresh, and with one that has to be asked for; before
// a restart, and after one.
func TestCachedWhileAway(t *testing.T) {
	any := func(*http.Request) bool { return true }
	ways := map[string]func(up *lab.Upstream) error{
		"refused":    (*lab.Upstream).Down,
		"black hole": func(up *lab.Upstream) error { up.Use(lab.Hang(any)); return nil },
		"500": func(up *lab.Upstream) error {
			up.Use(lab.Answer(any, refuse(http.StatusInternalServerError)))
			return nil
		},
		"503": func(up *lab.Upstream) error {
			up.Use(lab.Answer(any, refuse(http.StatusServiceUnavailable)))
			return nil
		},
		"429": func(up *lab.Upstream) error { up.Use(lab.Answer(any, refuse(http.StatusTooManyRequests))); return nil },
		"401": func(up *lab.Upstream) error { up.Use(lab.Answer(any, refuse(http.StatusUnauthorized))); return nil },
		"403": func(up *lab.Upstream) error { up.Use(lab.Answer(any, refuse(http.StatusForbidden))); return nil },
		"captive portal": func(up *lab.Upstream) error {
			up.Use(lab.Answer(any, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<html>please log in</html>")
			}))
			return nil
		},
	}
	for name, breakIt := range ways {
		for _, ttl := range []string{"5m", "0"} {
			t.Run(name+"/TTL "+ttl, func(t *testing.T) {
				t.Parallel()
				img := sample(t, lab.OCIIndex)
				up := upstream(t, lab.UpstreamOptions{}, img)
				m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_TAGTTL": ttl})
				for _, b := range img.Blobs {
					wholeBlob(t, m, img.Repo, b)
				}
				refs := []string{img.Tag}
				for _, child := range img.Manifests {
					refs = append(refs, child.Digest.String())
				}
				for _, ref := range refs {
					if a := get(t, manifestURL(m, img.Repo, ref)); a.Status != http.StatusOK {
						t.Fatalf("%s: status %d\n%s", ref, a.Status, a.Body)
					}
				}

				if err := breakIt(up); err != nil {
					t.Fatal(err)
				}
				up.Reset()
				cachedImage(t, m, img, refs)
				if err := m.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				cachedImage(t, m, img, refs)
				if ttl != "0" {
					requests(t, up, "fresh tag", 0)
				}
			})
		}
	}
}

// cachedImage expects all of an image in answers that do not wait long for
// upstream. The engines' own patience is 15 s.
func cachedImage(t *testing.T, m *lab.Server, img lab.Image, refs []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for _, ref := range refs {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			resp := open(t, ctx, method, manifestURL(m, img.Repo, ref))
			a := read(resp)
			resp.Body.Close()
			if a.Status != http.StatusOK {
				t.Errorf("%s %s: status %d, want 200\n%s", method, ref, a.Status, a.Body)
			}
			if ref == img.Tag && a.Header.Get("Docker-Content-Digest") != img.Root().Digest.String() {
				t.Errorf("%s %s: digest %s, want %s", method, ref, a.Header.Get("Docker-Content-Digest"), img.Root().Digest)
			}
		}
	}
	for _, b := range img.Blobs {
		wholeBlob(t, m, img.Repo, b)
	}
}

// TestTagLifetime moves a tag upstream. Within its lifetime the old image is
// answered without asking, after it the new one.
func TestTagLifetime(t *testing.T) {
	before := sample(t, lab.OCIIndex)
	after := sample(t, lab.DockerList).In(before.Repo, before.Tag)
	for ttl, want := range map[string]lab.Image{"5m": before, "0": after} {
		t.Run("TTL "+ttl, func(t *testing.T) {
			t.Parallel()
			up := upstream(t, lab.UpstreamOptions{}, before)
			m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_TAGTTL": ttl})
			url := manifestURL(m, before.Repo, before.Tag)
			if a := get(t, url); string(a.Body) != string(before.Root().Bytes) {
				t.Fatalf("status %d\n%s", a.Status, a.Body)
			}
			if err := up.Push(t.Context(), after); err != nil {
				t.Fatal(err)
			}
			up.Reset()
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				a := do(t, method, url)
				if got := a.Header.Get("Docker-Content-Digest"); a.Status != http.StatusOK || got != want.Root().Digest.String() {
					t.Errorf("%s: status %d, %s, want 200, %s", method, a.Status, got, want.Root().Digest)
				}
				if method == http.MethodGet && string(a.Body) != string(want.Root().Bytes) {
					t.Errorf("the body is not that of %s:\n%s", want.Kind, a.Body)
				}
			}
			t.Logf("HEAD and GET: %v", up.Counts())
			if n := up.Counts().Requests; strings.HasPrefix(ttl, "5") && n != 0 {
				t.Errorf("%d upstream requests for a fresh tag, want 0\n%v", n, up)
			}
			// What the tag pointed to before stays reachable by its digest.
			if a := get(t, manifestURL(m, before.Repo, before.Root().Digest.String())); a.Status != http.StatusOK {
				t.Errorf("the old image by digest: status %d, want 200", a.Status)
			}
		})
	}
}
