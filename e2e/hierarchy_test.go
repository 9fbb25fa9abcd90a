package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// hierarchy builds a hierarchy of gateways, and ends it after the test.
func hierarchy(t *testing.T, o lab.HierarchyOptions) *lab.Hierarchy {
	t.Helper()
	o.Dir, o.Binary = tempDir(t), bin.module
	h := must(lab.NewHierarchy(t.Context(), o))(t)
	t.Cleanup(func() {
		if t.Failed() {
			for i, o := range h.Origins {
				t.Logf("requests to upstream %d since the last reset:\n%v", i, &o.Ledger)
			}
		}
		err := h.Close()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(h.Tail(25))
		}
	})
	return h
}

// bottom is a device below a layer, with a client that keeps no connections.
type bottom struct {
	*lab.Bottom
	client *http.Client
	// user and password are sent with each request; empty is none.
	user, password string
}

func newBottom(t *testing.T, h *lab.Hierarchy, parent *lab.Layer) *bottom {
	t.Helper()
	return bottomOf(must(h.Bottom(t.Context(), parent, false))(t))
}

func bottomOf(b *lab.Bottom) *bottom {
	return &bottom{Bottom: b, client: &http.Client{
		Transport:     b.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// at is where its clients run.
func (b *bottom) at() lab.At {
	return lab.At{Netns: b.Netns, TLS: true, Username: b.user, Password: b.password}
}

// URL is the parent as a URL without a path.
func (b *bottom) URL() string { return "https://" + b.Parent }

// open sends a request to the parent and returns when the header of the answer is there.
func (b *bottom) open(ctx context.Context, method, target string, body io.Reader, headers ...string) (*http.Response, error) {
	req, err := request(ctx, method, b.URL()+target, headers...)
	if err != nil {
		return nil, err
	}
	if body != nil {
		with, err := http.NewRequestWithContext(ctx, method, req.URL.String(), body)
		if err != nil {
			return nil, err
		}
		req.Body, req.ContentLength, req.GetBody = with.Body, with.ContentLength, with.GetBody
	}
	if b.user != "" && req.Header.Get("Authorization") == "" {
		req.SetBasicAuth(b.user, b.password)
	}
	return b.client.Do(req)
}

// do sends a request and reads the answer.
func (b *bottom) do(t *testing.T, method, target string, body io.Reader, headers ...string) answer {
	t.Helper()
	resp := must(b.open(t.Context(), method, target, body, headers...))(t)
	defer resp.Body.Close()
	return read(resp)
}

func (b *bottom) get(t *testing.T, target string, headers ...string) answer {
	t.Helper()
	return b.do(t, http.MethodGet, target, nil, headers...)
}

// fetch reads a target to its end without keeping it, as fast as the reader that wrap
// makes of it; nil is as fast as it comes.
func (b *bottom) fetch(ctx context.Context, target string, wrap func(io.Reader) io.Reader, headers ...string) (fetched, error) {
	resp, err := b.open(ctx, http.MethodGet, target, nil, headers...)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close()
	body := io.Reader(resp.Body)
	if wrap != nil {
		body = wrap(body)
	}
	f := fetched{Status: resp.StatusCode}
	digester := digest.Canonical.Digester()
	f.Size, f.Err = io.Copy(digester.Hash(), body)
	f.Digest = digester.Digest()
	return f, nil
}

// pull pulls an image by its tag, three blobs at a time.
func (b *bottom) pull(ctx context.Context, img lab.Image) error {
	f, err := b.fetch(ctx, "/v2/"+img.Repo+"/manifests/"+img.Tag, nil)
	if err != nil {
		return err
	}
	if f.Status != http.StatusOK || f.Digest != img.Root().Digest {
		return fmt.Errorf("manifest: status %d, %s, want 200, %s", f.Status, f.Digest, img.Root().Digest)
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, 3)
	errs := make(chan error, len(img.Blobs))
	for _, blob := range img.Blobs {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			f, err := b.fetch(ctx, blobTarget(img.Repo, blob), nil)
			if err == nil {
				err = f.whole(blob)
			}
			if err != nil {
				errs <- fmt.Errorf("blob %s: %w", blob.Digest, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func blobTarget(repo string, b lab.RawBlob) string {
	return "/v2/" + repo + "/blobs/" + b.Digest.String()
}

// engines are the clients of a bottom that run images.
func (b *bottom) engines(t *testing.T) map[string]puller {
	t.Helper()
	d := must(lab.StartDockerAt(t.Context(), b.at(), tempDir(t)))(t)
	end(t, d)
	if b.user != "" {
		if err := d.Login(t.Context(), b.Parent); err != nil {
			t.Fatal(err)
		}
	}
	c := must(lab.StartContainerdAt(t.Context(), b.at(), tempDir(t)))(t)
	end(t, c)
	return map[string]puller{
		"docker": d, "containerd": c,
		"podman": must(lab.NewPodmanAt(b.at(), tempDir(t)))(t),
		"skopeo": must(lab.NewSkopeoAt(b.at(), tempDir(t)))(t),
	}
}

// once fails the test unless the upstreams together have sent each blob once, and each of
// so many manifests, some of which twice: who asks by tag and who asks by digest at the same
// time do not wait for each other. They may have been asked whether they have what another
// one has sent.
func once(t *testing.T, what string, ups []*lab.Origin, blobs []lab.RawBlob, manifests, twice int) {
	t.Helper()
	needed := int64(0)
	all := map[digest.Digest]bool{}
	for _, b := range blobs {
		if !all[b.Digest] {
			needed += b.Size
		}
		all[b.Digest] = true
	}
	var sent int64
	var gets, good, requests int
	for _, up := range ups {
		got := up.Counts()
		sent, gets, requests = sent+got.BlobBytes, gets+got.BlobGET, requests+got.Requests
		for _, r := range up.Requests() {
			if r.Kind == lab.Manifest && r.Method == http.MethodGet && r.Status == http.StatusOK {
				good++
			}
		}
		t.Logf("%s: %v", what, got)
	}
	t.Logf("%s: %d upstream requests, %d bytes of %d blobs, amplification %.4f", what, requests, sent, gets, float64(sent)/float64(needed))
	if sent != needed || gets < len(all) || good < manifests || good > manifests+twice {
		t.Errorf("%s: upstream has sent %d bytes of blobs in %d answers, and %d manifests, want %d, at least %d, %d to %d",
			what, sent, gets, good, needed, len(all), manifests, manifests+twice)
	}
}

// behindPassword are the settings of a module that wants a user's password.
func behindPassword(t *testing.T, user, password string) lab.Env {
	t.Helper()
	file := filepath.Join(tempDir(t), "htpasswd")
	if err := lab.WriteHtpasswd(file, user, password); err != nil {
		t.Fatal(err)
	}
	return lab.Env{
		"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "plant", "REGISTRY_AUTH_HTPASSWD_PATH": file,
	}
}

// TestHierarchyPulls pulls with each engine through a top and lower layers: images of
// several platforms of a private registry, of the one that has IoT Edge's own images at
// its root, and of a third one, which has to be named. The top wants a password. Each
// byte comes once from upstream, whoever pulls first.
func TestHierarchyPulls(t *testing.T) {
	for _, lower := range []int{1, 3, 5} {
		t.Run(fmt.Sprintf("%d lower layers", lower), func(t *testing.T) {
			t.Parallel()
			const user, password = "line1", "a password: with a colon"
			app := must(lab.IndexImage("line/vision", "3.4.1"))(t)
			agent := must(lab.IndexImage("azureiotedge-agent", "1.5"))(t)
			tool := must(lab.IndexImage("tools/probe", "2"))(t)
			h := hierarchy(t, lab.HierarchyOptions{
				Lower: lower, Env: behindPassword(t, user, password),
				Registries: []lab.RegistryHost{
					{Host: "plant.azurecr.io", Images: []lab.Image{app}},
					{Host: "mcr.microsoft.com", Images: []lab.Image{agent}, Env: lab.Env{"REGISTRY_PROXY_DEFAULT": "true"}},
					{Host: "quay.io", Images: []lab.Image{tool}, Env: lab.Env{"REGISTRY_PROXY_ALIAS": "extra"}},
				},
			})
			b := newBottom(t, h, h.Lowest())
			if a := b.get(t, "/v2/"); a.Status != http.StatusUnauthorized || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("GET /v2/ without a password: status %d, challenge %q, want 401, Basic", a.Status, a.Header.Get("WWW-Authenticate"))
			}
			b.user, b.password = user, password
			if a := b.get(t, "/v2/"); a.Status != http.StatusOK {
				t.Errorf("GET /v2/: status %d, want 200\n%s", a.Status, a.Body)
			}
			engines := b.engines(t)
			wanted := []lab.Image{app, agent, tool.In("quay.io/"+tool.Repo, tool.Tag), tool.In("extra/"+tool.Repo, tool.Tag)}
			var wg sync.WaitGroup
			for name, engine := range engines {
				wg.Go(func() {
					for _, img := range wanted {
						pullsAll(t, name, engine, img, b.Parent)
					}
				})
			}
			wg.Wait()
			var blobs []lab.RawBlob
			for _, img := range []lab.Image{app, agent, tool} {
				some, _ := carried(t, img)
				blobs = append(blobs, some...)
			}
			once(t, "four engines at once", h.Origins, blobs, 3*3, 3) // an index, and those of two platforms
			for _, up := range h.Origins {
				up.Reset()
			}
			// As edgeAgent pulls, and without its credentials.
			docker := engines["docker"].(*lab.Docker)
			for _, img := range wanted[:2] {
				if _, err := docker.CLI(t.Context(), "image", "rm", "--force", img.ByTag(b.Parent)); err != nil {
					t.Error(err)
				}
				if err := docker.CreateImage(t.Context(), img.ByTag(b.Parent)); err != nil {
					t.Error(err)
				}
				if digests := must(docker.HasImage(t.Context(), img.ByTag(b.Parent)))(t); !slices.Contains(digests, img.Root().Digest.String()) {
					t.Errorf("%s is %v, want %s", img.Repo, digests, img.Root().Digest)
				}
			}
			b.user = ""
			if _, err := must(lab.NewSkopeoAt(b.at(), tempDir(t)))(t).Pull(t.Context(), app.ByTag(b.Parent), ""); err == nil || !strings.Contains(err.Error(), "unauthorized") {
				t.Errorf("a pull without a password: %v, want that one is required", err)
			}
			if a := b.get(t, "/v2/"+app.Repo+"/manifests/"+app.Tag); a.Status != http.StatusUnauthorized || a.code(t) != "UNAUTHORIZED" {
				t.Errorf("without a password: status %d, want 401 UNAUTHORIZED\n%s", a.Status, a.Body)
			} else {
				t.Logf("without a password: %s", a.Body)
			}
			for i, up := range h.Origins {
				if got := up.Counts(); got.Requests != 0 {
					t.Errorf("warm: %d requests to upstream %d, want 0\n%v", got.Requests, i, up)
				}
			}
			checkStore(t, h.Top().Module)
		})
	}
}

// pullsAll pulls an image by tag, and by digest for another platform where the engine can
// have two.
func pullsAll(t *testing.T, who string, engine puller, img lab.Image, from string) {
	platform := "linux/arm64"
	if _, one := engine.(*lab.Docker); one {
		platform = "linux/amd64"
	}
	for ref, platform := range map[string]string{img.ByTag(from): "linux/amd64", img.ByDigest(from): platform} {
		digests, err := engine.Pull(t.Context(), ref, platform)
		if err != nil {
			t.Errorf("%s pulls %s for %s: %v", who, ref, platform, err)
		} else if want := img.Root().Digest.String(); !slices.Contains(digests, want) {
			t.Errorf("%s: %s is %v, want %s", who, ref, digests, want)
		}
	}
}

// decode reads a JSON body.
func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, into); err != nil {
		t.Errorf("status %d: %v\n%.300s", a.Status, err, a.Body)
	}
}
