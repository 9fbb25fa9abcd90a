package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// ownTLS has a module of a hierarchy speak TLS, too, at its port.
func ownTLS() lab.Env {
	return lab.Env{"REGISTRY_HTTP_TLS_CERTIFICATE": "server.pem", "REGISTRY_HTTP_TLS_KEY": "server.key"}
}

// direct adds a device whose parent is a layer's module itself.
func direct(t *testing.T, h *lab.Hierarchy, parent *lab.Layer) *bottom {
	t.Helper()
	return bottomOf(must(h.Bottom(t.Context(), parent, true))(t))
}

// TestHierarchyCacheBelow has a layer in the middle with a module of its own, whose remote
// is the layer above, with a password. What was pulled once is served when the cable to
// that layer is out, through the proxy of the layer and at the module's own port with TLS.
func TestHierarchyCacheBelow(t *testing.T) {
	t.Parallel()
	const user, password = "line1", "secret"
	img := must(lab.IndexImage("line/vision", "3.4.1"))(t)
	more, away := noise(t, "line/more", 4*mib, 5000), noise(t, "line/away", 5000)
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: 3, Env: behindPassword(t, user, password),
		Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Images: []lab.Image{img, more, away}}},
		Caches: map[int]lab.Env{2: merge(ownTLS(), lab.Env{
			"REGISTRY_PROXY_USERNAME": user, "REGISTRY_PROXY_PASSWORD": password,
		})},
	})
	middle := h.Layers[2]
	below, beside := newBottom(t, h, h.Lowest()), direct(t, h, middle)
	docker := must(lab.StartDockerAt(t.Context(), beside.at(), tempDir(t)))(t)
	end(t, docker)
	skopeo := must(lab.NewSkopeoAt(below.at(), tempDir(t)))(t)
	pulls := func() {
		for name, pull := range map[string]func() ([]string, error){
			"docker, at the module": func() ([]string, error) { return docker.Pull(t.Context(), img.ByTag(beside.Parent), "") },
			"skopeo, at the proxy":  func() ([]string, error) { return skopeo.Pull(t.Context(), img.ByDigest(below.Parent), "linux/arm64") },
		} {
			digests, err := pull()
			if want := img.Root().Digest.String(); err != nil || !slices.Contains(digests, want) {
				t.Errorf("%s: %v, %v, want %s", name, digests, err, want)
			}
		}
		for _, b := range []*bottom{below, beside} {
			if err := b.pull(t.Context(), more); err != nil {
				t.Errorf("at %s: %v", b.Parent, err)
			}
		}
	}
	pulls()
	blobs, _ := carried(t, img)
	once(t, "two caches", h.Origins, append(blobs, more.Blobs...), 3+1, 1)
	for i, l := range []*lab.Layer{h.Top(), middle} {
		for _, img := range []lab.Image{more} {
			eventually(t, "it is stored at each layer", func() bool { return allStored(l.Module, img) })
		}
		t.Logf("module %d:", i)
		checkStore(t, l.Module)
	}

	top := len(moduleRequests(t, h.Top().Module))
	h.Origins[0].Reset()
	if err := middle.Unplug(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := docker.CLI(t.Context(), "image", "rm", "--force", img.ByTag(beside.Parent)); err != nil {
		t.Error(err)
	}
	start := time.Now()
	pulls()
	t.Logf("pulls with the cable out took %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	a := below.get(t, "/v2/"+away.Repo+"/manifests/"+away.Tag)
	took := time.Since(start)
	t.Logf("what is not there is refused after %v: %s", took.Round(time.Millisecond), a.Body)
	if a.Status != http.StatusServiceUnavailable || a.code(t) != "UNAVAILABLE" || took > 20*time.Second {
		t.Errorf("what is not there: status %d after %v, want 503 within 20 s\n%s", a.Status, took, a.Body)
	}
	if got, now := h.Origins[0].Counts(), len(moduleRequests(t, h.Top().Module)); got.Requests != 0 || now != top {
		t.Errorf("%d requests to upstream, %d to the top, want none", got.Requests, now-top)
	}
	if err := middle.Unplug(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	eventually(t, "it is fetched again", func() bool { return below.pull(t.Context(), away) == nil })
	t.Logf("pulls of what is not there succeed again after %v", time.Since(start).Round(time.Millisecond))
}

// TestHierarchyModuleCertificate renews the certificate of the module in the middle of a
// pull at its own port. The pull goes on, and so do those by plain HTTP, which come from
// the proxy.
func TestHierarchyModuleCertificate(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/renewed", sized[int64](40*mib, 400*mib), mib)
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: 1, Env: ownTLS(),
		Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Images: []lab.Image{img}, Link: &lab.Link{Rate: sized[int64](8e6, 20e6)}}},
	})
	up := h.Origins[0]
	beside, below := direct(t, h, h.Top()), newBottom(t, h, h.Lowest())
	pulled := make(chan error, 2)
	for _, b := range []*bottom{beside, below} {
		go func() { pulled <- b.pull(t.Context(), img) }()
	}
	passed(t, up, img.Size()/4)
	start := time.Now()
	if err := h.Top().RenewModule(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the new certificate is shown %v after it was written, when upstream had sent %d of %d bytes",
		time.Since(start).Round(time.Millisecond), up.Counts().BlobBytes, img.Size())
	if got := up.Counts().BlobBytes; got >= img.Size() {
		t.Errorf("upstream had sent %d bytes by then: that was no renewal in mid-pull", got)
	}
	for range 2 {
		if err := <-pulled; err != nil {
			t.Error(err)
		}
	}
	once(t, "a certificate renewed", h.Origins, img.Blobs, 1, 0)
}

// certified is a device beside the module that shows a certificate.
func certified(b *bottom, cert *lab.Issued) *bottom {
	with := *b
	transport := b.Transport()
	if cert != nil {
		transport.TLSClientConfig.Certificates = []tls.Certificate{cert.TLS()}
	}
	with.client = &http.Client{Transport: transport}
	return &with
}

// TestHierarchyClientCertificates has a module that wants certificates of its clients: one
// that is expired, one that was revoked, while the module runs, and one of nobody's
// authority are refused, and there is no way around by plain HTTP.
func TestHierarchyClientCertificates(t *testing.T) {
	t.Parallel()
	img := noise(t, "line/app", 5000, 100<<10)
	for name, tt := range map[string]struct {
		mode lab.Env
		// plain is the status of what comes by plain HTTP, through the proxy.
		plain int
		// none is whether a client without a certificate is served.
		none bool
	}{
		"required":        {nil, http.StatusBadRequest, false},
		"where it is had": {lab.Env{"REGISTRY_HTTP_TLS_CLIENTAUTH": "verify-client-cert-if-given"}, http.StatusOK, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hierarchy(t, lab.HierarchyOptions{
				Lower: 1, Env: merge(ownTLS(), lab.Env{
					"REGISTRY_HTTP_TLS_CLIENTCAS": "[root.pem, edge.pem]", "REGISTRY_ACCESS_CRLS": "[revoked.pem]",
				}, tt.mode),
				Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Images: []lab.Image{img}}},
			})
			top := h.Top()
			other := must(must(lab.NewAuthority())(t).Sub("nobody's"))(t)
			leaf := func(by *lab.Authority, from time.Time) *lab.Issued {
				return must(by.Issue(lab.Leaf{CommonName: "press-1", Client: true, From: from}))(t)
			}
			good, another := leaf(top.Authority, time.Time{}), leaf(top.Authority, time.Time{})
			expired, foreign := leaf(top.Authority, time.Now().Add(-91*24*time.Hour)), leaf(other, time.Time{})
			beside := direct(t, h, top)
			manifest := "/v2/" + img.Repo + "/manifests/" + img.Tag
			serves := func(who string, cert *lab.Issued, want bool) {
				t.Helper()
				b := certified(beside, cert)
				err := b.pull(t.Context(), img)
				if want && err != nil {
					t.Errorf("%s: %v", who, err)
				} else if !want && err == nil {
					t.Errorf("%s is served", who)
				} else if err != nil {
					t.Logf("%s: %v", who, err)
				}
			}
			serves("one with a certificate", good, true)
			serves("another one", another, true)
			serves("one without", nil, tt.none)
			serves("an expired one", expired, false)
			serves("one of nobody's authority", foreign, false)

			if err := top.Revoke(another); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			eventually(t, "the revoked one is refused", func() bool {
				resp, err := certified(beside, another).open(t.Context(), http.MethodGet, "/v2/", nil)
				if err == nil {
					resp.Body.Close()
				}
				return err != nil
			})
			t.Logf("a revoked certificate is refused %v after the list was written", time.Since(start).Round(time.Millisecond))
			serves("one that is not on the list", good, true)

			// Engines.
			docker := must(lab.StartDockerAt(t.Context(), beside.at(), tempDir(t)))(t)
			end(t, docker)
			_, err := docker.Pull(t.Context(), img.ByTag(beside.Parent), "")
			if (err == nil) != tt.none {
				t.Errorf("docker without a certificate: %v, want it served: %v", err, tt.none)
			}
			skopeo, certs := must(lab.NewSkopeoAt(beside.at(), tempDir(t)))(t), tempDir(t)
			if err := good.Write(filepath.Join(certs, "client.cert"), filepath.Join(certs, "client.key")); err != nil {
				t.Fatal(err)
			}
			if out, err := skopeo.CLI(t.Context(), "inspect", "--raw", "--cert-dir", certs, "docker://"+img.ByTag(beside.Parent)); err != nil || out != string(img.Root().Bytes) {
				t.Errorf("skopeo with a certificate: %v\n%s", err, out)
			}

			below := newBottom(t, h, h.Lowest())
			a := below.get(t, manifest)
			if a.Status != tt.plain {
				t.Errorf("plain HTTP: status %d, want %d\n%s", a.Status, tt.plain, a.Body)
			}
			t.Logf("plain HTTP: status %d, %.200s", a.Status, a.Body)
			once(t, name, h.Origins, img.Blobs, 1, 0)
			if log := string(must(os.ReadFile(top.Module.Log()))(t)); !strings.Contains(log, "certificate") {
				t.Error("the log says nothing of the certificates that were refused")
			}
		})
	}
}

// TestHierarchyCrowd has 10,000 connections that are idle, 1,000 that have sent half of a
// request, and some that send a header byte by byte, at the module's port, by plain HTTP
// and TLS. Pulls go on, through the proxies and directly, and memory is bounded.
func TestHierarchyCrowd(t *testing.T) {
	t.Parallel()
	idle, halves, slow := sized(3000, 10_000), sized(500, 1000), 100
	img := noise(t, "line/crowd", 8*mib, mib, 100<<10)
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: 1, Env: ownTLS(),
		Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Images: []lab.Image{img}}},
	})
	m := h.Top().Module
	crowd, beside, below := direct(t, h, h.Top()), direct(t, h, h.Top()), newBottom(t, h, h.Lowest())
	if err := below.pull(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	if err := m.ResetPeak(); err != nil {
		t.Fatal(err)
	}
	before := must(m.Usage())(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pulled, failed := 0, make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			for _, b := range []*bottom{below, beside} {
				if err := b.pull(context.WithoutCancel(ctx), img); err != nil {
					failed <- err
					return
				}
				pulled++
			}
		}
		failed <- nil
	}()
	config := crowd.Transport().TLSClientConfig
	config.ServerName, _, _ = strings.Cut(crowd.Parent, ":")
	half := "GET /v2/" + img.Repo + "/manifests/" + img.Tag + " HTTP/1.1\r\nHost: registry:8000\r\nX-Long: " + strings.Repeat("x", 4000)
	start := time.Now()
	for i := range idle + halves + slow {
		conn, err := crowd.DialName(t.Context(), "tcp", crowd.Parent)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
		switch {
		case i < halves:
			_, _ = io.WriteString(conn, half) // who is cut off is no matter
		case i < halves+slow:
			go func() {
				line := half
				every(ctx, 50*time.Millisecond, func() bool {
					_, err := io.WriteString(conn, line[:1])
					line = line[1:]
					return err == nil && line != ""
				})
			}()
		case i%10 == 0:
			go func() { _ = tls.Client(conn, config).HandshakeContext(ctx) }()
		}
	}
	held := time.Since(start)
	most := int64(0)
	watch, stop := context.WithTimeout(t.Context(), sized(3*time.Second, 30*time.Second))
	defer stop()
	every(watch, 20*time.Millisecond, func() bool { most = max(most, must(m.Usage())(t).RSS); return true })
	pings := make([]time.Duration, 20)
	for i := range pings {
		start := time.Now()
		if a := below.get(t, "/v2/"); a.Status != http.StatusOK {
			t.Errorf("GET /v2/: status %d", a.Status)
		}
		pings[i] = time.Since(start)
	}
	cancel()
	if err := <-failed; err != nil {
		t.Errorf("a pull beside the crowd: %v", err)
	}
	after := must(m.Usage())(t)
	t.Logf("%d idle, %d halves, %d slow connections in %v: %d pulls beside them; GET /v2/ p50 %v, max %v; RSS %.1f MiB before, peak %.1f MiB, after %.1f MiB",
		idle, halves, slow, held.Round(time.Millisecond), pulled, quantile(pings, 0.5).Round(time.Millisecond), slices.Max(pings).Round(time.Millisecond),
		float64(before.RSS)/mib, float64(after.PeakRSS)/mib, float64(after.RSS)/mib)
	if pulled < 2 {
		t.Errorf("%d pulls beside the crowd", pulled)
	}
	if growth := after.PeakRSS - before.RSS; growth > 200*mib {
		t.Errorf("memory has grown by %d bytes, want at most 200 MiB", growth)
	}
}

// TestHierarchyRuntime has modules of two layers that get from the IoT Edge runtime what
// they need of the site: the one below finds the one above by the name that it has there,
// and trusts it by the trust bundle, and both show certificates of the workload API, which
// are renewed in the middle of a pull, every few seconds.
func TestHierarchyRuntime(t *testing.T) {
	t.Parallel()
	const life = 9 * time.Second
	img := noise(t, "line/runtime", sized[int64](48*mib, 400*mib), mib)
	served := lab.Env{"REGISTRY_IOTEDGE_SERVERCERTIFICATE": "true"}
	h := hierarchy(t, lab.HierarchyOptions{
		Lower: 2, Runtime: true, CertificateLife: life, Env: served,
		Caches: map[int]lab.Env{2: merge(served, lab.Env{
			"REGISTRY_PROXY_REMOTEURL": "https://$upstream:8000", "REGISTRY_LOG_FORMATTER": "iotedge",
		})},
		Registries: []lab.RegistryHost{{Host: "plant.azurecr.io", Images: []lab.Image{img}, Link: &lab.Link{Rate: sized[int64](6e6, 20e6)}}},
	})
	low := h.Lowest()
	beside, below := direct(t, h, low), newBottom(t, h, low)
	serials := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		every(ctx, 250*time.Millisecond, func() bool {
			serial, err := low.Shown(ctx)
			if err != nil && ctx.Err() == nil {
				t.Errorf("the module at its port: %v", err)
			}
			serials[serial] = true
			return true
		})
	}()
	pulled := make(chan error, 2)
	for _, b := range []*bottom{beside, below} {
		go func() { pulled <- b.pull(t.Context(), img) }()
	}
	for range 2 {
		if err := <-pulled; err != nil {
			t.Error(err)
		}
	}
	cancel()
	<-watched
	delete(serials, "")
	once(t, "certificates of the workload API", h.Origins, img.Blobs, 1, 0)
	asked := map[string]int{}
	for _, r := range low.Workload.Requests() {
		target, _, _ := strings.Cut(r.URI, "?")
		asked[r.Method+" "+filepath.Base(target)]++
	}
	t.Logf("%d certificates seen in a pull; the workload API was asked for %v", len(serials), asked)
	if len(serials) < 2 || asked["GET trust-bundle"] == 0 {
		t.Errorf("%d certificates seen, the API was asked for %v: want a renewal in mid-pull, and the trust bundle", len(serials), asked)
	}
	skopeo := must(lab.NewSkopeoAt(beside.at(), tempDir(t)))(t)
	digests, err := skopeo.Pull(t.Context(), img.ByTag(beside.Parent), "")
	if want := img.Root().Digest.String(); err != nil || !slices.Contains(digests, want) {
		t.Errorf("skopeo has %v, %v, want %s", digests, err, want)
	}
}
