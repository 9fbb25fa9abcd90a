package upstream_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/internal/via"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

func TestVia(t *testing.T) {
	for name, tt := range map[string]struct {
		name  string
		chain []string
		want  []string // the header's values
	}{
		"first":      {"me", nil, []string{"1.1 me"}},
		"third":      {"me", []string{"a", "b:8000"}, []string{"1.1 a, 1.1 b:8000, 1.1 me"}},
		"nameless":   {"", []string{"a"}, nil},
		"twice here": {"me", []string{"me"}, []string{"1.1 me, 1.1 me"}},
	} {
		t.Run(name, func(t *testing.T) {
			reg, img := sample(t)
			reg.SetAuth(ut.Auth{Scheme: "Bearer", Username: "me", Password: "secret"})
			reg.SetRedirect(true)
			r := newRemote(t, upstream.Options{URL: reg.URL(), Name: tt.name, Credentials: auth.Static("me", "secret")})
			ctx := via.With(t.Context(), tt.chain)
			if _, err := r.Manifest(ctx, "a/b", "v1"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Resolve(ctx, "a/b", "v1", ""); err != nil {
				t.Error(err)
			}
			if _, err := r.StatBlob(ctx, "a/b", img.Config); err != nil {
				t.Error(err)
			}
			if _, _, err := r.Tags(ctx, "a/b", 0, ""); err != nil {
				t.Error(err)
			}
			stream, err := r.Blob(ctx, "a/b", img.Layers[0], cache.BlobPart{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readBlob(t, stream); err != nil {
				t.Error(err)
			}
			for _, req := range reg.Log() {
				want := tt.want
				if req.Kind == ut.Token || req.Kind == ut.CDNGet || req.Kind == ut.CDNHead {
					want = nil // they are other hosts
				}
				if got := req.Header.Values("Via"); strings.Join(got, "|") != strings.Join(want, "|") {
					t.Errorf("%s has Via %q, want %q", req.Kind, got, want)
				}
			}
			wantRequests(t, reg, map[ut.Kind]int{
				ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1, ut.ManifestHead: 1, ut.BlobHead: 1, ut.Tags: 1, ut.BlobGet: 1, ut.CDNGet: 1, ut.CDNHead: 1,
			})
		})
	}
}

// TestLoop has a remote that finds itself in the chain.
func TestLoop(t *testing.T) {
	for name, kinds := range map[string][]ut.Kind{"content": {ut.ManifestGet}, "ping": {ut.Ping}} {
		t.Run(name, func(t *testing.T) {
			reg, _ := sample(t)
			reg.Script(ut.Fault{
				Kinds: kinds, Match: func(req ut.Request) bool { return strings.Contains(req.Header.Get("Via"), "b") },
				Status: http.StatusLoopDetected, Body: []byte(`{"errors":[{"code":"UNSUPPORTED","message":"a, b and a ask each other"}]}`),
			})
			r := newRemote(t, upstream.Options{URL: reg.URL(), Name: "a"})
			_, err := r.Manifest(via.With(context.Background(), []string{"a", "b"}), "a/b", "v1")
			e := wantKind(t, err, cache.ErrLoop)
			if e.Status != http.StatusLoopDetected || !strings.Contains(err.Error(), "a, b and a ask each other") {
				t.Errorf("error is %v", err)
			}
			// It is a matter of who asks.
			get(t, r, "a/b", "v1")
		})
	}
}
