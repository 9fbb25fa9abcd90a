package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// resume fetches a blob of size bytes piece by piece, as often as it takes, and
// returns how many answers there were. Each has to bring something.
func resume(t *testing.T, r *upstream.Remote, dgst digest.Digest, size int64) (content []byte, answers int) {
	t.Helper()
	validator := ""
	for at := int64(0); at < size; at = int64(len(content)) {
		stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{Offset: at, Validator: validator})
		if err != nil {
			t.Fatal(err)
		}
		answers++
		validator = stream.Validator
		piece, err := readBlob(t, stream)
		if stream.Offset != at || stream.Size != size || len(piece) == 0 {
			t.Fatalf("%d bytes from %d of %d, %v, and %d was asked for", len(piece), stream.Offset, stream.Size, err, at)
		}
		content = append(content, piece...)
		if (err == nil) != (int64(len(piece)) == stream.Length) {
			t.Errorf("%d bytes of %d, %v", len(piece), stream.Length, err)
		}
		if err != nil {
			wantKind(t, err, cache.ErrUnavailable)
		}
	}
	return content, answers
}

func TestResume(t *testing.T) {
	const size = 1_000_000
	for name, test := range map[string]struct {
		fault   ut.Fault
		answers [2]int // at least and at most
	}{
		"cut":     {ut.Fault{CutMin: 50_000, CutMax: 150_000, CutSeed: 1}, [2]int{7, 20}},
		"limited": {ut.Fault{RangeMax: 100_000, Cut: true, CutAt: 100_000}, [2]int{10, 10}},
	} {
		for _, redirect := range []bool{false, true} {
			reg := ut.New(t)
			dgst := reg.AddGenerated("a/b", size, 1)
			reg.SetRedirect(redirect)
			test.fault.Kinds = []ut.Kind{ut.BlobGet}
			if redirect {
				test.fault.Kinds = []ut.Kind{ut.CDNGet}
			}
			reg.Script(test.fault)
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			content, answers := resume(t, r, dgst, size)
			if digest.FromBytes(content) != dgst || reg.BlobBytes(dgst) != size {
				t.Errorf("%s: %d bytes, and %d were sent, want %d", name, len(content), reg.BlobBytes(dgst), size)
			}
			if answers < test.answers[0] || answers > test.answers[1] || reg.Requests(ut.BlobGet) != answers {
				t.Errorf("%s: %d answers to %d requests, want %v", name, answers, reg.Requests(ut.BlobGet), test.answers)
			}
		}
	}
}

func TestURLExpiresInMidDownload(t *testing.T) {
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	reg.SetRedirect(true)
	gate := ut.NewGate()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.CDNGet}, Times: 1, Gate: gate, GateAt: 3000, Cut: true, CutAt: 4000})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	reg.RevokeURLs()
	gate.Open()
	first, err := readBlob(t, stream)
	wantKind(t, err, cache.ErrUnavailable)
	// Each part comes by a URL of its own, and nothing is refused.
	rest := open(t, r, cache.BlobPart{Offset: int64(len(first)), Validator: stream.Validator})
	if len(first) != 4000 || rest.Offset != 4000 || rest.Length != 6000 {
		t.Errorf("%d bytes, and then %+v", len(first), rest)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.BlobGet: 2, ut.CDNGet: 2})

	// URLs that are never good.
	reg.ResetCounts()
	reg.SetURLLifetime(time.Nanosecond)
	_, err = r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 4000})
	if e := wantKind(t, err, cache.ErrDenied); e.Status != 403 || !strings.Contains(err.Error(), reg.CDNHost()) {
		t.Errorf("error is %v", err)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.BlobGet: 2, ut.CDNGet: 2})
}

func TestTokenExpiresInMidDownload(t *testing.T) {
	for name, test := range map[string]struct {
		expire   func(reg *ut.Registry, c *clock)
		rejected int // requests with a token that is no good any more
	}{
		// Before its time, or by a clock that is ahead of ours: the registry says so.
		"rejected": {func(reg *ut.Registry, _ *clock) { reg.RevokeTokens() }, 1},
		// When it was to: we know.
		"known": {func(reg *ut.Registry, c *clock) { reg.RevokeTokens(); c.advance(301 * time.Second) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.New(t)
			reg.AddBlob("a/b", digits)
			reg.SetAuth(ut.Auth{Scheme: "Bearer", ExpiresIn: 300})
			gate := ut.NewGate()
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Times: 1, Gate: gate, GateAt: 3000, Cut: true, CutAt: 4000})
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			var c clock
			r.SetNow(c.now)
			stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{})
			if err != nil {
				t.Fatal(err)
			}
			<-gate.Reached()
			test.expire(reg, &c)
			gate.Open()
			first, err := readBlob(t, stream)
			wantKind(t, err, cache.ErrUnavailable)
			if len(first) != 4000 {
				t.Fatalf("%d bytes", len(first))
			}
			open(t, r, cache.BlobPart{Offset: 4000, Length: 1000, Validator: stream.Validator})
			open(t, r, cache.BlobPart{Offset: 5000, Validator: stream.Validator})
			wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 2, ut.BlobGet: 3 + test.rejected})
			if n := reg.BlobBytes(); n != 10_000 {
				t.Errorf("%d bytes, want 10000", n)
			}
		})
	}
}

func TestTokenExpiresUnderManyParts(t *testing.T) {
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", ExpiresIn: 300})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	open(t, r, cache.BlobPart{Length: 1})
	reg.ResetCounts()
	reg.RevokeTokens()
	const parts = 10
	var wg sync.WaitGroup
	for i := range int64(parts) {
		wg.Go(func() {
			stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 1000 * i, Length: 1000})
			if err != nil {
				t.Error(err)
				return
			}
			defer stream.Body.Close()
			got, err := io.ReadAll(stream.Body)
			if err != nil || !bytes.Equal(got, digits[1000*i:1000*(i+1)]) {
				t.Errorf("part %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	if n := reg.Requests(ut.Token); n != 1 {
		t.Errorf("%d tokens to replace one, want 1", n)
	}
	if n := reg.Requests(ut.BlobGet); n > 2*parts {
		t.Errorf("%d requests for %d parts, each of which is rejected once at most", n, parts)
	}
}

func TestStalledPart(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		for _, redirect := range []bool{false, true} {
			inMemory(t, func(t *testing.T, n *memory) {
				reg := ut.NewWith(t, ut.Options{Listen: n.Listen})
				reg.AddBlob("a/b", digits)
				reg.SetRedirect(redirect)
				gate := ut.NewGate()
				defer gate.Open()
				kind := map[bool]ut.Kind{false: ut.BlobGet, true: ut.CDNGet}[redirect]
				reg.Script(ut.Fault{Kinds: []ut.Kind{kind}, Times: 1, Gate: gate, GateAt: 50, Chunked: hidden})
				r := newRemote(t, upstream.Options{URL: reg.URL(), StallTimeout: time.Minute, DialContext: n.DialContext})
				start := time.Now()
				stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 100})
				if err != nil {
					t.Fatal(err)
				}
				got, err := readBlob(t, stream)
				e := wantKind(t, err, cache.ErrUnavailable)
				if len(got) != 50 || e.Status != 206 || !strings.Contains(err.Error(), "stalled") {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if d := time.Since(start); d != time.Minute {
					t.Errorf("given up after %v", d)
				}
				before := n.dials.Load()
				open(t, r, cache.BlobPart{Offset: 150})
				if n := n.dials.Load() - before; n != 1 {
					t.Errorf("%d new connections after one has stalled, want 1", n)
				}
			})
		}
	}
}

func TestStallAfterHeaders(t *testing.T) {
	// No byte of the body has come, and none is read of what a host says that
	// refuses: neither takes longer than a stall may.
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	gate := ut.NewGate()
	defer gate.Open()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: 404, Body: []byte(`{"errors":[]}`), Gate: gate, GateAt: 1})
	r := newRemote(t, upstream.Options{URL: reg.URL(), StallTimeout: 50 * time.Millisecond})
	_, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 100})
	wantKind(t, err, cache.ErrNotFound)
}

func TestCutPart(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		for _, at := range []int64{0, 1, 4999} {
			reg := ut.New(t)
			reg.AddBlob("a/b", digits)
			reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Cut: true, CutAt: at, Chunked: hidden})
			r := newRemote(t, upstream.Options{URL: reg.URL()})
			stream, err := r.Blob(t.Context(), "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 100, Length: 5000})
			if err != nil {
				t.Fatal(err)
			}
			got, err := readBlob(t, stream)
			wantKind(t, err, cache.ErrUnavailable)
			if int64(len(got)) != at || stream.Length != 5000 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("cut at %d: %d bytes of %d, %v", at, len(got), stream.Length, err)
			}
		}
	}
}

func TestCancelPart(t *testing.T) {
	reg := ut.New(t)
	reg.AddBlob("a/b", digits)
	gate := ut.NewGate()
	defer gate.Open()
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Gate: gate, GateAt: 50, Chunked: true})
	r := newRemote(t, upstream.Options{URL: reg.URL()})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := r.Blob(ctx, "a/b", digest.FromBytes(digits), cache.BlobPart{Offset: 100})
	if err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	cancel()
	if _, err := readBlob(t, stream); !errors.Is(err, context.Canceled) || errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
}
