package lab_test

import (
	"io"
	"net/http"
	"testing"

	"registry-module/e2e/lab"
)

// TestUpstream pushes all samples to each kind of upstream, and counts what a
// client fetches.
func TestUpstream(t *testing.T) {
	registry, err := lab.StockRegistry().Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	samples, err := lab.Samples()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]lab.UpstreamOptions{
		"anonymous": {},
		"basic":     {Auth: lab.Basic},
		"bearer":    {Auth: lab.Bearer},
		"identity":  {Auth: lab.Identity},
		"redirects": {Redirect: http.StatusTemporaryRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			o.Dir, o.Registry = t.TempDir(), registry
			up, err := lab.StartUpstream(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := up.Stop(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Log(up.Registry.Tail(50))
				}
			}()
			if err := up.Push(t.Context(), samples...); err != nil {
				t.Fatal(err)
			}
			if n := up.Counts().Requests; n != 0 {
				t.Errorf("pushing past the gateway counted %d requests", n)
			}
			if o.Auth != lab.Anonymous {
				return
			}
			up.Reset()
			blob := samples[0].Blobs[0]
			resp, err := http.Get(up.URL() + "/v2/" + samples[0].Repo + "/blobs/" + blob.Digest.String())
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			want := lab.Counts{Requests: 1, BlobGET: 1, BlobBytes: blob.Size}
			if o.Redirect != 0 {
				want.Requests, want.Signed = 2, 1
			}
			if got := up.Counts(); got != want {
				t.Errorf("counted %v\n  want %v\n%v", got, want, up)
			}
		})
	}
}
