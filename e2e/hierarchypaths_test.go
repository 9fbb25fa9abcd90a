package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// raw sends the text of a request to the parent as it is.
func (b *bottom) raw(t *testing.T, request string) (answer, error) {
	t.Helper()
	config := b.Transport().TLSClientConfig
	config.ServerName, _, _ = strings.Cut(b.Parent, ":")
	conn := tls.Client(must(b.DialName(t.Context(), "tcp", b.Parent))(t), config)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return answer{}, err
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	return read(resp), nil
}

// moduleRequests are the lines of a module's log about requests.
func moduleRequests(t *testing.T, m *lab.Server) (lines []string) {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile(m.Log()))(t))) {
		if strings.Contains(line, "msg=request") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestHierarchyPush pushes from the bottom, with an engine and by the API. It is refused,
// in words, and nothing is stored.
func TestHierarchyPush(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/app", 5000, 100<<10)
	h, up := plant(t, nil, nil, img)
	b := newBottom(t, h, h.Lowest())
	if err := b.pull(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	m := h.Top().Module
	eventually(t, "the image is stored", func() bool { return allStored(m, img) && stored(m, img.Root().Digest) })
	before := checkStore(t, m)
	up.Reset()

	own := b.Parent + "/line/own:1.0"
	pushes := map[string]func() error{
		"skopeo": func() error {
			skopeo, to := must(lab.NewSkopeoAt(b.at(), tempDir(t)))(t), filepath.Join(tempDir(t), "image")
			if _, err := skopeo.CLI(t.Context(), "copy", "docker://"+img.ByTag(b.Parent), "dir:"+to); err != nil {
				t.Fatal(err)
			}
			_, err := skopeo.CLI(t.Context(), "copy", "dir:"+to, "docker://"+own)
			return err
		},
		"docker": func() error {
			d := must(lab.StartDockerAt(t.Context(), b.at(), tempDir(t)))(t)
			end(t, d)
			if _, err := d.Pull(t.Context(), img.ByTag(b.Parent), ""); err != nil {
				t.Fatal(err)
			}
			if _, err := d.CLI(t.Context(), "tag", img.ByTag(b.Parent), own); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err := d.CLI(t.Context(), "push", own)
			// It tries again for most of a minute where it does not understand a refusal.
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("docker was refused after %v", took)
			}
			return err
		},
	}
	for name, push := range pushes {
		start := time.Now()
		err := push()
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "unsupported") {
			t.Errorf("%s: %v, want that a push is unsupported", name, err)
		}
		t.Logf("%s was refused after %v: %v", name, time.Since(start).Round(time.Millisecond), err)
	}
	blob := lab.BytesBlob([]byte("pushed"))
	for target, method := range map[string]string{
		"/v2/line/own/blobs/uploads/":                                       http.MethodPost,
		"/v2/line/own/blobs/uploads/?digest=" + blob.Digest.String():        http.MethodPost,
		"/v2/line/own/blobs/uploads/?mount=" + img.Blobs[0].Digest.String(): http.MethodPost,
		"/v2/line/own/manifests/1.0":                                        http.MethodPut,
		blobTarget(img.Repo, img.Blobs[0]):                                  http.MethodDelete,
		"/v2/" + img.Repo + "/manifests/" + img.Tag:                         http.MethodDelete,
	} {
		a := b.do(t, method, target, bytes.NewReader(img.Root().Bytes), "Content-Type", img.Root().MediaType)
		if a.Status != http.StatusMethodNotAllowed || a.code(t) != "UNSUPPORTED" {
			t.Errorf("%s %s: status %d, want 405 UNSUPPORTED\n%s", method, target, a.Status, a.Body)
		}
	}
	// The proxies take no more than 1 MiB.
	seen := len(moduleRequests(t, m))
	a := b.do(t, http.MethodPut, "/v2/line/own/blobs/uploads/x?digest="+blob.Digest.String(), bytes.NewReader(make([]byte, 2*mib)))
	if a.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("a push of 2 MiB: status %d, want 413 of the first proxy\n%s", a.Status, a.Body)
	}
	if now := len(moduleRequests(t, m)); now != seen {
		t.Errorf("the module has seen %d requests of it", now-seen)
	}
	if after := checkStore(t, m); after != before {
		t.Errorf("%d blobs are stored, %d before the pushes", after, before)
	}
	// Who pushes asks first what there is.
	for _, r := range up.Requests() {
		if r.Method != http.MethodHead {
			t.Errorf("a push got to upstream: %v", r)
		}
	}
	if err := b.pull(t.Context(), img); err != nil {
		t.Errorf("after the pushes: %v", err)
	}
}

// TestHierarchyBlobUploads sends what is for the blob service of the top: all that has
// its header gets there, whatever the path, and the module sees none of it.
func TestHierarchyBlobUploads(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/app", 5000)
	h, _ := plant(t, nil, nil, img)
	b := newBottom(t, h, h.Lowest())
	seen := len(moduleRequests(t, h.Top().Module))
	const block = 700 << 10 // of 1 MiB, which the proxies take
	sent := 0
	for _, target := range []string{
		"/account/container/blob?comp=block&blockid=AAAA", "/v2/line/app/manifests/1.0", "/v2/", blobTarget(img.Repo, img.Blobs[0]), "/metrics",
	} {
		for _, method := range []string{http.MethodPut, http.MethodGet} {
			var body io.Reader
			want := "0 bytes"
			if method == http.MethodPut {
				body, want = bytes.NewReader(make([]byte, block)), fmt.Sprint(block, " bytes")
			}
			a := b.do(t, method, target, body, "x-ms-version", "2019-12-12", "x-ms-blob-type", "BlockBlob")
			sent++
			if a.Status != http.StatusCreated || a.Header.Get("x-ms-version") != "2019-12-12" || string(a.Body) != want {
				t.Errorf("%s %s: status %d, version %q, %q, want the blob service's 201, %q", method, target, a.Status, a.Header.Get("x-ms-version"), a.Body, want)
			}
		}
	}
	got := h.Blobs.Requests()
	t.Logf("%d requests to the blob service, of %d", len(got), sent)
	if len(got) != sent {
		t.Errorf("%d requests to the blob service, want %d\n%v", len(got), sent, &h.Blobs.Ledger)
	}
	if now := moduleRequests(t, h.Top().Module); len(now) != seen {
		t.Errorf("the module has seen some of them:\n%s", now[seen:])
	}
	// The header makes the difference.
	if err := b.pull(t.Context(), img); err != nil {
		t.Error(err)
	}
	if now := len(moduleRequests(t, h.Top().Module)); now == seen {
		t.Error("the log has no requests at all")
	}
}

// TestHierarchyAdmin tries to get at what the module has for its operator, from below.
func TestHierarchyAdmin(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/app", 5000)
	h, up := plant(t, nil, nil, img)
	b := newBottom(t, h, h.Lowest())
	if err := b.pull(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	m := h.Top().Module
	admin := address("http://" + m.Admin)
	pages := []string{"metrics", "healthz", "seed", "debug/pprof/"}
	at := map[string]answer{}
	for _, page := range pages {
		at[page] = get(t, admin.URL()+"/"+page)
	}
	// What is looked for is there.
	for _, page := range []string{"metrics", "healthz"} {
		if at[page].Status != http.StatusOK || len(at[page].Body) < 3 {
			t.Errorf("%s at the admin address: status %d, %q", page, at[page].Status, at[page].Body)
		}
	}
	tricks := []string{
		"/%s", "//%s", "/v2/../%s", "/v2/%%2e%%2e/%s", "/v2/..%%2f%s", "/v2/%%2e%%2e%%2f%s", "/v2/..;/%s", "/v2;/../%s", "/v2/./../%s",
		"/v2//../%s", "/v2/x/../../%s", "/v2/x/..%%2f..%%2f%s", "/v2/%%252e%%252e/%s", "/v2/..%%5c%s", "/v2/..\\%s", "/v2/%s", "/v/%s", "/v%s",
		"/%s/../v2/", "/%s/..%%2fv2/", "/%s/%%2e%%2e/v2/", "/%s;/../v2/", "/%s%%3f/../v2/", "/v2/%%00/../%s", "/v2/..%%c0%%af%s",
		"/v2/#/../../%s", "/v2/?/../../%s", "http://registry:5001/%s", "http://registry:5001/v2/../%s", "/v2/@registry:5001/%s", "*/%s",
		"/v2/../../../../%s", "/v2/line/app/manifests/../../../../%s", "/v2/line/app/blobs/..%%2f..%%2f..%%2f..%%2f%s",
	}
	tried := 0
	for i, trick := range tricks {
		for j, page := range pages {
			method, host := http.MethodGet, b.Parent
			if page == "seed" {
				method = http.MethodPost
			}
			if (i+j)%2 == 0 {
				host = "registry:5001"
			}
			target := fmt.Sprintf(trick, page)
			tried++
			a, err := b.raw(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, target, host))
			if err != nil {
				continue // no answer is a good one
			}
			ping := a.Status == http.StatusOK && string(a.Body) == "{}"
			switch {
			case strings.Contains(target, "/v2/?") && ping:
				// What is left is a question for the version.
			case a.Status < 400 || a.Status >= 500:
				t.Errorf("%s %s, Host %s: status %d, want 4xx\n%.300s", method, target, host, a.Status, a.Body)
			}
			for _, secret := range []string{"registry_module_", "# HELP", "pprof", string(at["healthz"].Body)} {
				if strings.Contains(string(a.Body), secret) && !strings.Contains(target, "pprof") {
					t.Errorf("%s %s, Host %s: status %d, %q is in the answer\n%.300s", method, target, host, a.Status, secret, a.Body)
				}
			}
		}
	}
	t.Logf("%d requests refused", tried)
	// Past the proxies there is no way.
	for network := range 12 {
		for _, host := range []int{1, 2, 10} {
			for _, port := range []uint16{5001, 443, 11002} {
				addr := netip.AddrPortFrom(lab.Addr(network, host), port)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				if conn, err := b.DialContext(ctx, "tcp", addr.String()); err == nil {
					conn.Close()
					t.Errorf("%v can be reached from the bottom", addr)
				}
				cancel()
			}
		}
	}
	up.Reset()
	if err := b.pull(t.Context(), img); err != nil {
		t.Error(err)
	}
	if got := up.Counts(); got.Requests != 0 {
		t.Errorf("%d requests to upstream, want 0\n%v", got.Requests, up)
	}
}

// TestHierarchyRelative has an upstream whose answers have headers that would lead a
// client away, or a proxy, and looks for any absolute URL in answers through the chain.
func TestHierarchyRelative(t *testing.T) {
	t.Parallel()
	var images []lab.Image
	var tags []string
	for i := range 7 {
		tag := fmt.Sprint("1.", i)
		tags = append(tags, tag)
		images = append(images, noise(t, fmt.Sprint("line/relative", i), 5000).In("line/app", tag))
	}
	img := images[0]
	h, up := plant(t, nil, lab.Env{"REGISTRY_CATALOG_MAXENTRIES": "100"}, images...)
	bad := map[string]string{
		"X-Accel-Redirect": "/v2/", "X-Accel-Expires": "3600", "X-Accel-Limit-Rate": "1", "X-Accel-Buffering": "yes", "X-Accel-Charset": "utf-16",
		"Link": `<https://plant.azurecr.io/v2/line/app/tags/list?last=zzz>; rel="other"`, "Location": "https://plant.azurecr.io/elsewhere",
		"Content-Location": "https://plant.azurecr.io/elsewhere", "Refresh": "0; url=https://plant.azurecr.io/", "Set-Cookie": "a=b",
	}
	up.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name, value := range bad {
				w.Header().Set(name, value)
			}
			next.ServeHTTP(w, r)
		})
	})
	b := newBottom(t, h, h.Lowest())
	absolute := func(what string, a answer) {
		t.Helper()
		for name, values := range a.Header {
			for _, value := range values {
				if strings.Contains(value, "://") || strings.Contains(value, "registry:8000") || strings.Contains(value, "plant") {
					t.Errorf("%s: status %d, %s: %s", what, a.Status, name, value)
				}
			}
		}
		for name, value := range bad {
			if name != "X-Accel-Buffering" && a.Header.Get(name) == value {
				t.Errorf("%s: upstream's %s was passed on", what, name)
			}
		}
		if location := a.Header.Get("Location"); location != "" && !strings.HasPrefix(location, "/") {
			t.Errorf("%s: Location %q is not relative", what, location)
		}
	}
	asked := 0
	for _, round := range []string{"cold", "warm"} {
		for _, target := range []string{
			"/v2/", "/v2", "/v2/" + img.Repo + "/manifests/" + img.Tag, "/v2/" + img.Repo + "/manifests/" + img.Root().Digest.String(),
			blobTarget(img.Repo, img.Blobs[0]), "/v2/" + img.Repo + "/tags/list", "/v2/" + img.Repo + "/tags/list?n=2", "/v2/_catalog", "/v2/_catalog?n=1",
			"/v2/" + img.Repo + "/referrers/" + img.Root().Digest.String(), "/v2/" + img.Repo + "/manifests/none", "/v2/none/tags/list", "/v2//", "/v2/x",
			"/v2/" + img.Repo + "/blobs/uploads/",
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch} {
				asked++
				absolute(fmt.Sprint(round, ", ", method, " ", target), b.do(t, method, target, nil, "Range", "bytes=0-99"))
			}
		}
	}
	t.Logf("%d answers looked through", asked)

	// The pages of a list, as clients follow them: through the links.
	up.Reset()
	var got []string
	pages := 0
	for target := "/v2/" + img.Repo + "/tags/list?n=2"; target != ""; pages++ {
		a := b.get(t, target)
		absolute(target, a)
		var list struct{ Tags []string }
		a.decode(t, &list)
		got = append(got, list.Tags...)
		link, _, more := strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
		target = ""
		if more {
			next := must(url.Parse(link))(t)
			if next.Host != "" || !strings.HasPrefix(link, "/v2/") {
				t.Errorf("the link is not relative: %s", a.Header.Get("Link"))
			}
			target = next.RequestURI()
		}
		if pages > 10 {
			t.Fatal("the list has no end")
		}
	}
	if !slices.Equal(got, tags) || pages < 4 {
		t.Errorf("%d pages of tags: %v, want %v", pages, got, tags)
	}
	crane, oras := lab.NewClientAt(b.at(), tempDir(t), bin.crane), lab.NewClientAt(b.at(), tempDir(t), bin.oras)
	if out := must(crane.CLI(t.Context(), "ls", b.Parent+"/"+img.Repo))(t); !slices.Equal(strings.Fields(out), tags) {
		t.Errorf("crane ls: %s, want %v", out, tags)
	}
	if out := must(oras.CLI(t.Context(), "repo", "tags", b.Parent+"/"+img.Repo))(t); !slices.Equal(strings.Fields(out), tags) {
		t.Errorf("oras repo tags: %s, want %v", out, tags)
	}
	t.Logf("%d tags in %d pages; %v", len(got), pages, up.Counts())
	up.Use()
	if err := b.pull(t.Context(), img); err != nil {
		t.Error(err)
	}
}
