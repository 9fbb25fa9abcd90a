package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// questions are all that can be asked of a remote.
var questions = map[string]func(ctx context.Context, r *upstream.Remote) error{
	"Manifest": func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.Manifest(ctx, "a/b", "v1")
		return err
	},
	"Resolve": func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.Resolve(ctx, "a/b", "v1", "")
		return err
	},
	"Blob": func(ctx context.Context, r *upstream.Remote) error {
		stream, err := r.Blob(ctx, "a/b", digest.FromString("x"), cache.BlobPart{})
		if err != nil {
			return err
		}
		defer stream.Body.Close()
		_, err = io.Copy(io.Discard, stream.Body)
		return err
	},
	"StatBlob": func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.StatBlob(ctx, "a/b", digest.FromString("x"))
		return err
	},
	"Tags": func(ctx context.Context, r *upstream.Remote) error {
		_, _, err := r.Tags(ctx, "a/b", 0, "")
		return err
	},
	"Referrers": func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.Referrers(ctx, "a/b", digest.FromString("{}"))
		return err
	},
}

// contentKinds are the kinds of request that questions lead to.
var contentKinds = []ut.Kind{ut.ManifestGet, ut.ManifestHead, ut.BlobGet, ut.BlobHead, ut.Tags, ut.Referrers}

// stocked is a registry that has an answer to all questions.
func stocked(t *testing.T) *ut.Registry {
	t.Helper()
	reg := ut.New(t)
	reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	reg.AddBlob("a/b", []byte("x"))
	return reg
}

func TestStatuses(t *testing.T) {
	for status, kind := range map[int]error{
		400: cache.ErrInvalid, 401: cache.ErrDenied, 402: cache.ErrInvalid, 403: cache.ErrDenied, 404: cache.ErrNotFound,
		406: cache.ErrInvalid, 407: cache.ErrUnavailable, 408: cache.ErrUnavailable, 410: cache.ErrInvalid, 416: cache.ErrInvalid,
		418: cache.ErrInvalid, 429: cache.ErrRateLimited, 451: cache.ErrInvalid,
		500: cache.ErrUnavailable, 502: cache.ErrUnavailable, 503: cache.ErrUnavailable, 504: cache.ErrUnavailable, 508: cache.ErrLoop, 599: cache.ErrUnavailable,
		300: cache.ErrInvalid, 305: cache.ErrInvalid,
	} {
		reg := stocked(t)
		reg.Script(ut.Fault{Kinds: contentKinds, Status: status, Header: http.Header{"Retry-After": {"12"}}})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		texts := map[string]string{}
		for name, ask := range questions {
			if name == "Referrers" && status == http.StatusNotFound {
				continue // that there are none is an answer
			}
			err := ask(t.Context(), r)
			e := wantKind(t, err, kind)
			texts[name] = err.Error()
			if e.Status != status || e.RetryAfter != 12*time.Second || e.Remote != reg.Host() {
				t.Errorf("%s, %d: error is %+v", name, status, e)
			}
			if status >= 400 && (name == "Manifest" || name == "Tags") && !strings.Contains(err.Error(), "scripted fault") {
				t.Errorf("%s, %d: error %q does not say what the remote said", name, status, err)
			}
		}
		// What a HEAD was enough for cannot be told from what took a GET; but loops.
		if status != http.StatusLoopDetected && texts["Blob"] != texts["StatBlob"] {
			t.Errorf("%d: GET of a blob: %q, HEAD: %q", status, texts["Blob"], texts["StatBlob"])
		}
	}
}

func TestErrorBodies(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		says string
	}{
		"several":     {`{"errors":[{"code":"A","message":"one"},{"code":"B","message":"two"}]}`, "A: one; B: two"},
		"no message":  {`{"errors":[{"code":"A"}]}`, "A:"},
		"many":        {`{"errors":[` + strings.Repeat(`{"code":"A","message":"m"},`, 500) + `{"code":"Z"}]}`, "A: m; A: m; A: m"},
		"detail":      {`{"errors":[{"code":"A","message":"m","detail":"secret"}]}`, "A: m"},
		"controls":    {`{"errors":[{"code":"A\u0000","message":"two\nlines\u001b[31m"}]}`, "A : two lines [31m"},
		"signed URLs": {`{"errors":[{"code":"A","message":"see https://s3.example.com/x?X-Amz-Signature=secret now"}]}`, "see https://s3.example.com/x now"},
		"long":        {`{"errors":[{"code":"A","message":"` + strings.Repeat("m", 10_000) + `"}]}`, "mmm..."},
		"not OCI":     {`{"error":"secret"}`, "HTTP status 500"},
		"page":        {"<html>secret\x1b[31m</html>", "HTTP status 500"},
		"huge":        {strings.Repeat("secret ", 1<<20), "HTTP status 500"},
		"none":        {"", "HTTP status 500"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stocked(t)
			reg.Script(ut.Fault{Kinds: contentKinds, Status: 500, Body: []byte(test.body)})
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			err := questions["Manifest"](t.Context(), r)
			wantKind(t, err, cache.ErrUnavailable)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %q", err, test.says)
			}
		})
	}
}

func TestErrorBodyIsCut(t *testing.T) {
	reg := stocked(t)
	reg.Script(ut.Fault{Kinds: contentKinds, Status: 404, Body: []byte(`{"errors":[]}`), Cut: true, CutAt: 5})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	// The status was said, and it stays what counts.
	wantKind(t, questions["Manifest"](t.Context(), r), cache.ErrNotFound)
}

func TestOffline(t *testing.T) {
	reg := stocked(t)
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	get(t, r, "a/b", "v1")
	reg.Offline()
	for name, ask := range questions {
		err := ask(t.Context(), r)
		wantKind(t, err, cache.ErrUnavailable)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	reg.Online()
	for name, ask := range questions {
		if err := ask(t.Context(), r); err != nil {
			t.Errorf("%s, online again: %v", name, err)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	reg := stocked(t)
	r := newRemote(t, upstream.Options{URL: reg.URL(), HeaderTimeout: 50 * time.Millisecond})
	for _, kinds := range [][]ut.Kind{{ut.Ping}, contentKinds} {
		end := reg.Script(ut.Fault{Kinds: kinds, Hang: true})
		for _, ask := range questions {
			wantKind(t, ask(t.Context(), r), cache.ErrUnavailable)
		}
		end()
	}
}

func TestStalledBody(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memory) {
		reg := ut.NewWith(t, ut.Options{Listen: n.Listen})
		dgst := reg.AddBlob("a/b", make([]byte, 100_000))
		gate := ut.NewGate()
		defer gate.Open()
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Gate: gate, GateAt: 50_000})
		r := newRemote(t, upstream.Options{URL: reg.URL(), StallTimeout: 100 * time.Millisecond, DialContext: n.DialContext})
		stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := readBlob(t, stream)
		e := wantKind(t, err, cache.ErrUnavailable)
		if len(content) != 50_000 || e.Status != 200 || !strings.Contains(err.Error(), "stalled") {
			t.Errorf("%d bytes, %v", len(content), err)
		}
	})
}

func TestCutBlob(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		reg := ut.New(t)
		dgst := reg.AddBlob("a/b", make([]byte, 100_000))
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Cut: true, CutAt: 70_000, Chunked: chunked})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := readBlob(t, stream)
		wantKind(t, err, cache.ErrUnavailable)
		if len(content) != 70_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", len(content), err)
		}
		// An error is for good.
		if n, again := stream.Body.Read(make([]byte, 1)); n != 0 || again == nil {
			t.Errorf("after the error: %d bytes, %v", n, again)
		}
	}
}

func TestCancel(t *testing.T) {
	for name, ask := range questions {
		for _, kinds := range [][]ut.Kind{{ut.Ping}, contentKinds} {
			reg := stocked(t)
			gate := ut.NewGate()
			reg.Script(ut.Fault{Kinds: kinds, Gate: gate})
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- ask(ctx, r) }()
			<-gate.Reached()
			cancel()
			err := <-done
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error is %v", name, err)
			}
			if _, ok := errors.AsType[*cache.UpstreamError](err); ok {
				t.Errorf("%s: the remote is blamed for what the caller did: %v", name, err)
			}
			wantClean(t, err)
			gate.Open()
		}
	}
}

func TestCancelBody(t *testing.T) {
	reg := ut.New(t)
	dgst := reg.AddBlob("a/b", make([]byte, 1_000_000))
	gate := ut.NewGate()
	defer gate.Open()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Gate: gate, GateAt: 1000})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := r.Blob(ctx, "a/b", dgst, cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	cancel()
	if _, err := readBlob(t, stream); !errors.Is(err, context.Canceled) || errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
}

func TestCloseEndsRead(t *testing.T) {
	reg := ut.New(t)
	dgst := reg.AddBlob("a/b", make([]byte, 100_000))
	gate := ut.NewGate()
	defer gate.Open()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Gate: gate, GateAt: 1000})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stream.Body)
		done <- err
	}()
	<-gate.Reached()
	if err := stream.Body.Close(); err != nil {
		t.Error(err)
	}
	wantKind(t, <-done, cache.ErrUnavailable)
}

func TestDeadline(t *testing.T) {
	for _, kinds := range [][]ut.Kind{{ut.Ping}, contentKinds} {
		reg := stocked(t)
		reg.Script(ut.Fault{Kinds: kinds, Hang: true})
		r := newRemote(t, upstream.Options{URL: reg.URL()})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := questions["Manifest"](ctx, r)
		cancel()
		wantKind(t, err, cache.ErrUnavailable)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	}
}

func TestEndOfSignedURLIsNotShown(t *testing.T) {
	// The blob host cannot be reached: the error is of the signed URL.
	reg := ut.New(t)
	dgst := reg.AddBlob("a/b", []byte("x"))
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: 307, Header: http.Header{
		"Location": {"http://me:secret@127.0.0.1:1/" + dgst.String() + "?signature=secret"},
	}})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	_, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{})
	wantKind(t, err, cache.ErrUnavailable)
}
