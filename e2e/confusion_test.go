package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// anyRequest matches all requests.
func anyRequest(*http.Request) bool { return true }

// notPing matches all but those for the version of the API.
func notPing(r *http.Request) bool { return lab.KindOf(r.URL.Path) != lab.Ping }

// app is an image whose name is the same wherever it comes from, and whose content
// is not.
func app(t *testing.T, from string) lab.Image {
	t.Helper()
	return noise(t, from, 100<<10, 5000).In("team/app", "1.0")
}

// moduleIn starts a module with the data of one that was stopped.
func moduleIn(t *testing.T, dir string, settings ...lab.Env) *lab.Server {
	t.Helper()
	m := must(lab.StartModule(t.Context(), bin.module, dir, merge(settings...)))(t)
	end(t, m)
	return m
}

func stop(t *testing.T, m *lab.Server) {
	t.Helper()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
}

func takeDown(t *testing.T, r remote) {
	t.Helper()
	if err := r.Down(); err != nil {
		t.Fatal(err)
	}
}

func bringUp(t *testing.T, r remote) {
	t.Helper()
	if err := r.Up(); err != nil {
		t.Fatal(err)
	}
}

// refused fails the test unless a URL gives the status and the code, by HEAD and
// by GET. It returns the answer to GET.
func refused(t *testing.T, what, url string, status int, code string) answer {
	t.Helper()
	if a := do(t, http.MethodHead, url); a.Status != status {
		t.Errorf("%s: HEAD %s: status %d, want %d", what, url, a.Status, status)
	}
	a := get(t, url)
	if a.Status != status || a.code(t) != code {
		t.Errorf("%s: %s: status %d, want %d %s\n%.300s", what, url, a.Status, status, code, a.Body)
	}
	return a
}

// twins are two remotes that both have team/app:1.0, each with content of its own.
type twins struct {
	a, b       *lab.Origin
	appA, appB lab.Image
}

func newTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{appA: app(t, "twin a"), appB: app(t, "twin b")}
	w.a, w.b = origin(t, lab.OriginOptions{}, w.appA), origin(t, lab.OriginOptions{}, w.appB)
	return w
}

// settings are of a module in front of both, as defaults in the given order.
func (w *twins) settings(order string) lab.Env {
	a, b := called("a", true, w.a), called("b", true, w.b)
	if order == "b first" {
		return inFrontOf(b, a)
	}
	return inFrontOf(a, b)
}

// ways are all the ways to the one app and to the other.
func (w *twins) ways(order string) map[way]lab.Image {
	ways := map[way]lab.Image{
		{alias: "a"}: w.appA, {ns: "a"}: w.appA, {ns: hostOf(w.a)}: w.appA,
		{alias: "b"}: w.appB, {ns: "b"}: w.appB, {ns: hostOf(w.b)}: w.appB,
		{}: w.appA,
	}
	if order == "b first" {
		ways[way{}] = w.appB
	}
	return ways
}

// TestSameName asks for a name that two remotes have: the content is always that of
// the remote that is meant, be it cached or not, and be the other there or not.
func TestSameName(t *testing.T) {
	for _, order := range []string{"a first", "b first"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			w := newTwins(t)
			dir := tempDir(t)
			m := moduleIn(t, dir, w.settings(order))
			for by, img := range w.ways(order) {
				wholeImage(t, m, by, img)
			}
			stop(t, m)

			// The lifetime of tags is over at once, so that the remotes are asked.
			for _, ttl := range []string{"5m", "0"} {
				m := moduleIn(t, dir, w.settings(order), lab.Env{"REGISTRY_PROXY_TAGTTL": ttl, "REGISTRY_PROXY_TAGTTL_2": ttl})
				for _, away := range []*lab.Origin{w.a, w.b} {
					takeDown(t, away)
					for by, img := range w.ways(order) {
						wholeImage(t, m, by, img)
					}
					bringUp(t, away)
				}
				stop(t, m)
			}
		})

		t.Run(order+"/not cached", func(t *testing.T) {
			t.Parallel()
			for _, name := range []string{"a", "b"} {
				w := newTwins(t)
				away, lost := w.a, w.appA
				if name == "b" {
					away, lost = w.b, w.appB
				}
				m := module(t, w.settings(order))
				takeDown(t, away)
				for by, img := range w.ways(order) {
					if img.Root().Digest == lost.Root().Digest {
						refused(t, name+" is down", by.manifest(m, img.Repo, img.Tag), http.StatusServiceUnavailable, "UNAVAILABLE")
						continue
					}
					wholeImage(t, m, by, img)
				}
			}
		})
	}
}

// TestNotConfigured names what is no remote: nobody is asked.
func TestNotConfigured(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	m := module(t, w.settings("a first"))
	for _, ns := range []string{"quay.io", "c", "127.0.0.1", strings.Replace(hostOf(w.a), "127.0.0.1", "localhost", 1), hostOf(w.a) + "0"} {
		by := way{ns: ns}
		refused(t, "not configured", by.manifest(m, w.appA.Repo, w.appA.Tag), http.StatusNotFound, "NAME_UNKNOWN")
		refused(t, "not configured", by.blob(m, w.appA.Repo, w.appA.Blobs[0].Digest), http.StatusNotFound, "NAME_UNKNOWN")
	}
	untouched(t, "not configured", w.a, w.b)
}

// TestBinding shows that a name stays with the remote where it was found.
func TestBinding(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	tagTTL := lab.Env{"REGISTRY_PROXY_TAGTTL": "0", "REGISTRY_PROXY_TAGTTL_2": "0"}
	dir := tempDir(t)
	m := moduleIn(t, dir, w.settings("a first"), tagTTL)

	// Found at the second one, where the first gets it later.
	late := noise(t, "late at b", 1000).In("late/app", "1.0")
	w.b.Add(late)
	wholeImage(t, m, way{}, late)
	w.a.Add(noise(t, "late at a", 1000).In("late/app", "1.0"), noise(t, "later at a", 1000).In("late/app", "2.0"))
	w.a.Reset()
	wholeImage(t, m, way{}, late)
	refused(t, "a tag that only the other has", way{}.manifest(m, late.Repo, "2.0"), http.StatusNotFound, "MANIFEST_UNKNOWN")
	if a := get(t, way{}.url(m, late.Repo, "/tags/list")); a.Status != http.StatusOK || !strings.Contains(string(a.Body), `["1.0"]`) {
		t.Errorf("tags: status %d, want those of the remote that the name is bound to\n%s", a.Status, a.Body)
	}
	untouched(t, "bound to the second remote", w.a)

	// Found at the first one, which loses it: nobody can take it over.
	wholeImage(t, m, way{}, w.appA)
	w.a.Clear()
	w.b.Reset()
	refused(t, "gone at its remote", way{}.manifest(m, w.appA.Repo, w.appA.Tag), http.StatusNotFound, "MANIFEST_UNKNOWN")
	refused(t, "gone at its remote", way{}.manifest(m, w.appA.Repo, "2.0"), http.StatusNotFound, "MANIFEST_UNKNOWN")
	untouched(t, "bound to the first remote", w.b)
	w.a.Add(w.appA)
	stop(t, m)

	// The same in another order, for names that were found before; new ones are
	// found in the new order.
	fresh := app(t, "fresh at b").In("fresh/app", "1.0")
	w.a.Add(app(t, "fresh at a").In("fresh/app", "1.0"))
	w.b.Add(fresh)
	m = moduleIn(t, dir, w.settings("b first"), tagTTL)
	wholeImage(t, m, way{}, w.appA)
	wholeImage(t, m, way{}, late)
	wholeImage(t, m, way{}, fresh)
}

// TestAttacker has a private name at the first default remote, and somebody who
// publishes it at the second. Whatever the first one says but "not found", the
// second is not asked.
func TestAttacker(t *testing.T) {
	for name, tt := range map[string]struct {
		breaks func(t *testing.T, r *lab.Origin)
		status int
		code   string
	}{
		"down":        {func(t *testing.T, r *lab.Origin) { takeDown(t, r) }, http.StatusServiceUnavailable, "UNAVAILABLE"},
		"500":         {answers(http.StatusInternalServerError), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"502":         {answers(http.StatusBadGateway), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"503":         {answers(http.StatusServiceUnavailable, "Retry-After", "1"), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"429":         {answers(http.StatusTooManyRequests, "Retry-After", "1"), http.StatusTooManyRequests, "TOOMANYREQUESTS"},
		"401":         {answers(http.StatusUnauthorized), http.StatusForbidden, "DENIED"},
		"403":         {answers(http.StatusForbidden), http.StatusForbidden, "DENIED"},
		"cut":         {uses(lab.Answer(anyRequest, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"black hole":  {uses(lab.Hang(anyRequest)), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"portal":      {uses(lab.Answer(anyRequest, content("text/html", portal))), http.StatusBadGateway, "UNAVAILABLE"},
		"portal, 404": {uses(lab.Answer(anyRequest, notFoundPage)), http.StatusBadGateway, "UNAVAILABLE"},
		// What the proxy in front of a registry that is down says of all but /v2/.
		"404 of a proxy": {uses(lab.Answer(notPing, http.NotFound)), http.StatusBadGateway, "UNAVAILABLE"},
		"tags say 500":   {noTagAnd(refuse(http.StatusInternalServerError)), http.StatusServiceUnavailable, "UNAVAILABLE"},
		"tags say 429":   {noTagAnd(refuse(http.StatusTooManyRequests, "Retry-After", "1")), http.StatusTooManyRequests, "TOOMANYREQUESTS"},
		"tags, portal":   {noTagAnd(content("text/html", portal)), http.StatusBadGateway, "UNAVAILABLE"},
		"tags say 403":   {noTagAnd(refuse(http.StatusForbidden)), http.StatusForbidden, "DENIED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			private, forged := app(t, "private"), app(t, "forged")
			first, second := origin(t, lab.OriginOptions{}, private), origin(t, lab.OriginOptions{}, forged)
			m := module(t, inFrontOf(called("first", true, first), called("second", true, second)),
				lab.Env{"REGISTRY_PROXY_NEGATIVETTL": "0"}) // what is mended is seen at once

			tt.breaks(t, first)
			urls := []string{
				way{}.manifest(m, forged.Repo, forged.Tag),
				way{}.manifest(m, forged.Repo, forged.Root().Digest.String()),
				way{}.blob(m, forged.Repo, forged.Blobs[0].Digest),
			}
			if strings.HasPrefix(name, "tags") {
				urls = urls[:1]
			}
			start := time.Now()
			done := make(chan struct{})
			for _, url := range urls { // all at once: each may cost a timeout
				go func() {
					defer func() { done <- struct{}{} }()
					if a := get(t, url); a.Status != tt.status || a.code(t) != tt.code {
						t.Errorf("%s: status %d, want %d %s\n%.300s", url, a.Status, tt.status, tt.code, a.Body)
					}
				}()
			}
			for range urls {
				<-done
			}
			t.Logf("answered after %v", time.Since(start).Round(time.Millisecond))
			untouched(t, name, second)

			// The first one comes back.
			first.Use()
			bringUp(t, first)
			eventually(t, "the private image is served", func() bool {
				a := get(t, urls[0])
				if a.Status == http.StatusOK && a.Header.Get("Docker-Content-Digest") != private.Root().Digest.String() {
					t.Fatalf("got %s, want the private image", a.Header.Get("Docker-Content-Digest"))
				}
				return a.Status == http.StatusOK
			})
			wholeImage(t, m, way{}, private)

			// Another tag of a name that is bound.
			second.Add(forged.In(forged.Repo, "2.0"))
			takeDown(t, first)
			refused(t, "bound", way{}.manifest(m, forged.Repo, "2.0"), http.StatusServiceUnavailable, "UNAVAILABLE")
			wholeImage(t, m, way{}, private)
			untouched(t, name, second)
		})
	}
}

func uses(m lab.Middleware) func(*testing.T, *lab.Origin) {
	return func(_ *testing.T, r *lab.Origin) { r.Use(m) }
}

func answers(status int, headers ...string) func(*testing.T, *lab.Origin) {
	return uses(lab.Answer(anyRequest, refuse(status, headers...)))
}

// notFoundPage is what web servers say that are no registries.
func notFoundPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, portal)
}

// noTagAnd is a remote that says that the tag is not there, and of the repository
// something else.
func noTagAnd(tags http.HandlerFunc) func(*testing.T, *lab.Origin) {
	return uses(lab.Each(func(r *http.Request) lab.Middleware {
		switch lab.KindOf(r.URL.Path) {
		case lab.Manifest:
			return lab.Answer(anyRequest, lab.Refuse(http.StatusNotFound, "MANIFEST_UNKNOWN"))
		case lab.Tags:
			return lab.Answer(anyRequest, tags)
		}
		return nil
	}))
}

// TestMissingTag has a private repository without the tag that somebody has
// published at the next remote.
func TestMissingTag(t *testing.T) {
	t.Parallel()
	private, forged := app(t, "private"), app(t, "forged").In("team/app", "2.0")
	first, second := origin(t, lab.OriginOptions{}, private), origin(t, lab.OriginOptions{}, forged)
	settings := inFrontOf(called("first", true, first), called("second", true, second))
	for name, prepare := range map[string]func(*lab.Server){
		"never asked for": func(*lab.Server) {},
		"bound":           func(m *lab.Server) { wholeImage(t, m, way{}, private) },
	} {
		m := module(t, settings)
		prepare(m)
		refused(t, name, way{}.manifest(m, forged.Repo, forged.Tag), http.StatusNotFound, "MANIFEST_UNKNOWN")
		refused(t, name, way{}.manifest(m, forged.Repo, forged.Root().Digest.String()), http.StatusNotFound, "MANIFEST_UNKNOWN")
		refused(t, name, way{}.blob(m, forged.Repo, forged.Blobs[0].Digest), http.StatusNotFound, "BLOB_UNKNOWN")
		untouched(t, name, second)
		// It is there for who asks for it.
		wholeImage(t, m, way{alias: "second"}, forged)
		second.Reset()
	}
}

// TestDeniedIsAbsent lets a remote's refusal mean that it has nothing of that name,
// which the operator says; an outage still does not.
func TestDeniedIsAbsent(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		img := app(t, "public")
		first, second := origin(t, lab.OriginOptions{}), origin(t, lab.OriginOptions{}, img)
		answers(status)(t, first)
		m := module(t, inFrontOf(
			called("first", true, first, lab.Env{"REGISTRY_PROXY_DENIEDISABSENT": "true"}), called("second", true, second)))
		wholeImage(t, m, way{}, img)
		refused(t, "explicitly", way{alias: "first"}.manifest(m, img.Repo, img.Tag), http.StatusForbidden, "DENIED")

		second.Add(img.In("other/app", "1.0"))
		answers(http.StatusInternalServerError)(t, first)
		second.Reset()
		refused(t, "outage", way{}.manifest(m, "other/app", "1.0"), http.StatusServiceUnavailable, "UNAVAILABLE")
		untouched(t, "outage", second)
	}
}
