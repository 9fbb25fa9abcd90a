package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// content answers with a body of a media type. Further headers are name and
// value in turn.
func content(mediaType, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		fmt.Fprint(w, body)
	}
}

// chunked sends a body without its length, and then ends well, or cuts the
// connection.
func chunked(mediaType, body string, cut bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		content(mediaType, body)(w, r)
		if err := http.NewResponseController(w).Flush(); err != nil || cut {
			panic(http.ErrAbortHandler)
		}
	}
}

// short promises more bytes than it sends.
func short(mediaType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)+1000))
		content(mediaType, body)(w, r)
		panic(http.ErrAbortHandler)
	}
}

// redirectTo sends elsewhere.
func redirectTo(url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", url)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	portal         = "<!DOCTYPE html><html><body>Please log in to the network</body></html>"
)

// TestHostileManifests has upstream answer with what is no manifest, or not the
// one that was asked for. The client gets an OCI error, nothing is stored, and
// a healed upstream is served right.
func TestHostileManifests(t *testing.T) {
	img := sample(t, "OCI image")
	root := string(img.Root().Bytes)
	other := string(sample(t, lab.OCIIndex).Root().Bytes)
	bad := []int{http.StatusBadGateway}
	broken := []int{http.StatusBadGateway, http.StatusServiceUnavailable}

	for name, tt := range map[string]struct {
		with     http.HandlerFunc
		byTag    []int // statuses; nil where it is no fault
		byDigest []int
	}{
		"HTML":                       {content("text/html", portal), bad, bad},
		"HTML as a manifest":         {content(ociManifest, portal), bad, bad},
		"empty":                      {content(ociManifest, ""), bad, bad},
		"empty, no content":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, bad, bad},
		"null":                       {content(ociManifest, "null"), bad, bad},
		"an array":                   {content(ociManifest, "[]"), bad, bad},
		"half a JSON text":           {content(ociManifest, root[:len(root)/2]), bad, bad},
		"two JSON texts":             {content(ociManifest, root+root), bad, bad},
		"truncated":                  {short(ociManifest, root[:len(root)/2]), broken, broken},
		"truncated, all but promise": {short(ociManifest, root), broken, broken},
		"chunked and cut":            {chunked(ociManifest, root[:len(root)/2], true), broken, broken},
		"chunked, without length":    {chunked(ociManifest, root, false), nil, nil},
		"another digest claimed":     {content(ociManifest, root, "Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64)), bad, bad},
		"a malformed digest claimed": {content(ociManifest, root, "Docker-Content-Digest", "sha256:../../etc"), bad, bad},
		"no digest claimed":          {content(ociManifest, root), nil, nil},
		"another manifest":           {content(ociIndex, other), nil, bad},
		"index called a manifest":    {content(ociManifest, other), bad, bad},
		"manifest called an index":   {content(ociIndex, root), bad, bad},
		"OCI called Docker":          {content(dockerManifest, root), bad, bad},
		"manifest called a list":     {content(dockerList, root), bad, bad},
		"over 4 MiB":                 {content(ociManifest, root+strings.Repeat(" ", 4<<20)), bad, bad},
		"redirect to a file":         {redirectTo("file:///etc/passwd"), broken, broken},
		"redirect to itself":         {func(w http.ResponseWriter, r *http.Request) { redirectTo(r.URL.Path)(w, r) }, broken, broken},
	} {
		for ref, statuses := range map[string][]int{img.Tag: tt.byTag, img.Root().Digest.String(): tt.byDigest} {
			t.Run(name+"/"+strings.Split(ref, ":")[0], func(t *testing.T) {
				t.Parallel()
				up := upstream(t, lab.UpstreamOptions{}, img)
				m := module(t, up.Env())
				up.Use(lab.Answer(func(r *http.Request) bool { return lab.KindOf(r.URL.Path) == lab.Manifest }, tt.with))
				url := manifestURL(m, img.Repo, ref)
				a := get(t, url)
				if statuses == nil {
					if a.Status != http.StatusOK {
						t.Errorf("status %d, want 200: this is no fault\n%s", a.Status, a.Body)
					}
					return
				}
				expectError(t, a, statuses)
				if n := checkStore(t, m); n != 0 {
					t.Errorf("%d blobs are stored, want none", n)
				}
				up.Use()
				eventually(t, "healed", func() bool { a = get(t, url); return a.Status == http.StatusOK })
				if !bytes.Equal(a.Body, img.Root().Bytes) {
					t.Errorf("from a healed upstream:\n%s", a.Body)
				}
			})
		}
	}
}

// TestHostileBlobs is the same for blobs. The client knows from the status, or
// from a connection that is cut, that it did not get the blob.
func TestHostileBlobs(t *testing.T) {
	img := noise(t, "hostile/image", 300<<10)
	layer := img.Blobs[0]
	const octets = "application/octet-stream"
	body := readAll(t, layer)

	for name, tt := range map[string]struct {
		with  http.HandlerFunc
		whole bool // it is no fault
	}{
		"HTML":                    {with: content("text/html", portal)},
		"empty":                   {with: content(octets, "")},
		"no content":              {with: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		"one byte short":          {with: content(octets, body[:len(body)-1])},
		"one byte long":           {with: content(octets, body+"x")},
		"chunked, one byte long":  {with: chunked(octets, body+"x", false)},
		"chunked, one byte short": {with: chunked(octets, body[:len(body)-1], false)},
		"cut":                     {with: short(octets, body[:len(body)/2])},
		"chunked and cut":         {with: chunked(octets, body[:len(body)/2], true)},
		"chunked, all, then cut":  {with: chunked(octets, body, true)},
		"another digest claimed":  {with: content(octets, strings.Repeat("x", len(body)))},
		"a part that nobody wanted": {with: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(body)))
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, body[:10])
		}},
		"redirect to a file":      {with: redirectTo("file:///etc/passwd")},
		"redirect to itself":      {with: func(w http.ResponseWriter, r *http.Request) { redirectTo(r.URL.Path)(w, r) }},
		"chunked, without length": {with: chunked(octets, body, false), whole: true},
		// Who says something of the content shows no login page.
		"unexpected type": {whole: true, with: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"of the content"`)
			content("text/html", body)(w, r)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := upstream(t, lab.UpstreamOptions{}, img)
			// It does not get better by trying again.
			m := module(t, up.Env(), lab.Env{"REGISTRY_PROXY_RETRYFOR": "100ms"})
			up.Use(lab.Answer(lab.ForDigest(layer.Digest.String()).Gets(), tt.with))
			// What a client sees depends on who is first, the answer or its check:
			// several tries.
			for range 10 {
				a := blobOnce(t, blobURL(m, img.Repo, layer.Digest))
				switch {
				case tt.whole:
					if a.Status != http.StatusOK || a.Err != nil || string(a.Body) != body {
						t.Errorf("status %d, %d bytes, %v, want all: this is no fault", a.Status, len(a.Body), a.Err)
					}
				case a.Status == http.StatusOK && a.Err == nil:
					t.Errorf("a complete 200 of %d bytes", len(a.Body))
				case a.Status != http.StatusOK && a.Status != 0:
					expectError(t, a, []int{http.StatusBadGateway, http.StatusServiceUnavailable})
				}
			}
			if tt.whole {
				return
			}
			if n := checkStore(t, m); n != 0 {
				t.Errorf("%d blobs are stored, want none", n)
			}
			up.Use()
			eventually(t, "healed", func() bool {
				f, err := fetch(t.Context(), blobURL(m, img.Repo, layer.Digest))
				return err == nil && f.whole(layer) == nil
			})
		})
	}
}

// blobOnce asks for a blob. A connection that is cut before there is any answer
// is an answer of status 0.
func blobOnce(t *testing.T, url string, headers ...string) answer {
	t.Helper()
	resp, err := client().Do(must(request(t.Context(), http.MethodGet, url, headers...))(t))
	if err != nil {
		return answer{Err: err}
	}
	defer resp.Body.Close()
	return read(resp)
}

func readAll(t *testing.T, b lab.RawBlob) string {
	t.Helper()
	var all bytes.Buffer
	must(all.ReadFrom(b.Open()))(t)
	return all.String()
}

// expectError expects one of the statuses, the code UNAVAILABLE, and with a 503
// when to try again.
func expectError(t *testing.T, a answer, statuses []int) {
	t.Helper()
	if code := a.code(t); !slices.Contains(statuses, a.Status) || code != "UNAVAILABLE" {
		t.Errorf("status %d %s, want %v UNAVAILABLE\n%.300s", a.Status, code, statuses, a.Body)
	}
	if a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
}
