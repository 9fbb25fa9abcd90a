package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// client follows no redirects, keeps no connection, and changes nothing.
func client() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answer is an HTTP response that was read to its end.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Err is why the body ended early, nil where it is whole.
	Err error
}

// do sends a request. Headers are as for request.
func do(t *testing.T, method, url string, headers ...string) answer {
	t.Helper()
	resp := open(t, t.Context(), method, url, headers...)
	defer resp.Body.Close()
	return read(resp)
}

func get(t *testing.T, url string, headers ...string) answer {
	t.Helper()
	return do(t, http.MethodGet, url, headers...)
}

// open sends a request and returns when the header of the answer is there.
func open(t *testing.T, ctx context.Context, method, url string, headers ...string) *http.Response {
	t.Helper()
	return must(client().Do(must(request(ctx, method, url, headers...))(t)))(t)
}

// request makes a request with the headers, which are name and value in turn.
func request(ctx context.Context, method, url string, headers ...string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if _, ok := req.Header["Accept"]; !ok {
		// As engines do. The stock registry gives an OCI manifest to those only
		// who ask for it.
		req.Header.Set("Accept", strings.Join([]string{
			"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
			"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
			"*/*",
		}, ", "))
	}
	return req, nil
}

func read(resp *http.Response) answer {
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

// raw sends the text of a request as it is, which http.Client would tidy up.
func raw(t *testing.T, addr, request string) answer {
	t.Helper()
	conn := must(net.Dial("tcp", addr))(t)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := bytes.Cut([]byte(request), []byte(" "))
	resp := must(http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: string(method)}))(t)
	defer resp.Body.Close()
	return read(resp)
}

// code is the first error code of an OCI error body. A body that is none, or
// that does not say that it is JSON, fails the test.
func (a answer) code(t *testing.T) string {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.Body, &body); err != nil || len(body.Errors) == 0 {
		t.Errorf("status %d: the body is no OCI error: %v\n%s", a.Status, err, a.Body)
		return ""
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" && got != "application/json; charset=utf-8" {
		t.Errorf("status %d: an error of Content-Type %q, want application/json", a.Status, got)
	}
	if body.Errors[0].Message == "" {
		t.Errorf("status %d: the error has no message\n%s", a.Status, a.Body)
	}
	return body.Errors[0].Code
}

// fetched is a body that was hashed and not kept.
type fetched struct {
	Status int
	Size   int64
	Digest digest.Digest
	// Err is why the body ended early, nil where it is whole.
	Err error
}

// fetch reads a URL to its end without keeping it.
func fetch(ctx context.Context, url string) (fetched, error) {
	req, err := request(ctx, http.MethodGet, url)
	if err != nil {
		return fetched{}, err
	}
	resp, err := client().Do(req)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close()
	f := fetched{Status: resp.StatusCode}
	h := sha256.New()
	f.Size, f.Err = io.Copy(h, resp.Body)
	f.Digest = digest.NewDigest(digest.SHA256, h)
	return f, nil
}

// whole tells how a fetch differs from all of a blob, nil where it does not.
func (f fetched) whole(want lab.RawBlob) error {
	if f.Status != http.StatusOK || f.Err != nil || f.Size != want.Size || f.Digest != want.Digest {
		return fmt.Errorf("got status %d, %d bytes, %s, %v\nwant 200, %d bytes, %s",
			f.Status, f.Size, f.Digest, f.Err, want.Size, want.Digest)
	}
	return nil
}

// wholeBlob fetches a blob and compares it.
func wholeBlob(t *testing.T, s interface{ URL() string }, repo string, want lab.RawBlob) {
	t.Helper()
	f := must(fetch(t.Context(), blobURL(s, repo, want.Digest)))(t)
	if err := f.whole(want); err != nil {
		t.Errorf("blob %s: %v", want.Digest, err)
	}
}

// fetchGap is as fetch, and returns the longest time between two bytes of the body
// as well.
func fetchGap(ctx context.Context, url string) (f fetched, gap time.Duration, err error) {
	req, err := request(ctx, http.MethodGet, url)
	if err != nil {
		return f, 0, err
	}
	resp, err := client().Do(req)
	if err != nil {
		return f, 0, err
	}
	defer resp.Body.Close()
	digester := digest.Canonical.Digester()
	f.Status = resp.StatusCode
	buf := make([]byte, 64<<10)
	for last := time.Now(); ; {
		n, err := resp.Body.Read(buf)
		now := time.Now()
		if n > 0 {
			gap, last = max(gap, now.Sub(last)), now
		}
		f.Size += int64(n)
		digester.Hash().Write(buf[:n])
		if err != nil {
			if err != io.EOF {
				f.Err = err
			}
			f.Digest = digester.Digest()
			return f, gap, nil
		}
	}
}
