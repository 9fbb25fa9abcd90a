package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/cachetest"
	"registry-module/server"
	"registry-module/upstream/router"
)

// connection is a ResponseWriter that notes how it is used.
type connection struct {
	http.ResponseWriter
	body     bytes.Buffer
	deadline time.Time

	steps   []int64       // lengths of what came by ReadFrom
	noFiles int           // steps without a file that the kernel could send
	late    int           // writes without enough time
	began   chan struct{} // gets a value at each step
}

func newConnection() *connection {
	return &connection{ResponseWriter: httptest.NewRecorder(), began: make(chan struct{}, 1000)}
}

func (c *connection) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *connection) written() {
	if until := time.Until(c.deadline); until < 59*time.Minute || until > time.Hour {
		c.late++
	}
}

func (c *connection) Write(p []byte) (int, error) {
	c.written()
	return c.body.Write(p)
}

func (c *connection) ReadFrom(src io.Reader) (int64, error) {
	c.written()
	part, ok := src.(*io.LimitedReader)
	if !ok {
		c.noFiles++
		return io.Copy(&c.body, src)
	}
	if _, ok := part.R.(*os.File); !ok {
		c.noFiles++
	}
	c.steps = append(c.steps, part.N)
	c.began <- struct{}{}
	return io.Copy(&c.body, src)
}

// Stored blobs, and those that are being downloaded, go out as files, so that
// the kernel can send them, in steps that have their time, see TestDeadlines.
func TestBlobsAreSentByTheKernel(t *testing.T) {
	s := newSite(t)
	large := bytes.Repeat([]byte("large"), 7<<20) // 35 MiB
	dgst := s.up.AddBlob("a/b", large)
	feed := cachetest.NewFeed()
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	h := s.handler(t)
	get := func(header ...string) (*connection, <-chan struct{}) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/a/b/blobs/"+dgst.String(), nil)
		if len(header) > 0 {
			r.Header.Set(header[0], header[1])
		}
		c, done := newConnection(), make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(c, r)
		}()
		return c, done
	}
	check := func(name string, c *connection, want []byte) {
		t.Helper()
		if !bytes.Equal(c.body.Bytes(), want) {
			t.Errorf("%s: got %d bytes, want %d", name, c.body.Len(), len(want))
		}
		if c.noFiles > 0 || c.late > 0 || slices.Max(c.steps) > 16<<20 {
			t.Errorf("%s: %d steps without a file, %d without enough time, lengths %v", name, c.noFiles, c.late, c.steps)
		}
		if until := time.Until(c.deadline); until < 59*time.Minute {
			t.Errorf("%s: what is sent after the handler has %v", name, until)
		}
	}

	growing, done := get()
	must(t, feed.Send(large[:20<<20]))
	<-growing.began // before the rest has come
	must(t, feed.Send(large[20<<20:]))
	feed.End(nil)
	<-done
	check("growing", growing, large)

	stored, done := get()
	<-done
	check("stored", stored, large)
	if want := []int64{16 << 20, 16 << 20, 3 << 20}; !slices.Equal(stored.steps, want) {
		t.Errorf("stored: sent in steps of %v, want %v", stored.steps, want)
	}
	part, done := get("Range", "bytes=100-")
	<-done
	check("range", part, large[100:])
}

// handler is one more server over the same cache.
func (s *site) handler(t *testing.T) *server.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h, err := server.New(ctx, server.Options{Cache: s.cache, Router: routes(t, router.Remote{Host: s.up.Host(), Default: true})})
	must(t, err)
	t.Cleanup(func() {
		must(t, h.Close())
		cancel()
	})
	return h
}

// What is known to be wrong before the first byte is an error like any other.
func TestErrorsBeforeTheFirstByte(t *testing.T) {
	away := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "upstream.test", Op: "fetching"}
	wrong := func(_ digest.Digest, content []byte) io.ReadCloser {
		p := bytes.Clone(content)
		p[3] ^= 1
		return io.NopCloser(bytes.NewReader(p))
	}
	broken := func(digest.Digest, []byte) io.ReadCloser { return io.NopCloser(iotest.ErrReader(away)) }
	for name, tt := range map[string]struct {
		body     func(digest.Digest, []byte) io.ReadCloser
		hideSize bool
		maxSize  int64 // of the cache; 1 has the blob passed through
		ranges   string
		status   int
	}{
		"range, length unknown":  {wrong, true, 0, "bytes=0-9", 502},
		"several ranges":         {wrong, false, 0, "bytes=0-9,20-29", 502},
		"several ranges, broken": {broken, false, 0, "bytes=0-9,20-29", 503},
		"length unknown, broken": {broken, true, 0, "", 503},
		"passed through, broken": {broken, false, 1, "", 503},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.up.Body, s.up.HideSize = tt.body, tt.hideSize
			blobs := new(cachetest.Blobs)
			c, err := cache.New(t.Context(), cache.Options{
				Blobs: blobs, Partials: &cachetest.Partials{Blobs: blobs}, Refs: new(cachetest.Refs), Index: new(cachetest.Index),
				Remotes: []cache.Remote{s.remote()}, MaxSize: tt.maxSize,
			})
			must(t, err)
			t.Cleanup(func() { must(t, c.Close()) })
			url := s.serve(t, func(o *server.Options) { o.Cache = c })
			var header []string
			if tt.ranges != "" {
				header = []string{"Range", tt.ranges}
			}
			r := do(t, http.MethodGet, url+"/v2/a/b/blobs/"+s.layerDigest.String(), header...)
			if r.status != tt.status || r.code(t) != "UNAVAILABLE" {
				t.Errorf("status %d, want %d; body %q", r.status, tt.status, r.body)
			}
			for _, name := range []string{"Etag", "Docker-Content-Digest", "Cache-Control", "Accept-Ranges"} {
				if v := r.header.Get(name); v != "" {
					t.Errorf("an error with %s: %s", name, v)
				}
			}
		})
	}
}

// Several ranges of a blob that is being downloaded wait for its verification.
func TestSeveralRangesOfGrowingBlob(t *testing.T) {
	s := newSite(t)
	feed := cachetest.NewFeed()
	s.up.Body = func(digest.Digest, []byte) io.ReadCloser { return feed }
	go func() {
		_ = feed.Send(s.layer) // the response tells
		feed.End(nil)
	}()
	r := do(t, http.MethodGet, s.url+"/v2/a/b/blobs/"+s.layerDigest.String(), "Range", "bytes=0-9,20-29")
	if r.status != 206 || !bytes.Contains(r.body, s.layer[20:30]) || !bytes.Contains(r.body, fmt.Appendf(nil, "bytes 0-9/%d", len(s.layer))) {
		t.Errorf("status %d, body %q", r.status, r.body)
	}
}

// The app's notifications have the blob's size, and cost no requests.
func TestNotificationsCostNoRequests(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		s := newSite(t)
		s.up.HideSize = hidden
		hook := newWebhook(t)
		app := s.serve(t, hook.configure(nil))
		layer := app + "/v2/a/b/blobs/" + s.layerDigest.String()
		do(t, http.MethodHead, layer)
		if all, stat := s.up.Calls(""), s.up.Calls("stat"); all != 1 || stat != 1 {
			t.Errorf("HEAD: %d requests to the remote, %d HEAD, want one", all, stat)
		}
		<-hook.arrived
		for range 2 { // cold, stored
			do(t, http.MethodGet, layer)
			if all, blob := s.up.Calls(""), s.up.Calls("blob"); all != 2 || blob != 1 {
				t.Errorf("GET: %d requests to the remote, %d GET, want one more", all, blob)
			}
			<-hook.arrived
		}
		hook.mu.Lock()
		if want := slices.Repeat([]int64{int64(len(s.layer))}, 3); !slices.Equal(hook.sizes, want) {
			t.Errorf("sizes %v, want %v", hook.sizes, want)
		}
		hook.mu.Unlock()
	}
}
