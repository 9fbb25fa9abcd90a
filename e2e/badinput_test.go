package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// TestBadRequests sends requests that no client should send. Each is the
// client's mistake (4xx) and none of them reaches upstream.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	up := upstream(t, lab.UpstreamOptions{})
	m := module(t, up.Env())
	const dgst = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

	for name, tt := range map[string]struct {
		target string // of the request line
		status int    // 0 for any 4xx
		code   string // empty for any
	}{
		"dots at the start":        {"/v2/../etc/manifests/1.0", 400, "NAME_INVALID"},
		"dots within":              {"/v2/a/../../../../etc/passwd/manifests/1.0", 400, "NAME_INVALID"},
		"dots to another endpoint": {"/v2/a/manifests/../blobs/" + dgst, 400, "NAME_INVALID"},
		"dots in a blob's name":    {"/v2/a/blobs/../../../passwd", 400, ""},
		"dots, escaped":            {"/v2/%2e%2e/a/manifests/1.0", 400, "NAME_INVALID"},
		"slash, escaped":           {"/v2/a%2Fb/manifests/1.0", 400, "NAME_INVALID"},
		"slash, escaped, lower":    {"/v2/a%2fb/blobs/" + dgst, 400, "NAME_INVALID"},
		"traversal, escaped":       {"/v2/a%2f..%2f..%2fb/manifests/1.0", 400, "NAME_INVALID"},
		"traversal in a tag":       {"/v2/a/manifests/..%2f..%2fb", 400, ""},
		"traversal in a digest":    {"/v2/a/blobs/sha256:..%2f..%2f" + strings.Repeat("a", 58), 400, ""},
		"backslash":                {`/v2/a\..\b/manifests/1.0`, 400, "NAME_INVALID"},
		"NUL in a name":            {"/v2/a%00/manifests/1.0", 400, "NAME_INVALID"},
		"newline in a name":        {"/v2/a%0d%0aX:y/manifests/1.0", 400, "NAME_INVALID"},
		"upper case":               {"/v2/Library/Alpine/manifests/1.0", 400, "NAME_INVALID"},
		"name of no ASCII":         {"/v2/%C3%A4/manifests/1.0", 400, "NAME_INVALID"},
		"empty component":          {"/v2/a//b/manifests/1.0", 400, "NAME_INVALID"},
		"separator at the end":     {"/v2/a-/manifests/1.0", 400, "NAME_INVALID"},
		"name of 256 characters":   {"/v2/" + strings.Repeat("a/", 127) + "aa/manifests/1.0", 400, "NAME_INVALID"},
		"no name":                  {"/v2/manifests/1.0", 0, ""},
		"tag of 129 characters":    {"/v2/a/manifests/" + strings.Repeat("t", 129), 0, ""},
		"tag with a bad start":     {"/v2/a/manifests/.1", 0, ""},
		"tag that is empty":        {"/v2/a/manifests/", 0, ""},
		"unknown algorithm":        {"/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		"algorithm, manifest":      {"/v2/a/manifests/crc32:00000000", 400, "DIGEST_INVALID"},
		"short digest":             {"/v2/a/blobs/sha256:abc", 400, "DIGEST_INVALID"},
		"long digest":              {"/v2/a/blobs/" + dgst + "0", 400, "DIGEST_INVALID"},
		"upper case digest":        {"/v2/a/blobs/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID"},
		"digest of no hex":         {"/v2/a/blobs/sha256:" + strings.Repeat("g", 64), 400, "DIGEST_INVALID"},
		"digest without algorithm": {"/v2/a/blobs/" + strings.Repeat("a", 64), 400, "DIGEST_INVALID"},
		"sha512 that is too short": {"/v2/a/blobs/sha512:" + strings.Repeat("a", 64), 400, "DIGEST_INVALID"},
		"tag in place of a digest": {"/v2/a/blobs/latest", 400, "DIGEST_INVALID"},
		"unknown endpoint":         {"/v2/a/secrets/1.0", 404, ""},
		"another registry":         {"/v2/a/manifests/1.0?ns=evil.example.com", 404, "NAME_UNKNOWN"},
		"namespace with a path":    {"/v2/a/manifests/1.0?ns=evil.example.com/..", 0, ""},
		"bad page size":            {"/v2/_catalog?n=-1", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				a := raw(t, m.Addr, method+" "+tt.target+" HTTP/1.1\r\nHost: registry:8000\r\nConnection: close\r\n\r\n")
				if tt.status != 0 && a.Status != tt.status || a.Status < 400 || a.Status >= 500 {
					t.Errorf("%s %s: status %d, want %s\n%s", method, tt.target, a.Status, orAny(tt.status), a.Body)
				}
				if method == http.MethodHead {
					continue
				}
				if code := a.code(t); tt.code != "" && code != tt.code {
					t.Errorf("%s: code %s, want %s\n%s", tt.target, code, tt.code, a.Body)
				}
			}
		})
	}
	requests(t, up, "bad requests", 0)
}

func orAny(status int) string {
	if status == 0 {
		return "any 4xx"
	}
	return fmt.Sprint(status)
}

// TestBadHeaders sends what is wrong before any route is known. Some of it the
// HTTP server itself refuses, in plain text.
func TestBadHeaders(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	m := module(t, up.Env())
	line := "GET /v2/" + img.Repo + "/manifests/" + img.Tag
	for name, request := range map[string]string{
		"header of 9 KiB":  line + " HTTP/1.1\r\nHost: r\r\nX-Long: " + strings.Repeat("x", 9<<10),
		"token of 9 KiB":   line + " HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer " + strings.Repeat("x", 9<<10),
		"header of 2 MiB":  line + " HTTP/1.1\r\nHost: r\r\nX-Long: " + strings.Repeat("x", 2<<20),
		"URL of 2 MiB":     line + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\nHost: r",
		"no Host":          line + " HTTP/1.1\r\nX: y",
		"two Hosts":        line + " HTTP/1.1\r\nHost: a\r\nHost: b",
		"bad header":       line + " HTTP/1.1\r\nHost: r\r\nno colon",
		"bad version":      line + " HTTP/9\r\nHost: r",
		"smuggling":        line + " HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked, identity",
		"no path":          "GET v2/ HTTP/1.1\r\nHost: r",
		"method of no use": "FOO /v2/" + img.Repo + "/manifests/" + img.Tag + " HTTP/1.1\r\nHost: r",
	} {
		t.Run(name, func(t *testing.T) {
			a := raw(t, m.Addr, request+"\r\nConnection: close\r\n\r\n")
			if a.Status < 400 || a.Status >= 500 && a.Status != 501 && a.Status != 505 {
				t.Errorf("status %d, want 4xx (or 501, 505: not implemented)\n%.300s", a.Status, a.Body)
			}
		})
	}
	requests(t, up, "bad requests", 0)
}

// TestPushes shows that what would write gets the answer that the stock
// registry in proxy mode gives.
func TestPushes(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	ours, stock := module(t, up.Env()), stock(t, up.Env())
	blob, root := img.Blobs[0].Digest.String(), img.Root().Digest.String()

	for _, s := range []*lab.Server{ours, stock} {
		if a := get(t, manifestURL(s, img.Repo, img.Tag)); a.Status != http.StatusOK {
			t.Fatalf("status %d\n%s", a.Status, a.Body)
		}
		wholeBlob(t, s, img.Repo, img.Blobs[0])
	}
	for _, tt := range []struct{ method, path string }{
		{http.MethodPost, "/blobs/uploads/"},
		{http.MethodPost, "/blobs/uploads/?mount=" + blob + "&from=" + img.Repo},
		{http.MethodPost, "/blobs/uploads/?digest=" + blob},
		{http.MethodGet, "/blobs/uploads/0d5a3f0e-5c6c-4b59-9c8b-0a1b2c3d4e5f"},
		{http.MethodPatch, "/blobs/uploads/0d5a3f0e-5c6c-4b59-9c8b-0a1b2c3d4e5f"},
		{http.MethodPut, "/blobs/uploads/0d5a3f0e-5c6c-4b59-9c8b-0a1b2c3d4e5f?digest=" + blob},
		{http.MethodDelete, "/blobs/uploads/0d5a3f0e-5c6c-4b59-9c8b-0a1b2c3d4e5f"},
		{http.MethodPut, "/blobs/" + blob},
		{http.MethodPost, "/blobs/" + blob},
		{http.MethodDelete, "/blobs/" + blob},
		{http.MethodPut, "/manifests/new"},
		{http.MethodPut, "/manifests/" + img.Tag},
		{http.MethodPut, "/manifests/" + root},
		{http.MethodPost, "/manifests/" + img.Tag},
		{http.MethodPatch, "/manifests/" + img.Tag},
		{http.MethodDelete, "/manifests/" + img.Tag},
		{http.MethodDelete, "/manifests/" + root},
		{http.MethodPost, "/tags/list"},
		{http.MethodDelete, "/tags/list"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			up.Reset()
			got, want := send(t, ours, img, tt.method, tt.path), send(t, stock, img, tt.method, tt.path)
			if got != want {
				t.Errorf("answered %s, the stock registry %s", got, want)
			}
			if strings.HasPrefix(got, "2") {
				t.Errorf("answered %s to what would write", got)
			}
			for _, r := range up.Requests() {
				if r.Method != http.MethodGet && r.Method != http.MethodHead {
					t.Errorf("upstream was sent %v", r)
				}
			}
		})
	}
	// All is as it was.
	if a := get(t, manifestURL(ours, img.Repo, img.Tag)); string(a.Body) != string(img.Root().Bytes) {
		t.Errorf("the tag is now: status %d\n%s", a.Status, a.Body)
	}
	wholeBlob(t, ours, img.Repo, img.Blobs[0])
	checkStore(t, ours)
}

// send returns the status and the code of an answer.
func send(t *testing.T, s *lab.Server, img lab.Image, method, path string) string {
	t.Helper()
	body := ""
	if method == http.MethodPut || method == http.MethodPatch {
		body = string(img.Root().Bytes)
	}
	a := raw(t, s.Addr, fmt.Sprintf("%s /v2/%s%s HTTP/1.1\r\nHost: r\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		method, img.Repo, path, len(body), body))
	code := "without a body"
	if len(a.Body) > 0 && a.Status >= 400 && a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		code = a.code(t)
	}
	return fmt.Sprint(a.Status, " ", code)
}
