package lab_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// serve starts a gateway whose answer to all is the text.
func serve(t *testing.T, text string, always ...lab.Middleware) *lab.Gateway {
	t.Helper()
	g, err := lab.NewGateway(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, text)
	}), always...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Down(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const dgst = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestFlipByte(t *testing.T) {
	g := serve(t, "abc")
	g.Use(lab.FlipByte(lab.ForDigest(dgst), 1))
	if got := body(t, g.URL()+"/v2/a/blobs/"+dgst); got != "a\x9dc" {
		t.Errorf("%q, want the byte in the middle flipped", got)
	}
	if got := body(t, g.URL()+"/v2/a/manifests/1"); got != "abc" {
		t.Errorf("%q of what does not match", got)
	}
	g.Use()
	if got := body(t, g.URL()+"/v2/a/blobs/"+dgst); got != "abc" {
		t.Errorf("%q after healing", got)
	}
}

func TestGate(t *testing.T) {
	g := serve(t, "0123456789")
	gate := lab.NewGate(lab.ForDigest(dgst), 4)
	g.Use(gate.Middleware)
	resp, err := http.Get(g.URL() + "/v2/a/blobs/" + dgst)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	gate.Open()
	rest, err := io.ReadAll(resp.Body)
	if got := string(first) + "|" + string(rest); err != nil || got != "0123|456789" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDownAndUp(t *testing.T) {
	g := serve(t, "here")
	if err := g.Down(); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.Get(g.URL()); err == nil {
		resp.Body.Close()
		t.Error("it answers while it is down")
	}
	if err := g.Up(); err != nil {
		t.Fatal(err)
	}
	if got := body(t, g.URL()); got != "here" {
		t.Errorf("%q", got)
	}
}

func TestLinkRate(t *testing.T) {
	// A tenth of a second for 1 MB at 10 MB/s. The machine may be slower, the
	// line must not be faster.
	link := &lab.Link{Rate: 10e6, Latency: 20 * time.Millisecond}
	g := serve(t, strings.Repeat("x", 1e6), link.Middleware)
	start := time.Now()
	if n := len(body(t, g.URL())); n != 1e6 {
		t.Errorf("%d bytes", n)
	}
	if took := time.Since(start); took < 115*time.Millisecond {
		t.Errorf("took %v, want at least 120 ms but for the slack", took)
	}
}

func TestKindOf(t *testing.T) {
	for path, want := range map[string]lab.Kind{
		"/v2/":                              lab.Ping,
		"/v2/_catalog":                      lab.Catalog,
		"/v2/a/b/manifests/1.0":             lab.Manifest,
		"/v2/a/manifests/blobs/" + dgst:     lab.Blob,
		"/v2/a/blobs/uploads/":              lab.Other,
		"/v2/a/tags/list":                   lab.Tags,
		"/v2/a/referrers/" + dgst:           lab.Referrers,
		"/v2/manifests/manifests/manifests": lab.Manifest,
		"/":                                 lab.Other,
	} {
		if got := lab.KindOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
