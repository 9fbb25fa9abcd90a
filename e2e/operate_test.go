package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"registry-module/cache"
	"registry-module/e2e/lab"
)

// TestDrain ends a module while somebody pulls slowly: it says that it is not ready, and the
// pull is whole.
func TestDrain(t *testing.T) {
	t.Parallel()
	img := noise(t, "operate/drain", 4*mib)
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 2e6}}, img)
	m := module(t, up.Env())
	ready := "http://" + m.Admin + "/readyz"
	if a := get(t, ready); a.Status != http.StatusOK || !strings.HasPrefix(string(a.Body), "ready") {
		t.Errorf("%s: %d %q", ready, a.Status, a.Body)
	}
	pulled := make(chan error, 1)
	go func() { pulled <- pull(t.Context(), m, img) }()
	eventually(t, "it is being pulled", func() bool { return up.Counts().BlobGET > 0 })
	if err := syscall.Kill(m.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var a answer
	eventually(t, "it says that it is not ready", func() bool {
		a = get(t, ready)
		return a.Status == http.StatusServiceUnavailable
	})
	if !strings.Contains(string(a.Body), "stopping") {
		t.Errorf("it is not ready because of %q", a.Body)
	}
	if err := <-pulled; err != nil {
		t.Errorf("the pull that was under way: %v", err)
	}
	stop(t, m)
}

// TestProfiles shows that there are profiles where they are switched on only.
func TestProfiles(t *testing.T) {
	t.Parallel()
	for setting, status := range map[string]int{"": http.StatusNotFound, "true": http.StatusOK} {
		env := lab.Env{}
		if setting != "" {
			env["REGISTRY_ADMIN_PPROF"] = setting
		}
		m := module(t, env)
		for _, path := range []string{"", "heap?debug=1", "goroutine?debug=1", "profile?seconds=1", "cmdline"} {
			want := status
			if path == "cmdline" {
				want = http.StatusNotFound // it is not about where time and memory go
			}
			if a := get(t, "http://"+m.Admin+"/debug/pprof/"+path); a.Status != want {
				t.Errorf("with %q, /debug/pprof/%s: %d, want %d", setting, path, a.Status, want)
			}
			if a := get(t, m.URL()+"/debug/pprof/"+path); a.Status == http.StatusOK {
				t.Errorf("with %q, /debug/pprof/%s is at the address for clients", setting, path)
			}
		}
	}
}

// act posts an action, as curl --json does.
func act(t *testing.T, m *lab.Server, action, token, body string) answer {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.Admin+"/actions/"+action, strings.NewReader(body)))(t)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp := must(client().Do(req))(t)
	defer resp.Body.Close()
	return read(resp)
}

// TestActions changes a module by its admin address: with the token, with a wrong one, with
// none, and where there is none.
func TestActions(t *testing.T) {
	t.Parallel()
	img, more := noise(t, "operate/act", mib), noise(t, "operate/seeded", mib)
	up := origin(t, lab.OriginOptions{}, img, more)
	name := img.Repo + ":" + img.Tag
	file := filepath.Join(tempDir(t), "token")
	write(t, file, operatorToken+"\n")
	m := module(t, up.Env(), lab.Env{"REGISTRY_ADMIN_TOKENFILE": file})
	if err := pull(t.Context(), m, img); err != nil {
		t.Fatal(err)
	}
	image := fmt.Sprintf(`{"image": %q}`, name)
	stored := func() (images []cache.Image) {
		return cliJSON[[]cache.Image](t, m, "ls")
	}
	eventually(t, "the image is listed", func() bool { return len(stored()) == 1 })

	for _, token := range []string{"", "wrong"} {
		for action, body := range map[string]string{"pin": image, "remove": image, "offline": `{"mode": "on"}`} {
			if a := act(t, m, action, token, body); a.Status != http.StatusUnauthorized {
				t.Errorf("%s with the token %q: %d %s", action, token, a.Status, a.Body)
			}
		}
	}
	if images := stored(); len(images) != 1 || len(images[0].Pins) > 0 || get(t, manifestURL(m, img.Repo, "none")).Status != http.StatusNotFound {
		t.Errorf("without the token something was changed: %+v", images)
	}

	done := func(action, body string) {
		t.Helper()
		a := act(t, m, action, operatorToken, body)
		var said struct{ Message string }
		if err := json.Unmarshal(a.Body, &said); err != nil || a.Status != http.StatusOK || said.Message == "" {
			t.Errorf("%s %s: %d %s", action, body, a.Status, a.Body)
		}
	}
	done("pin", image)
	if images := stored(); len(images) != 1 || len(images[0].Pins) == 0 {
		t.Errorf("pinned: %+v", images)
	}
	if a := act(t, m, "remove", operatorToken, image); a.Status != http.StatusConflict {
		t.Errorf("what is pinned is removed: %d %s", a.Status, a.Body)
	}
	done("unpin", image)
	before := up.Counts().Requests
	done("refresh", image)
	if up.Counts().Requests == before {
		t.Error("the remote was not asked about what is refreshed")
	}
	done("seed", fmt.Sprintf(`{"images": [%q]}`, up.Addr+"/"+more.Repo+":"+more.Tag))
	eventually(t, "it is seeded", func() bool { return allStored(m, more) })
	done("offline", `{"mode": "on"}`)
	if a := get(t, manifestURL(m, img.Repo, "other")); a.Status != http.StatusServiceUnavailable {
		t.Errorf("offline: %d %s", a.Status, a.Body)
	}
	done("offline", `{"mode": "off"}`)
	done("reload", `{}`)
	done("remove", image)
	for _, still := range stored() {
		if still.Repository == img.Repo {
			t.Errorf("it is still there: %+v", still)
		}
	}
	for body, status := range map[string]int{`{"picture": "a"}`: 400, `{`: 400, `{"image": "operate/none:1"}`: 404} {
		if a := act(t, m, "remove", operatorToken, body); a.Status != status {
			t.Errorf("remove %s: %d %s, want %d", body, a.Status, a.Body, status)
		}
	}
	log := string(must(os.ReadFile(m.Log()))(t))
	if strings.Contains(log, operatorToken) {
		t.Error("the token is in the log")
	}

	none := module(t, up.Env())
	if a := act(t, none, "offline", operatorToken, `{"mode": "on"}`); a.Status != http.StatusForbidden {
		t.Errorf("where there is no token: %d %s", a.Status, a.Body)
	}
}

// explained is what `registry-module explain` says.
type explained struct {
	cache.Explanation
	Refused string
}

// TestExplained asks of each state of an image what a pull would be answered, and has the
// answer to a pull say the same of itself, in Cache-Status, with as many requests upstream.
func TestExplained(t *testing.T) {
	t.Parallel()
	img, other := noise(t, "operate/explained", mib, 1000), noise(t, "operate/other", 1000)
	up := origin(t, lab.OriginOptions{}, img, other)
	m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_TAGTTL": "0"})
	url, pinned := manifestURL(m, img.Repo, img.Tag), manifestURL(m, img.Repo, img.Root().Digest.String())
	blob := blobURL(m, img.Repo, img.Blobs[0].Digest)
	name := up.Addr + "/" + img.Repo

	check := func(what, image string, verdict cache.Verdict, url string, status int, upstream bool, parts ...string) {
		t.Helper()
		up.Reset()
		e := cliJSON[explained](t, m, "explain", image)
		if up.Counts().Requests > 0 {
			t.Errorf("%s: to explain it, the remote was asked", what)
		}
		if e.Verdict != verdict {
			t.Errorf("%s: explain says %q (%s), want %q", what, e.Verdict, e.Why, verdict)
		}
		a := get(t, url)
		got := a.Header.Get("Cache-Status")
		t.Logf("%s: %q, %d, Cache-Status: %s", what, e.Verdict, a.Status, got)
		if a.Status != status || !strings.HasPrefix(got, "registry-module; ") {
			t.Errorf("%s: %d, Cache-Status %q, want %d", what, a.Status, got, status)
		}
		for _, part := range parts {
			if !slices.ContainsFunc(strings.Split(got, "; "), func(p string) bool { return strings.HasPrefix(p, part) }) {
				t.Errorf("%s: Cache-Status %q has no %s", what, got, part)
			}
		}
		if asked := up.Counts().Requests > 0; asked != upstream {
			t.Errorf("%s: the remote was asked: %v, want %v\n%v", what, asked, upstream, &up.Ledger)
		}
	}
	tag, dgst := name+":"+img.Tag, name+"@"+img.Root().Digest.String()
	check("cold, by tag", tag, cache.Fetched, url, 200, true, "fwd=uri-miss", "stored")
	check("warm, by digest", dgst, cache.FromStoreAlone, pinned, 200, false, "hit")
	check("by tag, older than it may be", tag, cache.AskedFirst, url, 200, true, "fwd=stale")
	if e := cliJSON[explained](t, m, "explain", tag); e.Stored.Times != 0 || e.Missing.Times != int64(len(img.Blobs)) || e.Missing.Bytes != img.Size() {
		t.Errorf("before blobs are pulled, explain says %+v, want %d missing of %d bytes", e, len(img.Blobs), img.Size())
	}
	if got := get(t, blob).Header.Get("Cache-Status"); got != "registry-module; fwd=uri-miss" {
		t.Errorf("of a cold blob, Cache-Status is %q", got)
	}
	// Its last bytes are there a moment before it is.
	eventually(t, "the blob is a hit", func() bool { return get(t, blob).Header.Get("Cache-Status") == "registry-module; hit" })
	if err := pull(t.Context(), m, img); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is stored", func() bool { return cliJSON[explained](t, m, "explain", tag).Missing.Times == 0 })
	if e := cliJSON[explained](t, m, "explain", tag); e.Missing.Times != 0 || e.Stored.Times != int64(len(img.Blobs)) || e.Stored.Bytes != img.Size() {
		t.Errorf("after the pull, explain says %+v, want %d stored of %d bytes", e, len(img.Blobs), img.Size())
	}
	check("what nobody has", name+":none", cache.Fetched, manifestURL(m, img.Repo, "none"), 404, true, "fwd=uri-miss", "fwd-status=404")
	check("what nobody has, again", name+":none", cache.SaidAbsent, manifestURL(m, img.Repo, "none"), 404, false, "hit", `detail="negative memory"`)

	takeDown(t, up)
	a := get(t, url)
	if got := a.Header.Get("Cache-Status"); a.Status != 200 || !strings.Contains(got, `detail="remote away"`) || !strings.Contains(got, "ttl=-") {
		t.Errorf("with the remote gone: %d, Cache-Status %q", a.Status, got)
	}
	eventually(t, "the remote is left alone", func() bool {
		get(t, manifestURL(m, other.Repo, other.Tag))
		return cliJSON[explained](t, m, "explain", up.Addr+"/"+other.Repo+":"+other.Tag).Verdict == cache.NotToBeHad
	})
	if a := get(t, manifestURL(m, other.Repo, other.Tag)); a.Status != 503 || !strings.Contains(a.Header.Get("Cache-Status"), `detail="remote away"`) {
		t.Errorf("what is not stored, with the remote gone: %d, Cache-Status %q", a.Status, a.Header.Get("Cache-Status"))
	}
	cli(t, m, "offline", "on")
	check("offline, by tag", tag, cache.FromStoreAlone, url, 200, false, "hit", "ttl=-", `detail="offline"`)
	check("offline, by digest", dgst, cache.FromStoreAlone, pinned, 200, false, "hit")
	check("offline, what is not stored", up.Addr+"/"+other.Repo+":"+other.Tag, cache.NotToBeHad, manifestURL(m, other.Repo, other.Tag), 503, false, `detail="offline"`)

	text := cli(t, m, "explain", tag)
	if !strings.Contains(text, "is answered from the store") {
		t.Errorf("to people, explain says\n%s", text)
	}
	if e := cliJSON[explained](t, m, "explain", tag); e.Tag == nil || e.Tag.TTL != 0 || e.Tag.Digest != img.Root().Digest {
		t.Errorf("of the tag, explain says %+v", e.Tag)
	}
}
