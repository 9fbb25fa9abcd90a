package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream/router"
)

// FuzzRange asks for ranges of a blob that is stored and of one that is being
// downloaded: what comes is what its Content-Range says, or the whole, or nothing.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{
		"bytes=0-0", "bytes=5-", "bytes=-7", "bytes=0-9,20-29", "bytes=0-,0-,0-", "bytes=99999-", "bytes=-0",
		"bytes=9-3", "bytes= 1 - 2 ", "bytes=18446744073709551615-", "bytes=0-18446744073709551616", "lines=1-2", "bytes=,", "",
	} {
		f.Add(seed)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 8<<10) // 128 KiB
	up := new(cachetest.Upstream)
	dgst := up.AddBlob("a", content)
	newHandler := func(tb testing.TB) (http.Handler, func()) {
		blobs := new(cachetest.Blobs)
		c, err := cache.New(context.Background(), cache.Options{
			Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
			Remotes: []cache.Remote{{Host: up.Host(), Upstream: up}},
		})
		if err != nil {
			tb.Fatal(err)
		}
		s, err := server.New(context.Background(), server.Options{Cache: c, Router: routes(tb, router.Remote{Host: up.Host(), Default: true})})
		if err != nil {
			tb.Fatal(err)
		}
		return s, func() {
			if err := s.Close(); err != nil {
				tb.Error(err)
			}
			if err := c.Close(); err != nil {
				tb.Error(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, header string) {
		h, end := newHandler(t)
		defer end()
		for _, state := range []string{"cold", "warm"} {
			req := httptest.NewRequest(http.MethodGet, "/v2/a/blobs/"+dgst.String(), nil)
			req.Header.Set("Range", header)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if err := checkRanges(w.Result(), content); err != nil {
				t.Errorf("%s, Range %q: %v", state, header, err)
			}
			// Whatever was asked for, the whole is right.
			w = httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/a/blobs/"+dgst.String(), nil))
			if w.Code != http.StatusOK || digest.FromBytes(w.Body.Bytes()) != dgst {
				t.Errorf("%s: the whole: status %d, %d bytes", state, w.Code, w.Body.Len())
			}
		}
	})
}

// checkRanges compares an answer with the content that it is to be of.
func checkRanges(resp *http.Response, content []byte) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	part := func(contentRange string, got []byte) error {
		var first, last, size int
		if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &first, &last, &size); err != nil {
			return fmt.Errorf("Content-Range %q: %w", contentRange, err)
		}
		if first == size && last == size-1 && len(got) == 0 {
			return nil // of "-0", the last 0 bytes: what net/http, and so the stock registry, makes of it
		}
		if size != len(content) || first > last || last >= size || !bytes.Equal(got, content[first:last+1]) {
			return fmt.Errorf("Content-Range %q with %d bytes, or other ones", contentRange, len(got))
		}
		return nil
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if !bytes.Equal(body, content) {
			return fmt.Errorf("200 with %d bytes, or other ones", len(body))
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return nil
	case http.StatusPartialContent:
	default:
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if kind != "multipart/byteranges" {
		return part(resp.Header.Get("Content-Range"), body)
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		got, err := io.ReadAll(p)
		if err != nil {
			return err
		}
		if err := part(p.Header.Get("Content-Range"), got); err != nil {
			return err
		}
	}
}
