package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"registry-module/cache"
	"registry-module/internal/tracing"
)

// traced is a site whose requests are traced.
type traced struct {
	*site
	rec      *tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
}

func newTraced(t *testing.T, adjust ...func(*cache.Options)) *traced {
	t.Helper()
	rec := tracetest.NewSpanRecorder()
	return &traced{newSite(t, adjust...), rec, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec))}
}

// request does something in a request of its own.
func (s *traced) request(ctx context.Context, do func(context.Context, *cache.Name)) {
	ctx, span := tracing.StartServer(ctx, s.provider, nil, "request")
	do(ctx, s.Name("a/b", cache.Place{Host: s.opts.Remotes[0].Host, Repo: "a/b"}))
	span.End(nil)
}

// spans are those of a name that have ended.
func (s *traced) spans(name string) []sdktrace.ReadOnlySpan {
	return slices.DeleteFunc(s.rec.Ended(), func(span sdktrace.ReadOnlySpan) bool { return span.Name() != name })
}

// only is the one span of a name.
func (s *traced) only(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	all := s.spans(name)
	if len(all) != 1 {
		t.Fatalf("%d spans %q, want one", len(all), name)
	}
	return all[0]
}

func attr(s sdktrace.ReadOnlySpan, key string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

func events(s sdktrace.ReadOnlySpan) []string {
	var names []string
	for _, e := range s.Events() {
		names = append(names, e.Name)
	}
	return names
}

func below(t *testing.T, child, parent sdktrace.ReadOnlySpan) {
	t.Helper()
	if child.Parent().SpanID() != parent.SpanContext().SpanID() || child.SpanContext().TraceID() != parent.SpanContext().TraceID() {
		t.Errorf("span %q is not below %q", child.Name(), parent.Name())
	}
}

// TestTracedFill shows the spans of a blob that is fetched, and then stored.
func TestTracedFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTraced(t)
		content := bytes.Repeat([]byte("x"), 1<<20)
		dgst := s.up.AddBlob("a/b", content)
		pull := func(ctx context.Context, n *cache.Name) {
			b, err := n.OpenBlob(ctx, dgst)
			must(t, err)
			if got, err := io.ReadAll(b); err != nil || len(got) != len(content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			must(t, b.Close())
		}
		s.request(t.Context(), pull)
		synctest.Wait()
		fill, lookup := s.only(t, "fill"), s.only(t, "lookup")
		below(t, fill, lookup)
		below(t, lookup, s.only(t, "request"))
		if got, want := events(fill), []string{"first byte", "verified", "stored"}; !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		for key, want := range map[string]string{
			"cache.bytes": "1048576", "cache.size": "1048576", "oci.repository": "a/b", "oci.reference": dgst.String(), "server.address": s.up.Host(),
		} {
			if got := attr(fill, key); got != want {
				t.Errorf("fill: %s is %q, want %q", key, got, want)
			}
		}
		if got := attr(lookup, "cache.result"); got != "miss" {
			t.Errorf("result %q", got)
		}

		s.rec.Reset()
		s.request(t.Context(), func(ctx context.Context, n *cache.Name) {
			b, err := n.CachedBlob(ctx, dgst)
			must(t, err)
			must(t, b.Close())
		})
		if got := attr(s.only(t, "lookup"), "cache.result"); got != "hit" || len(s.rec.Ended()) != 2 {
			t.Errorf("result %q, %d spans", got, len(s.rec.Ended()))
		}
		s.close(t, s.Cache)
	})
}

// TestTracedHerd shows that those who want what is being fetched are linked to it.
func TestTracedHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const herd = 8
		s := newTraced(t)
		dgst := s.up.AddBlob("a/b", bytes.Repeat([]byte("x"), 1<<20))
		tag := []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`)
		s.up.AddManifest("a/b", "v1", v1.MediaTypeImageIndex, tag)
		gate := make(chan struct{})
		s.up.Asked = func(context.Context, string) { <-gate }
		var all sync.WaitGroup
		for range herd {
			all.Go(func() {
				s.request(t.Context(), func(ctx context.Context, n *cache.Name) {
					if _, err := n.Tag(ctx, "v1"); err != nil {
						t.Error(err)
					}
					b, err := n.OpenBlob(ctx, dgst)
					if err == nil {
						err = b.Close()
					}
					if err != nil {
						t.Error(err)
					}
				})
			})
		}
		for range 2 { // once all of them wait: for the tag, and then for the blob
			synctest.Wait()
			gate <- struct{}{}
		}
		all.Wait()
		synctest.Wait()
		for name, span := range map[string]sdktrace.ReadOnlySpan{"fill": s.only(t, "fill"), "fetch": s.only(t, "fetch")} {
			links := 0
			for _, l := range s.spans("lookup") {
				for _, link := range l.Links() {
					if link.SpanContext.SpanID() == span.SpanContext().SpanID() {
						links++
					}
				}
			}
			if links != herd-1 {
				t.Errorf("%d links to the %s, want %d", links, name, herd-1)
			}
		}
		s.close(t, s.Cache)
	})
}

// TestTracedRevalidation shows what a tag costs whose lifetime is over.
func TestTracedRevalidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTraced(t, func(o *cache.Options) { o.Remotes[0].StaleWhileRevalidate = time.Minute })
		s.up.AddManifest("a/b", "v1", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`))
		tag := func(ctx context.Context, n *cache.Name) {
			_, err := n.Tag(ctx, "v1")
			must(t, err)
		}
		s.request(t.Context(), tag)
		synctest.Wait()
		if got := attr(s.only(t, "fetch"), "cache.kind"); got != "tag" {
			t.Errorf("fetch of %q", got)
		}
		s.rec.Reset()
		s.pass(tagTTL + 2*time.Minute)
		s.request(t.Context(), tag)
		synctest.Wait()
		below(t, s.only(t, "revalidate"), s.only(t, "lookup"))
		if got := attr(s.only(t, "lookup"), "cache.result"); got != "revalidated" {
			t.Errorf("result %q", got)
		}
		// In the background, after the answer.
		s.rec.Reset()
		s.pass(tagTTL + time.Second)
		s.request(t.Context(), tag)
		synctest.Wait()
		below(t, s.only(t, "revalidate"), s.only(t, "lookup"))
		if got := attr(s.only(t, "lookup"), "cache.result"); got != "stale" {
			t.Errorf("result %q", got)
		}
		// What the remote says not to exist is an answer.
		s.rec.Reset()
		s.request(t.Context(), func(ctx context.Context, n *cache.Name) {
			if _, err := n.Manifest(ctx, digest.FromString("nothing")); !errors.Is(err, cache.ErrNotFound) {
				t.Errorf("error %v", err)
			}
		})
		if got := s.only(t, "lookup"); attr(got, "cache.result") != "absent" || got.Status().Code == codes.Error {
			t.Errorf("result %q, status %v", attr(got, "cache.result"), got.Status())
		}
		s.close(t, s.Cache)
	})
}

// TestTracedOutlives shows a download that breaks off, whose client has left, and that
// goes on.
func TestTracedOutlives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTraced(t)
		content := bytes.Repeat([]byte("x"), 8<<20)
		dgst := s.up.AddBlob("a/b", content)
		left := make(chan struct{})
		s.up.Answer = func(n int, _ cache.BlobPart, st *cache.BlobStream) error {
			if n == 3 {
				<-left
			} else {
				st.Body = io.NopCloser(io.MultiReader(io.LimitReader(st.Body, 3<<20), errorReader{}))
			}
			return nil
		}
		ctx, leave := context.WithCancel(t.Context())
		s.request(ctx, func(ctx context.Context, n *cache.Name) {
			b, err := n.OpenBlob(ctx, dgst)
			must(t, err)
			leave()
			must(t, b.Close())
		})
		if len(s.spans("fill")) > 0 {
			t.Error("the fill has ended before the request")
		}
		close(left)
		synctest.Wait()
		fill := s.only(t, "fill")
		below(t, fill, s.only(t, "lookup"))
		below(t, s.only(t, "lookup"), s.only(t, "request"))
		got := strings.Join(events(fill), ", ")
		if got != "first byte, broken off, broken off, verified, stored" {
			t.Errorf("events %s", got)
		}
		if fill.Status().Code == codes.Error {
			t.Errorf("status %v", fill.Status())
		}
		s.close(t, s.Cache)
	})
}

// errorReader is a connection that breaks off.
type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestTracedResume shows a download that fails, and another one that goes on with it.
func TestTracedResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTraced(t, func(o *cache.Options) { o.Remotes[0].RetryFor = -1 })
		dgst := s.up.AddBlob("a/b", bytes.Repeat([]byte("x"), 8<<20))
		s.up.Answer = func(n int, _ cache.BlobPart, st *cache.BlobStream) error {
			if n == 1 {
				st.Body = io.NopCloser(io.MultiReader(io.LimitReader(st.Body, 3<<20), errorReader{}))
			}
			return nil
		}
		pull := func(ctx context.Context, n *cache.Name) {
			b, err := n.OpenBlob(ctx, dgst)
			must(t, err)
			_, _ = io.Copy(io.Discard, b) // it may break off
			must(t, b.Close())
		}
		s.request(t.Context(), pull)
		synctest.Wait()
		fill := s.only(t, "fill")
		if got := strings.Join(events(fill), ", "); got != "first byte, broken off, put aside, exception" || fill.Status().Code != codes.Error {
			t.Errorf("events %s, status %v", got, fill.Status())
		}
		s.rec.Reset()
		s.request(t.Context(), pull)
		synctest.Wait()
		if got := strings.Join(events(s.only(t, "fill")), ", "); got != "resumed, first byte, verified, stored" {
			t.Errorf("events %s", got)
		}
		s.close(t, s.Cache)
	})
}

// TestUntraced shows that a look-up costs no memory more where nothing is traced.
func TestUntraced(t *testing.T) {
	s := newTraced(t)
	dgst := s.up.AddManifest("a/b", "v1", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`))
	n := s.Name("a/b", cache.Place{Host: s.opts.Remotes[0].Host, Repo: "a/b"})
	_, err := n.Tag(t.Context(), "v1")
	must(t, err)
	r := s.Repository("a/b")
	// The least counts: others may allocate meanwhile, and pools that are shared may be empty.
	least := func(enough float64, lookUp func() (cache.Manifest, error)) float64 {
		n := math.Inf(1)
		for i := 0; i < 1000 && n > enough; i++ {
			n = min(n, testing.AllocsPerRun(1, func() { _, err = lookUp() }))
			must(t, err)
		}
		return n
	}
	plain := least(0, func() (cache.Manifest, error) { return r.CachedManifest(t.Context(), dgst) })
	got := least(plain, func() (cache.Manifest, error) { return n.CachedManifest(t.Context(), dgst) })
	if got > plain || len(s.rec.Started()) > 0 {
		t.Errorf("%v allocations, want %v; %d spans", got, plain, len(s.rec.Started()))
	}
}
