package e2e

import (
	"net/http"
	"slices"
	"testing"

	"registry-module/e2e/lab"
)

// site is a registry that is known by its host, as those in the internet are.
type site struct {
	lab.Ledger
	lab.Content
}

// internet is an HTTP proxy behind which there are sites, by their hosts, and
// nothing else.
func internet(t *testing.T, sites map[string]*site) *lab.Gateway {
	t.Helper()
	handlers := map[string]http.Handler{}
	for host, s := range sites {
		handlers[host] = s.Record("", &s.Content)
	}
	g := must(lab.NewGateway(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := handlers[r.Host]
		if h == nil {
			t.Errorf("the proxy was asked for %s %s", r.Method, r.RequestURI)
			h = http.NotFoundHandler()
		}
		h.ServeHTTP(w, r)
	})))(t)
	t.Cleanup(func() {
		if err := g.Down(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// TestHostNames has remotes that are called as in the internet. Those names work in
// paths and in namespaces, Docker Hub by each of the names it has, and root names
// without a word beside them.
func TestHostNames(t *testing.T) {
	t.Parallel()
	const hubHost, mcrHost = "registry-1.docker.io", "mcr.microsoft.com"
	alpine := app(t, "alpine").In("library/alpine", "3.20")
	owned := app(t, "owned").In("team/app", "1.0")
	agent := app(t, "agent").In("azureiotedge-agent", "1.5")
	deep := app(t, "deep").In("dotnet/runtime/deps", "9.0")
	hub, mcr := new(site), new(site)
	hub.Add(alpine, owned)
	mcr.Add(agent, deep)
	proxy := lab.Env{"REGISTRY_PROXY_HTTPPROXY": internet(t, map[string]*site{hubHost: hub, mcrHost: mcr}).URL()}
	m := module(t, inFrontOf(
		merge(lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://docker.io"}, proxy),
		merge(lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://" + mcrHost, "REGISTRY_PROXY_DEFAULT": "true"}, proxy),
	))

	// Before by default, so that each is fetched by a way that names the remote.
	for _, by := range []way{{alias: mcrHost}, {ns: mcrHost}} {
		wholeImage(t, m, by, agent)
		wholeImage(t, m, by, deep)
	}
	if n := hub.Counts().Requests; n != 0 {
		t.Errorf("Docker Hub got %d requests that are not for it\n%v", n, &hub.Ledger)
	}
	mcr.Reset()
	short := alpine.In("alpine", alpine.Tag)
	for _, name := range []string{"docker.io", hubHost, "index.docker.io"} {
		for _, by := range []way{{alias: name}, {ns: name}} {
			for _, img := range []lab.Image{short, alpine, owned} {
				wholeImage(t, m, by, img)
			}
		}
	}
	if n := mcr.Counts().Requests; n != 0 {
		t.Errorf("%s got %d requests that are not for it\n%v", mcrHost, n, &mcr.Ledger)
	}
	for _, img := range []lab.Image{short, alpine, owned, agent, deep} {
		wholeImage(t, m, way{}, img)
	}
	// Each once, under whichever name.
	want := alpine.Size() + owned.Size()
	if got := hub.Counts().BlobBytes; got != want {
		t.Errorf("Docker Hub sent %d bytes of blobs, want %d\n%v", got, want, &hub.Ledger)
	}

	c := must(lab.StartContainerd(t.Context(), tempDir(t)))(t)
	end(t, c)
	p := must(lab.NewPodman(tempDir(t)))(t)
	for host, location := range map[string]string{"docker.io": m.Addr, mcrHost: m.Addr + "/" + mcrHost} {
		if err := c.Mirror(host, m.URL()); err != nil {
			t.Fatal(err)
		}
		if err := p.Mirror(host, location); err != nil {
			t.Fatal(err)
		}
	}
	for ref, img := range map[string]lab.Image{
		alpine.ByTag("docker.io"): alpine, owned.ByTag("docker.io"): owned,
		agent.ByTag(mcrHost): agent, deep.ByTag(mcrHost): deep,
	} {
		for name, client := range map[string]puller{"containerd": c, "podman": p} {
			digests, err := client.Pull(t.Context(), ref, "linux/amd64")
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if want := img.Root().Digest.String(); !slices.Contains(digests, want) {
				t.Errorf("%s: %s is %v, want %s", name, ref, digests, want)
			}
		}
	}
}
