package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/notifications"

	"registry-module/e2e/lab"
)

// webhookSecret is in the header that an endpoint is told to get.
const webhookSecret = "webhook-s3cret"

// webhook is an endpoint of notifications.
type webhook struct {
	*httptest.Server
	mu     sync.Mutex
	events []notifications.Event
}

func startWebhook(t *testing.T) *webhook {
	t.Helper()
	w := new(webhook)
	w.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var got struct{ Events []notifications.Event }
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.Header.Get("Content-Type") != notifications.EventsMediaType {
			t.Errorf("%s %s is no envelope of events: %v", r.Method, r.Header.Get("Content-Type"), err)
		}
		if r.Header.Get("Authorization") != "Bearer "+webhookSecret {
			t.Errorf("the header that is configured is %q", r.Header.Get("Authorization"))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, got.Events...)
	}))
	t.Cleanup(w.Close)
	return w
}

// count is how many events there were that are so, and forgets none.
func (w *webhook) count(so func(e notifications.Event) bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if so(e) {
			n++
		}
	}
	return n
}

// forget forgets what has come.
func (w *webhook) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = nil
}

// got waits for an event of an action whose target has the annotations, name and value in
// turn.
func (w *webhook) got(t *testing.T, action string, annotations ...string) notifications.Event {
	t.Helper()
	var found notifications.Event
	so := func(e notifications.Event) bool {
		for i := 0; i < len(annotations); i += 2 {
			if e.Target.Annotations["registry-module."+annotations[i]] != annotations[i+1] {
				return false
			}
		}
		if e.Action == action {
			found = e
			return true
		}
		return false
	}
	eventually(t, fmt.Sprint(action, annotations, " was sent"), func() bool { return w.count(so) > 0 })
	return found
}

// notifying is a configuration with endpoints at the URLs.
func notifying(t *testing.T, urls ...string) lab.Env {
	t.Helper()
	text := "version: 0.1\nstorage: {filesystem: {}}\nlog: {level: debug}\nnotifications:\n  endpoints:\n"
	for i, url := range urls {
		text += fmt.Sprintf("  - {name: hook%d, url: '%s/events', timeout: 2s, threshold: 2, backoff: 1s, headers: {Authorization: [Bearer %s]}}\n", i, url, webhookSecret)
	}
	path := filepath.Join(tempDir(t), "config.yml")
	write(t, path, text)
	return lab.Env{"REGISTRY_CONFIGURATION_PATH": path}
}

// TestWebhook has a real receiver told of pulls, cold and warm, of evictions, of a remote
// that goes away and comes back, and of room that is short and is not any more.
func TestWebhook(t *testing.T) {
	t.Parallel()
	hook := startWebhook(t)
	a, b, c := noise(t, "hook/a", 35*mib, mib), noise(t, "hook/b", 35*mib, mib), noise(t, "hook/c", 35*mib, mib)
	up := origin(t, lab.OriginOptions{}, a, b, c)
	m := module(t, up.Env(), notifying(t, hook.URL), lab.Env{"REGISTRY_CACHE_MAXSIZE": "64MiB", "REGISTRY_CACHE_MINFREE": "0%"})
	crane := lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}
	pull := func(img lab.Image) {
		t.Helper()
		must(crane.CLI(t.Context(), "pull", img.ByTag(m.Addr), filepath.Join(tempDir(t), "image.tar")))(t)
	}

	for _, what := range []string{"cold", "warm"} {
		hook.forget()
		pull(a)
		for _, dgst := range append([]lab.RawBlob{{Digest: a.Root().Digest}}, a.Blobs...) {
			eventually(t, fmt.Sprintf("%s, the pull of %s was sent", what, dgst.Digest), func() bool {
				return hook.count(func(e notifications.Event) bool {
					return e.Action == notifications.EventActionPull && e.Target.Digest == dgst.Digest && e.Target.Repository == a.Repo && e.Request.Method == http.MethodGet
				}) > 0
			})
		}
		if hook.count(func(e notifications.Event) bool { return e.Target.Digest == a.Root().Digest && e.Target.Tag == a.Tag }) == 0 {
			t.Errorf("%s, no event has the tag that was pulled", what)
		}
	}

	pull(b) // for which there is no room beside a
	evicted := hook.got(t, "evict", "cause", "room")
	if evicted.Target.Repository != up.Addr+"/"+a.Repo && evicted.Target.Repository != a.Repo || evicted.Target.Tag != a.Tag {
		t.Errorf("%s:%s was evicted, want %s", evicted.Target.Repository, evicted.Target.Tag, a.Repo)
	}

	eventually(t, "the second image can be pinned", func() bool {
		_, err := tryCLI(t.Context(), m, "pin", b.Repo+":"+b.Tag)
		return err == nil
	})
	pull(c) // for which there is no room at all
	if e := hook.got(t, "space", "short", "true"); e.Target.Annotations["registry-module.reason"] == "" {
		t.Error("the event does not say why there is no room")
	}
	cli(t, m, "unpin", b.Repo+":"+b.Tag)
	pull(c)
	hook.got(t, "space", "short", "false")

	takeDown(t, up)
	for range 3 {
		get(t, manifestURL(m, c.Repo, "new"))
	}
	if e := hook.got(t, "remote", "remote", hostOf(up), "to", "offline"); e.Target.Annotations["registry-module.reason"] == "" {
		t.Error("the event does not say why the remote is offline")
	}
	bringUp(t, up)
	eventually(t, "the remote is asked again", func() bool { return get(t, manifestURL(m, c.Repo, "new")).Status == http.StatusNotFound })
	hook.got(t, "remote", "remote", hostOf(up), "to", "online")

	shown := string(must(os.ReadFile(m.Log()))(t)) + must(m.Metrics(t.Context()))(t)
	for _, path := range []string{"/", "/state", "/images"} {
		shown += string(get(t, "http://"+m.Admin+path).Body)
	}
	if strings.Contains(shown, webhookSecret) {
		t.Error("the secret of a header is in the log, or at the admin address")
	}
}

// TestWebhookInVain pulls where endpoints hang, fail and refuse: no pull notices, and the
// module ends as soon as it should.
func TestWebhookInVain(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(func() {
		close(over)
		hanging.Close()
		failing.Close()
	})
	var images []lab.Image
	for i := range 4 {
		images = append(images, noise(t, fmt.Sprintf("hook/vain%d", i), 20*mib, 1000))
	}
	up := origin(t, lab.OriginOptions{}, images...)
	m := module(t, up.Env(), notifying(t, hanging.URL, failing.URL, "http://127.0.0.1:9"), lab.Env{"REGISTRY_CACHE_MAXSIZE": "64MiB", "REGISTRY_CACHE_MINFREE": "0%"})
	for range 2 {
		for _, img := range images {
			for range 2 {
				if err := pull(t.Context(), m, img); err != nil {
					t.Error(err)
				}
			}
		}
	}
	begun := time.Now()
	if err := m.Stop(); err != nil {
		t.Error(err)
	}
	took := time.Since(begun)
	t.Logf("it has ended after %v", took)
	// What docker stop waits for, which the time for pulls to end is made for.
	if took >= 10*time.Second {
		t.Errorf("it has ended after %v, want less than 10 s", took)
	}
	text := string(must(os.ReadFile(m.Log()))(t))
	for _, name := range []string{"hook0", "hook1", "hook2"} {
		if !strings.Contains(text, name) {
			t.Errorf("the log says nothing of %s", name)
		}
	}
	if strings.Contains(text, webhookSecret) {
		t.Error("the secret of a header is in the log")
	}
	checkStore(t, m)
}
