package load_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/synth"
)

// layer is longer than what a client reads at a time and than what the sockets
// hold.
const layer = 8 << 20

// start returns the URL of a registry with an image. Its answers pass through
// alter, where that is not nil.
func start(t *testing.T, alter func(http.Handler) http.Handler) (string, synth.Image) {
	t.Helper()
	s := synth.NewServer()
	img, err := s.Add("a/b", "1", 7, []int64{layer, layer})
	if err != nil {
		t.Fatal(err)
	}
	var h http.Handler = s
	if alter != nil {
		h = alter(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL, img
}

func TestPull(t *testing.T) {
	url, img := start(t, nil)
	result := load.Pull{Registry: url, Repo: "a/b", Tag: "1", Clients: 4, Verify: 2}.Run(t.Context())
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	if len(result.Clients) != 4 {
		t.Fatalf("there are results of %d clients, want 4", len(result.Clients))
	}
	for i, c := range result.Clients {
		if least := img.Layers[0].Size + img.Layers[1].Size; c.Bytes <= least { // and the config
			t.Errorf("client %d has %d bytes, want over %d", i, c.Bytes, least)
		}
		if len(c.FirstByte) != 2 || c.Seconds <= 0 || c.Seconds > result.Seconds {
			t.Errorf("client %d has times %v and %v of %v", i, c.FirstByte, c.Seconds, result.Seconds)
		}
	}
}

func TestSlowClientIsCut(t *testing.T) {
	url, _ := start(t, nil)
	result := load.Pull{Registry: url, Repo: "a/b", Tag: "1", Clients: 3, Slow: 1}.Run(t.Context())
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	for i, c := range result.Clients {
		if slow := i == 0; c.Cut != slow {
			t.Errorf("client %d: cut is %v, want %v", i, c.Cut, slow)
		}
	}
}

// flip changes the last byte of each layer that passes.
type flip struct{ http.ResponseWriter }

func (f flip) Write(p []byte) (int, error) {
	if f.Header().Get("Content-Type") == "application/octet-stream" {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return f.ResponseWriter.Write(p)
}

// short ends each layer early.
type short struct {
	http.ResponseWriter
	left *int
}

func (s short) Write(p []byte) (int, error) {
	if *s.left < len(p) {
		panic(http.ErrAbortHandler)
	}
	*s.left -= len(p)
	return s.ResponseWriter.Write(p)
}

func TestPullFindsFaults(t *testing.T) {
	for _, c := range []struct {
		name, want string
		verify     int
		alter      func(http.Handler) http.Handler
	}{
		{"wrong bytes", "has digest", 1, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(flip{w}, r) })
		}},
		{"cut off", "unexpected EOF", 0, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				left := layer / 2
				h.ServeHTTP(short{w, &left}, r)
			})
		}},
		{"not there", "404", 0, func(http.Handler) http.Handler { return http.NotFoundHandler() }},
		{"another length", "bytes, want", 0, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/blobs/") {
					r.Header.Set("Range", "bytes=1-")
					h.ServeHTTP(okWriter{w}, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _ := start(t, c.alter)
			result := load.Pull{Registry: url, Repo: "a/b", Tag: "1", Clients: 1, Verify: c.verify}.Run(t.Context())
			if err := result.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

// okWriter answers 200 instead of 206.
type okWriter struct{ http.ResponseWriter }

func (w okWriter) WriteHeader(int) { w.ResponseWriter.WriteHeader(http.StatusOK) }

func TestRepeat(t *testing.T) {
	url, img := start(t, nil)
	l := img.Layers[0]
	job := load.Repeat{
		URL: url + "/v2/a/b/blobs/" + l.Digest.String(), Size: l.Size, Digest: l.Digest,
		Clients: 2, For: 100 * time.Millisecond,
	}
	if result := job.Run(t.Context()); result.Error != "" || result.Bytes == 0 || result.Seconds < job.For.Seconds() {
		t.Errorf("got %+v, want bytes and no error", result)
	}
	job.Digest = img.Layers[1].Digest
	if result := job.Run(t.Context()); !strings.Contains(result.Error, "has digest") {
		t.Errorf("got %+v, want an error about the digest", result)
	}
}

func TestMain_jobs(t *testing.T) {
	url, _ := start(t, nil)
	var out bytes.Buffer
	in := strings.NewReader(`{"pull": {"registry": "` + url + `", "repo": "a/b", "tag": "1", "clients": 1, "verify": 1}}`)
	if err := load.Main(t.Context(), in, &out); err != nil {
		t.Fatal(err)
	}
	var result load.PullResult
	if err := json.Unmarshal(out.Bytes(), &result); err != nil || len(result.Clients) != 1 || result.Err() != nil {
		t.Errorf("got %s, want the result of one client", out.Bytes())
	}
	for _, bad := range []string{"", "{}", "pull"} {
		if err := load.Main(t.Context(), strings.NewReader(bad), &out); err == nil {
			t.Errorf("job %q gives no error", bad)
		}
	}
}
