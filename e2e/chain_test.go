package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// remoteURL are the settings of a module with one remote.
func remoteURL(s interface{ URL() string }) lab.Env {
	return lab.Env{"REGISTRY_PROXY_REMOTEURL": s.URL()}
}

// firstByte fetches a blob, and returns how long its first byte took.
func firstByte(t *testing.T, url string, want lab.RawBlob) time.Duration {
	t.Helper()
	start := time.Now()
	resp := open(t, t.Context(), http.MethodGet, url)
	defer resp.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	took := time.Since(start)
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n+1 != want.Size {
		t.Errorf("%d bytes, %v, want %d", n+1, err, want.Size)
	}
	return took
}

// TestChain pulls through ten modules, each of which is the remote of the next.
func TestChain(t *testing.T) {
	t.Parallel()
	const hops = 10
	img := noise(t, "chain/app", 8<<20, 1<<20, 100<<10, 1000, 0)
	probe := noise(t, "chain/probe", 4<<20)
	up := origin(t, lab.OriginOptions{}, img, probe)
	var chain []*lab.Server // from the top down
	// Gateways between them count what crosses each hop.
	var between []*lab.Ledger
	above := interface{ URL() string }(up)
	for range hops {
		m := module(t, remoteURL(above))
		crossed := new(lab.Ledger)
		g := must(lab.NewGateway(crossed.Record("", lab.Forward(m.Addr))))(t)
		t.Cleanup(func() {
			if err := g.Down(); err != nil {
				t.Error(err)
			}
		})
		chain, between, above = append(chain, m), append(between, crossed), g
	}
	bottom := chain[hops-1]

	crane := lab.CraneClient{Client: lab.NewClient(tempDir(t), bin.crane)}
	digests := must(crane.Pull(t.Context(), img.ByTag(bottom.Addr), ""))(t)
	if want := img.Root().Digest.String(); !slices.Contains(digests, want) {
		t.Errorf("the client has %v, want %s", digests, want)
	}
	for hop, crossed := range append([]*lab.Ledger{&up.Ledger}, between[:hops-1]...) {
		// What the remote of module hop has sent to it.
		if got := crossed.Counts(); got.BlobBytes != img.Size() || got.BlobGET != len(img.Blobs) {
			t.Errorf("hop %d: %v\nwant %d blobs, %d bytes\n%v", hop, got, len(img.Blobs), img.Size(), crossed)
		}
		counted := must(chain[hop].MetricSum(t.Context(), "registry_module_upstream_bytes_total"))(t)
		if most := img.Size() + 2*int64(len(img.Root().Bytes)); int64(counted) < img.Size() || int64(counted) > most {
			t.Errorf("hop %d: the module has counted %.0f bytes, want %d to %d", hop, counted, img.Size(), most)
		}
	}
	wholeImage(t, bottom, way{}, img)
	for _, m := range chain {
		checkStore(t, m)
	}

	// Who a request has passed says each hop to the next one.
	for hop, crossed := range append([]*lab.Ledger{&up.Ledger}, between[:hops-1]...) {
		longest := 0
		for _, r := range crossed.Requests() {
			if via := r.Header.Get("Via"); via != "" {
				longest = max(longest, len(strings.Split(via, ",")))
			}
		}
		if longest != hops-hop {
			t.Errorf("hop %d: Via names %d modules, want %d\n%v", hop, longest, hops-hop, crossed)
		}
	}

	layer := probe.Blobs[0]
	direct := firstByte(t, blobURL(up, probe.Repo, layer.Digest), layer)
	cold := firstByte(t, blobURL(bottom, probe.Repo, layer.Digest), layer)
	t.Logf("first byte of a cold blob: %v through %d modules, %v directly; %v is the aim",
		cold.Round(10*time.Microsecond), hops, direct.Round(10*time.Microsecond), hops*50*time.Millisecond)
}

// loop starts modules each of which has the one before as its remote, and the first
// one the last. Between two of them there is what between returns.
func loop(t *testing.T, n int, between func(addr string) string) []*lab.Server {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		addrs[i] = must(lab.FreeAddr())(t)
	}
	modules := make([]*lab.Server, n)
	for i := range modules {
		modules[i] = module(t, lab.Env{
			"REGISTRY_HTTP_ADDR":       addrs[i],
			"REGISTRY_PROXY_REMOTEURL": "http://" + between(addrs[(i+n-1)%n]),
		})
	}
	return modules
}

// TestLoop has modules that are each other's remotes, alone, in a circle, and behind
// proxies. What is asked for is refused soon, and nothing goes round.
func TestLoop(t *testing.T) {
	direct := func(addr string) string { return addr }
	for name, tt := range map[string]struct {
		modules int
		between func(t *testing.T) func(addr string) string
	}{
		"one":   {1, func(*testing.T) func(string) string { return direct }},
		"two":   {2, func(*testing.T) func(string) string { return direct }},
		"three": {3, func(*testing.T) func(string) string { return direct }},
		"three, proxies": {3, func(t *testing.T) func(string) string {
			return func(addr string) string {
				g := must(lab.NewGateway(lab.Forward(addr)))(t)
				t.Cleanup(func() {
					if err := g.Down(); err != nil {
						t.Error(err)
					}
				})
				return g.Addr
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refusesLoop(t, loop(t, tt.modules, tt.between(t)))
		})
	}
	// nginx wants to see that it answers, which it does when the module behind it is
	// there: the loop is closed by a gateway that has its target later.
	t.Run("three, nginx", func(t *testing.T) {
		t.Parallel()
		var last string
		g := must(lab.NewGateway(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			lab.Forward(last).ServeHTTP(w, r)
		})))(t)
		t.Cleanup(func() {
			if err := g.Down(); err != nil {
				t.Error(err)
			}
		})
		var modules []*lab.Server
		above := g.URL()
		for range 3 {
			m := module(t, lab.Env{"REGISTRY_PROXY_REMOTEURL": above})
			p, url, err := lab.StartNginx(t.Context(), tempDir(t), lab.NginxProxy(m.Addr))
			if err != nil {
				t.Fatal(err)
			}
			end(t, p)
			modules, above = append(modules, m), url
		}
		last = strings.TrimPrefix(above, "http://") // before the first request
		refusesLoop(t, modules)
	})
}

// refusesLoop asks each of the modules for something.
func refusesLoop(t *testing.T, modules []*lab.Server) {
	t.Helper()
	asked := func() (n float64) {
		for _, m := range modules {
			n += must(m.MetricSum(t.Context(), "registry_module_upstream_requests_total"))(t)
		}
		return n
	}
	goroutines := func() (n float64) {
		for _, m := range modules {
			n += must(m.Metric(t.Context(), "go_goroutines"))(t)
		}
		return n
	}
	idle := goroutines()
	dgst := lab.BytesBlob([]byte("nobody has this")).Digest
	for i, m := range modules {
		repo := fmt.Sprint("loop/app", i)
		for _, url := range []string{manifestURL(m, repo, "1.0"), manifestURL(m, repo, dgst.String()), blobURL(m, repo, dgst)} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				resp, err := client().Do(must(request(ctx, method, url))(t))
				if err != nil {
					cancel()
					t.Fatalf("%s %s: %v", method, url, err)
				}
				a := read(resp)
				resp.Body.Close()
				cancel()
				took := time.Since(start)
				if a.Status != http.StatusLoopDetected {
					t.Errorf("%s %s: status %d, want 508\n%s", method, url, a.Status, a.Body)
				}
				if method == http.MethodHead {
					continue
				}
				if code := a.code(t); code != "UNAVAILABLE" {
					t.Errorf("%s: code %s, want UNAVAILABLE\n%s", url, code, a.Body)
				}
				message := loopMessage(t, a)
				t.Logf("refused after %v: %d bytes of explanation", took.Round(10*time.Microsecond), len(message))
				if names := namesOf(message); len(names) != len(modules) {
					t.Errorf("the message names %q, want each of %d modules\n%s", names, len(modules), message)
				}
			}
		}
	}
	// Each went round once: trying again helps against outages, not against loops.
	const each = 6
	got, want := asked(), float64(len(modules)*each*len(modules))
	t.Logf("%.0f requests to remotes", got)
	if got > want {
		t.Errorf("%.0f requests to remotes, want %.0f at the most", got, want)
	}
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "the modules have nothing more to do", func() bool {
		// A few connections to each other are kept.
		return goroutines() <= idle+float64(12*len(modules))
	})
	before := asked()
	timer := time.NewTimer(300 * time.Millisecond)
	<-timer.C
	if after := asked(); after != before {
		t.Errorf("%.0f requests to remotes while nobody asks", after-before)
	}
}

// loopMessage is the message of the refusal.
func loopMessage(t *testing.T, a answer) string {
	t.Helper()
	var body struct{ Errors []struct{ Message string } }
	if err := json.Unmarshal(a.Body, &body); err != nil || len(body.Errors) == 0 {
		t.Fatalf("%v\n%s", err, a.Body)
	}
	return body.Errors[0].Message
}

// namesOf are the modules that a message names, each once, in any order.
func namesOf(message string) []string {
	names := regexp.MustCompile(`registry-module-[a-z0-9]+`).FindAllString(message, -1)
	slices.Sort(names)
	return slices.Compact(names)
}

// TestLayers has a module behind two more, the uppermost of which has two remotes.
func TestLayers(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	top := module(t, w.settings("a first"))
	middle := module(t, remoteURL(top))
	low := module(t, remoteURL(middle))
	for _, what := range []string{"cold", "warm"} {
		wholeImage(t, low, way{alias: "a"}, w.appA)
		wholeImage(t, low, way{alias: "b"}, w.appB)
		wholeImage(t, low, way{}, w.appA)
		if what == "warm" {
			untouched(t, what, w.a, w.b)
		}
		w.a.Reset()
		w.b.Reset()
	}
	// By the same names, where there is more than a root name to ask for.
	refused(t, "absent", way{alias: "b"}.manifest(low, "no/such", "1.0"), http.StatusNotFound, "MANIFEST_UNKNOWN")
	takeDown(t, w.b)
	refused(t, "away", way{alias: "b"}.manifest(low, w.appB.Repo, "2.0"), http.StatusServiceUnavailable, "UNAVAILABLE")
	wholeImage(t, low, way{alias: "b"}, w.appB)
}

// TestNamespaces has a lower module that knows that the one above serves other
// registries, as path components.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	// The stand-in for quay.io: an alias is any path component.
	top := module(t, inFrontOf(called("hub", true, w.a), called("quay.io", false, w.b)))
	low := module(t, remoteURL(top), lab.Env{"REGISTRY_PROXY_NAMESPACES": "[quay.io]"})
	for range 2 {
		wholeImage(t, low, way{ns: "quay.io"}, w.appB)
		wholeImage(t, low, way{alias: "quay.io"}, w.appB)
		wholeImage(t, low, way{}, w.appA)
	}
	w.a.Reset()
	w.b.Reset()
	refused(t, "no namespace", way{ns: "ghcr.io"}.manifest(low, w.appB.Repo, w.appB.Tag), http.StatusNotFound, "NAME_UNKNOWN")
	refused(t, "absent", way{ns: "quay.io"}.manifest(low, "no/such", "1.0"), http.StatusNotFound, "MANIFEST_UNKNOWN")
	untouched(t, "quay.io", w.a)
}

// TestStockBetween has the stock registry in proxy mode as a remote, behind which
// there is an upstream, or another module.
func TestStockBetween(t *testing.T) {
	t.Parallel()
	img := sample(t, lab.OCIIndex)
	up := upstream(t, lab.UpstreamOptions{}, img)
	top := module(t, up.Env())
	crane := lab.NewClient(tempDir(t), bin.crane)
	for name, above := range map[string]interface{ URL() string }{"upstream": up, "module": top} {
		between := stock(t, remoteURL(above))
		low := module(t, remoteURL(between))
		up.Reset()
		if out, err := crane.CLI(t.Context(), "validate", "--remote", img.ByTag(low.Addr)); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		wholeImage(t, low, way{}, img)
		if got := up.Counts(); got.BlobBytes > img.Size() {
			t.Errorf("%s: %d bytes of blobs were fetched, want %d at the most\n%v", name, got.BlobBytes, img.Size(), up)
		}
		up.Reset()
		wholeImage(t, low, way{}, img)
		requests(t, up, "warm", 0)
	}
}
