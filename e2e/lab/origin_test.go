package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

const mib = 1 << 20

// origin starts an origin with one image of one layer.
func origin(t *testing.T, o lab.OriginOptions, size int64) (*lab.Origin, lab.Image) {
	t.Helper()
	img, err := lab.NoiseImage("a/b", "1.0", 7, size)
	if err != nil {
		t.Fatal(err)
	}
	up, err := lab.StartOrigin(o, img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := up.Down(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(&up.Ledger)
		}
	})
	return up, img
}

func TestOriginServes(t *testing.T) {
	up, img := origin(t, lab.OriginOptions{}, mib)
	layer, root := img.Blobs[0], img.Root()
	base := up.URL() + "/v2/" + img.Repo
	for _, tt := range []struct {
		name, method, url, ranges string
		status                    int
		size                      int64
		digest                    digest.Digest
	}{
		{"base", http.MethodGet, up.URL() + "/v2/", "", 200, 2, ""},
		{"tag", http.MethodGet, base + "/manifests/1.0", "", 200, int64(len(root.Bytes)), root.Digest},
		{"manifest", http.MethodGet, base + "/manifests/" + root.Digest.String(), "", 200, int64(len(root.Bytes)), root.Digest},
		{"blob", http.MethodGet, base + "/blobs/" + layer.Digest.String(), "", 200, layer.Size, layer.Digest},
		{"part", http.MethodGet, base + "/blobs/" + layer.Digest.String(), "bytes=1000-", 206, layer.Size - 1000, ""},
		{"head", http.MethodHead, base + "/blobs/" + layer.Digest.String(), "", 200, 0, ""},
		{"no tag", http.MethodGet, base + "/manifests/2.0", "", 404, -1, ""},
		{"no blob", http.MethodGet, up.URL() + "/v2/c/blobs/" + layer.Digest.String(), "", 404, -1, ""},
		{"push", http.MethodPut, base + "/manifests/1.0", "", 405, -1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.ranges != "" {
				req.Header.Set("Range", tt.ranges)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			digester := digest.Canonical.Digester()
			n, err := io.Copy(digester.Hash(), resp.Body)
			if err != nil || resp.StatusCode != tt.status || tt.size >= 0 && n != tt.size {
				t.Errorf("status %d, %d bytes, %v, want %d, %d", resp.StatusCode, n, err, tt.status, tt.size)
			}
			if tt.digest != "" && digester.Digest() != tt.digest {
				t.Errorf("content %s, want %s", digester.Digest(), tt.digest)
			}
		})
	}
	if got, want := up.Counts().BlobBytes, 2*layer.Size-1000; got != want {
		t.Errorf("counted %d blob bytes, want %d", got, want)
	}
	if got := up.Unique(up.Requests()); got != layer.Size {
		t.Errorf("unique are %d bytes, want those of one layer, %d", got, layer.Size)
	}
}

// resumer is what a cache in front of an [lab.Origin] has to be able to do, in its
// simplest form: it fetches a blob from where it has stopped, again and again.
type resumer struct {
	url    string // of the registry
	path   string
	size   int64
	stall  time.Duration // how long it waits for a byte
	token  string
	digest digest.Digester
	at     int64 // what it has
	longer int64 // what it got, and had no use for
}

// run returns nil when it has all of the blob.
func (f *resumer) run(ctx context.Context) error {
	for tries := 0; f.at < f.size; tries++ {
		if tries > 1000 {
			return fmt.Errorf("no end after %d tries", tries)
		}
		if err := f.part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// part fetches some of the blob. An error is one that does not go away.
func (f *resumer) part(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+f.path, nil)
	if err != nil {
		return err
	}
	if f.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.at))
	}
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	client := http.Client{CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		r.Header.Del("Authorization")
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	skip := int64(0)
	switch resp.StatusCode {
	case http.StatusOK:
		skip = f.at
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", f.at)) {
			f.longer += max(0, resp.ContentLength)
			return nil
		}
	case http.StatusUnauthorized:
		f.token, err = token(ctx, resp.Header.Get("WWW-Authenticate"))
		return err
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusForbidden:
		return nil
	default:
		return errors.New(resp.Status)
	}
	idle := time.AfterFunc(f.stall, cancel)
	defer idle.Stop()
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		idle.Reset(f.stall)
		unused := min(int64(n), skip)
		f.digest.Hash().Write(buf[unused:n])
		skip -= unused
		f.longer += unused
		f.at += int64(n) - unused
		if err != nil {
			return nil // all of it, or a break
		}
	}
}

// token follows a challenge.
func token(ctx context.Context, challenge string) (string, error) {
	fields := strings.Split(challenge, `"`) // Bearer realm="...",service="...",scope="..."
	if len(fields) < 6 {
		return "", fmt.Errorf("cannot read the challenge %q", challenge)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fields[1]+"?service="+fields[3]+"&scope="+fields[5], nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	return strings.Split(string(b), `"`)[5], nil // {"expires_in":2,"token":"..."}
}

// TestFaults shows for each fault that it happens, that a client which resumes
// gets the blob in spite of it, and what it costs.
func TestFaults(t *testing.T) {
	const size = 4 * mib
	after := func() int64 { return 100_000 + rand.Int64N(mib/2) }
	once := func(m lab.Middleware) lab.Middleware {
		done := false
		return lab.Each(func(r *http.Request) lab.Middleware {
			if done || lab.FromStart(r) {
				return nil
			}
			done = true
			return m
		})
	}
	for name, tt := range map[string]struct {
		o    lab.OriginOptions
		with []lab.Middleware
		gets int // at least
		lost int64
		more bool // whole answers that were not asked for
	}{
		"none":      {gets: 1},
		"cut":       {with: []lab.Middleware{lab.Cut(lab.Blobs, after)}, gets: 6},
		"reset":     {with: []lab.Middleware{lab.Reset(lab.Blobs, after)}, gets: 6, lost: 40 * 4 * 64 << 10},
		"stalled":   {with: []lab.Middleware{lab.Stall(lab.Blobs, func() int64 { return 3 * mib / 2 })}, gets: 3},
		"truncated": {with: []lab.Middleware{lab.Truncate(lab.Blobs, after)}, gets: 6},
		"refused": {with: []lab.Middleware{
			lab.Cut(lab.Blobs, after),
			once(lab.Answer(lab.Blobs, lab.Refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "Retry-After", "1"))),
		}, gets: 7},
		"wrong range":    {with: []lab.Middleware{lab.Cut(lab.Blobs, after), once(lab.WrongRange(lab.Blobs))}, gets: 7, more: true},
		"ignored range":  {with: []lab.Middleware{once(lab.IgnoreRange(lab.Blobs)), lab.Cut(lab.Blobs, func() int64 { return size / 2 })}, gets: 2, more: true},
		"signed URLs":    {o: lab.OriginOptions{URLLife: time.Minute}, with: []lab.Middleware{lab.Cut(lab.Blobs, after)}, gets: 6},
		"expired URLs":   {o: lab.OriginOptions{URLLife: time.Nanosecond}, gets: 1000},
		"tokens":         {o: lab.OriginOptions{TokenLife: time.Minute}, with: []lab.Middleware{lab.Cut(lab.Blobs, after)}, gets: 7},
		"tokens, signed": {o: lab.OriginOptions{TokenLife: time.Minute, URLLife: time.Minute}, with: []lab.Middleware{lab.Cut(lab.Blobs, after)}, gets: 6},
	} {
		t.Run(name, func(t *testing.T) {
			up, img := origin(t, tt.o, size)
			layer := img.Blobs[0]
			up.Use(tt.with...)
			if up.BlobHost != nil {
				up.BlobHost.Use(tt.with...)
				up.Use()
			}
			f := resumer{
				url: up.URL(), path: "/v2/a/b/blobs/" + layer.Digest.String(), size: layer.Size,
				stall: 100 * time.Millisecond, digest: digest.Canonical.Digester(),
			}
			err := f.run(t.Context())
			got := up.Counts()
			t.Logf("%v", got)
			if tt.o.URLLife == time.Nanosecond {
				if err == nil || got.BlobBytes != 0 {
					t.Errorf("%v, %d bytes by URLs that have expired", err, got.BlobBytes)
				}
				return
			}
			if err != nil || f.digest.Digest() != layer.Digest {
				t.Errorf("%v, %d bytes, %s, want %s", err, f.at, f.digest.Digest(), layer.Digest)
			}
			if gets := max(got.BlobGET, got.Signed); gets < tt.gets {
				t.Errorf("%d GETs, want %d at least", gets, tt.gets)
			}
			if least := layer.Size + f.longer; got.BlobBytes < layer.Size || !tt.more && got.BlobBytes > least+tt.lost {
				t.Errorf("counted %d blob bytes, want %d", got.BlobBytes, least)
			}
			if tt.more && f.longer == 0 {
				t.Error("nothing came that was not asked for")
			}
		})
	}
}

// TestParallel counts the answers that are under way at once.
func TestParallel(t *testing.T) {
	up, img := origin(t, lab.OriginOptions{}, mib)
	gate := lab.NewGate(lab.Blobs, 0)
	up.Use(gate.Middleware)
	const clients = 3
	errs := make(chan error, clients)
	for range clients {
		go func() {
			resp, err := http.Get(up.URL() + "/v2/a/b/blobs/" + img.Blobs[0].Digest.String())
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			errs <- err
		}()
	}
	for up.Parallel() < clients {
		<-gate.Reached()
	}
	gate.Open()
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := up.Parallel(); n != clients {
		t.Errorf("%d at once, want %d", n, clients)
	}
}

// TestConnRate has two connections of a tenth of a second each take no longer
// than one, and the first request on a new connection wait.
func TestConnRate(t *testing.T) {
	link := &lab.Link{ConnRate: 10e6, Connect: 20 * time.Millisecond}
	up, img := origin(t, lab.OriginOptions{Link: link}, 1e6)
	start := time.Now()
	if n := len(body(t, up.URL()+"/v2/a/b/blobs/"+img.Blobs[0].Digest.String())); int64(n) != img.Blobs[0].Size {
		t.Errorf("%d bytes", n)
	}
	if took := time.Since(start); took < 115*time.Millisecond {
		t.Errorf("took %v, want at least 120 ms but for the slack", took)
	}
}
