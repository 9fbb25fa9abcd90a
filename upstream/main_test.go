package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"registry-module/cache"
	"registry-module/upstream"
	"registry-module/upstream/upstreamtest"
)

func TestMain(m *testing.M) {
	// No test leaves loopback: not by the default client, nor for a name.
	http.DefaultTransport = &http.Transport{DialContext: dialLoopback}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("a test looks up a name")
	}}
	if os.Getenv(proxyChild) != "" {
		os.Exit(runProxyChild())
	}
	goleak.VerifyTestMain(m)
}

// dialLoopback connects to loopback and to nothing else.
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("a test leaves loopback: %s", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// newRemote makes a remote that stays on loopback and is closed with the test.
func newRemote(t *testing.T, opts upstream.Options) *upstream.Remote {
	t.Helper()
	if opts.DialContext == nil {
		opts.DialContext = dialLoopback
	}
	r, err := upstream.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// dialNames connects to the given addresses for names ("host:port"), and counts.
func dialNames(names map[string]string, dials *atomic.Int32) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials != nil {
			dials.Add(1)
		}
		if to, ok := names[addr]; ok {
			addr = to
		}
		return dialLoopback(ctx, network, addr)
	}
}

// wantRequests fails unless the registry has seen so many requests of each kind,
// and none of any other.
func wantRequests(t *testing.T, reg *upstreamtest.Registry, want map[upstreamtest.Kind]int) {
	t.Helper()
	total := 0
	for kind, n := range want {
		total += n
		if got := reg.Requests(kind); got != n {
			t.Errorf("%d requests of kind %q, want %d", got, kind, n)
		}
	}
	if got := reg.Requests(); got != total {
		t.Errorf("%d requests in all, want %d", got, total)
	}
}

// wantKind fails unless err is an UpstreamError of that kind, of no other, and
// fit to be shown.
func wantKind(t *testing.T, err, kind error) *cache.UpstreamError {
	t.Helper()
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok {
		t.Fatalf("error is %v, want an UpstreamError of kind %v", err, kind)
	}
	for _, k := range []error{cache.ErrNotFound, cache.ErrDenied, cache.ErrRateLimited, cache.ErrUnavailable, cache.ErrInvalid, cache.ErrLoop} {
		if errors.Is(err, k) != (k == kind) {
			t.Errorf("error is %v: errors.Is(%v) = %v, want kind %v", err, k, errors.Is(err, k), kind)
		}
	}
	if e.Remote == "" || e.Op == "" {
		t.Errorf("error %+v does not say who or what", e)
	}
	wantClean(t, err)
	return e
}

// wantClean fails if err shows what it must not.
func wantClean(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	// All secrets of these tests and of upstreamtest have it in them.
	if strings.Contains(text, "secret") {
		t.Errorf("error shows a secret: %s", text)
	}
	if strings.ContainsAny(text, "\r\n\x1b\x00") || len(text) > 2000 {
		t.Errorf("error is not fit for a log: %q", text)
	}
}

// readBlob reads a blob to its end.
func readBlob(t *testing.T, stream *cache.BlobStream) ([]byte, error) {
	t.Helper()
	defer stream.Body.Close()
	return io.ReadAll(stream.Body)
}

// get fetches a manifest that is there.
func get(t *testing.T, r *upstream.Remote, repo, ref string) {
	t.Helper()
	if _, err := r.Manifest(t.Context(), repo, ref); err != nil {
		t.Fatal(err)
	}
}

// clock is a clock that a test sets.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }
