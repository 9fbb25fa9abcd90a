package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// engineAddr and outsideAddr are the ends of the cable between the machine of an engine
// and the world outside.
const (
	engineAddr  = "10.77.1.1"
	outsideAddr = "10.77.1.2"
)

// playground is deploy/compose, started as its README says, in an engine of its own.
type playground struct {
	engine  *lab.Engine
	box     *lab.Box
	compose string // the command
	env     lab.Env
	dir     string // a copy of deploy/compose
}

// TestComposePlayground starts the three layers of deploy/compose with images that are
// made of what this machine has, and pulls through them.
func TestComposePlayground(t *testing.T) {
	img, other := sample(t, lab.OCIIndex), noise(t, "other/app", 3<<20)
	first, second := origin(t, lab.OriginOptions{}, img), origin(t, lab.OriginOptions{}, other)
	p := startPlayground(t, first, second)

	t.Run("only the top sees outside", p.checkNetworks)
	for _, step := range []struct {
		what  string
		image lab.Image
		warm  bool
	}{
		{"cold", img, false},
		{"again", img, true},
		{"of the second remote", other, false},
		{"of the second remote again", other, true},
	} {
		t.Run("pull "+step.what, func(t *testing.T) {
			before := first.Counts().Requests + second.Counts().Requests
			// Docker takes the certificate of localhost as it is; skopeo below does not.
			ref := step.image.ByTag("localhost:8000")
			out := p.docker(t, "pull", "--quiet=false", ref)
			if want := "Digest: " + step.image.Root().Digest.String(); !strings.Contains(out, want) {
				t.Errorf("pulling %s has printed %s, want %s", ref, out, want)
			}
			p.docker(t, "image", "rm", ref)
			if asked := first.Counts().Requests + second.Counts().Requests - before; (asked == 0) != step.warm {
				t.Errorf("upstreams were asked %d times, warm: %v", asked, step.warm)
			}
		})
	}
	amplification(t, second, other.Blobs[0].Size+other.Blobs[1].Size, 1.0)
	t.Run("certificates", p.checkCertificates)
	t.Run("routes", func(t *testing.T) { p.checkRoutes(t, first, second) })
	t.Run("commands", func(t *testing.T) {
		if out := p.run(t, "exec", "-T", "registry", "/registry-module", "ls"); !strings.Contains(out, other.Repo) {
			t.Errorf("ls shows no %s:\n%s", other.Repo, out)
		}
	})
	t.Run("renewed certificates", p.checkRenewal)
	t.Run("cache on the middle layer", func(t *testing.T) { p.checkMiddleCache(t, img) })
	t.Run("down", func(t *testing.T) {
		p.run(t, append(p.both(), "down", "--volumes")...)
		for _, list := range [][]string{{"ps", "--all", "--quiet"}, {"volume", "ls", "--quiet"}, {"network", "ls", "--quiet", "--filter=driver=bridge", "--filter=name=_"}} {
			if left := p.docker(t, list...); left != "" {
				t.Errorf("docker %s: %s is left", strings.Join(list, " "), left)
			}
		}
	})
}

// startPlayground starts it in front of two upstreams, with all that it needs.
func startPlayground(t *testing.T, first, second *lab.Origin) *playground {
	t.Helper()
	compose := must(lab.System("docker-compose", "docker-compose"))(t)
	machine, outside := netns(t, outsideAddr), netns(t, outsideAddr)
	if err := lab.Join(t.Context(), machine, outside, engineAddr, outsideAddr); err != nil {
		t.Fatal(err)
	}
	// As the world has none to private addresses: what comes from a network that is not
	// masqueraded gets no answer.
	if err := lab.IP(t.Context(), "-n", outside.Name, "route", "del", "default"); err != nil {
		t.Fatal(err)
	}
	relay(t, outside, outsideAddr+":5001", first.Addr)
	relay(t, outside, outsideAddr+":5002", second.Addr)

	p := &playground{compose: compose, dir: filepath.Join(tempDir(t), "playground")}
	p.box = must(lab.NewBox(tempDir(t), machine, map[string]string{"resolv.conf": "nameserver " + outsideAddr + "\n"}))(t)
	p.engine = must(lab.StartEngine(t.Context(), p.box))(t)
	end(t, p.engine)
	importModule(t, p.engine)
	importNginx(t, p.engine)

	if err := os.CopyFS(p.dir, os.DirFS("../deploy/compose")); err != nil {
		t.Fatal(err)
	}
	p.env = merge(p.engine.Env(), lab.Env{
		"NGINX_IMAGE": "nginx-of-this-machine", "REGISTRY_MODULE_IMAGE": "registry-module-of-this-tree",
		"REMOTE": "http://" + outsideAddr + ":5001", "REMOTE_2": "http://" + outsideAddr + ":5002",
	})
	// The two commands of the README.
	must(lab.Run(t.Context(), p.dir, nil, "/bin/sh", "certificates.sh"))(t)
	p.run(t, "up", "--detach", "--no-build")
	t.Cleanup(func() {
		if t.Failed() {
			out, err := lab.Run(context.Background(), p.dir, p.env, p.compose, "logs", "--no-color", "--tail=15")
			t.Logf("logs (%v):\n%s", err, out)
		}
	})
	p.await(t)
	return p
}

// relay takes connections at an address in a namespace to an address of this machine.
func relay(t *testing.T, n *lab.Netns, addr, to string) {
	t.Helper()
	l := must(n.Listen("tcp", addr))(t)
	t.Cleanup(func() { _ = l.Close() }) // nothing was written to it
	go func() {
		for {
			outer, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer outer.Close()
				inner, err := net.Dial("tcp", to)
				if err != nil {
					return // as if nobody listened
				}
				defer inner.Close()
				go func() {
					_, _ = io.Copy(inner, outer) // one side has gone, and so will the other
					_ = inner.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(outer, inner)
			}()
		}
	}()
}

// importModule makes the image of the module as the Dockerfile does, without a build.
func importModule(t *testing.T, e *lab.Engine) {
	t.Helper()
	var r lab.Rootfs
	r.Dir("tmp", 0o1777, 0)
	r.Dir("var/lib/registry", 0o755, 65532)
	if err := r.Program("registry-module", bin.module); err != nil {
		t.Fatal(err)
	}
	if err := e.Import(t.Context(), &r, "registry-module-of-this-tree", "USER 65532:65532", "VOLUME /var/lib/registry",
		`ENTRYPOINT ["/registry-module"]`, `CMD ["serve"]`); err != nil {
		t.Fatal(err)
	}
}

// importNginx makes an image with the nginx of this machine, and a shell that connects.
func importNginx(t *testing.T, e *lab.Engine) {
	t.Helper()
	var r lab.Rootfs
	r.Dir("tmp", 0o1777, 0)
	r.Dir("etc/nginx", 0o755, 0)
	for program, pkg := range map[string]string{"nginx": "nginx-light", "bash": "bash", "timeout": "coreutils"} {
		if err := r.Program("/usr/bin/"+program, must(lab.System(program, pkg))(t)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		if err := r.File(name, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Import(t.Context(), &r, "nginx-of-this-machine", "ENV PATH=/usr/bin"); err != nil {
		t.Fatal(err)
	}
}

// run runs docker-compose, which must not fail.
func (p *playground) run(t *testing.T, args ...string) string {
	t.Helper()
	return must(lab.Run(t.Context(), p.dir, p.env, p.compose, args...))(t)
}

func (p *playground) docker(t *testing.T, args ...string) string {
	t.Helper()
	return must(p.engine.CLI(t.Context(), args...))(t)
}

// await waits until the bottom answers for the top.
func (p *playground) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		// What is not there is 404 from the module, and 502 from the proxies.
		status, _, err := p.ask(ctx, "GET", "/v2/", nil)
		if err == nil && status == 200 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the playground does not answer: %d, %v", status, err)
		}
	}
}

// checkNetworks has containers connect to what they must, and must not, reach.
func (p *playground) checkNetworks(t *testing.T) {
	containers := map[string]string{}
	for _, service := range []string{"top-proxy", "middle-proxy", "bottom-proxy"} {
		containers[service] = strings.TrimSpace(p.run(t, "ps", "-q", service))
	}
	for name, c := range map[string]struct {
		from, to string
		reached  bool
	}{
		"top-proxy to registry":    {"top-proxy", "registry/8000", true},
		"middle-proxy to its top":  {"middle-proxy", "top.playground/8000", true},
		"bottom-proxy to middle":   {"bottom-proxy", "middle.playground/8000", true},
		"top-proxy outside":        {"top-proxy", outsideAddr + "/5001", false},
		"middle-proxy outside":     {"middle-proxy", outsideAddr + "/5001", false},
		"bottom-proxy outside":     {"bottom-proxy", outsideAddr + "/5001", false},
		"middle-proxy to registry": {"middle-proxy", "registry/8000", false},
		"bottom-proxy to the top":  {"bottom-proxy", "top.playground/8000", false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := p.engine.CLI(t.Context(), "exec", containers[c.from], "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+c.to)
			if (err == nil) != c.reached {
				t.Errorf("%s to %s: %v, want reached: %v\n%s", c.from, c.to, err, c.reached, out)
			}
		})
	}
}

// checkCertificates pulls with a client that verifies: with the root, and without.
func (p *playground) checkCertificates(t *testing.T) {
	skopeo := must(lab.System("skopeo", "skopeo"))(t)
	trusting, empty := t.TempDir(), t.TempDir()
	root := must(os.ReadFile(filepath.Join(p.dir, "certificates/root.pem")))(t)
	if err := os.WriteFile(filepath.Join(trusting, "ca.crt"), root, 0o644); err != nil {
		t.Fatal(err)
	}
	inspect := func(certs string) error {
		_, err := p.box.Run(t.Context(), nil, skopeo, "--insecure-policy", "inspect", "--raw", "--cert-dir", certs, "docker://localhost:8000/samples/oci-index:1.0")
		return err
	}
	if err := inspect(trusting); err != nil {
		t.Error(err)
	}
	if err := inspect(empty); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("without the root: %v, want an error about the certificate", err)
	}
}

// both names the files that add a cache to the middle layer.
func (p *playground) both() []string {
	return []string{"--file", "compose.yml", "--file", "compose.cache.yml"}
}

// checkMiddleCache gives the middle layer a cache of its own, pulls, takes the top away, and
// pulls again.
func (p *playground) checkMiddleCache(t *testing.T, img lab.Image) {
	p.run(t, append(p.both(), "up", "--detach", "--no-build")...)
	p.await(t)
	ref := img.ByTag("localhost:8000")
	p.docker(t, "pull", ref)
	p.docker(t, "image", "rm", ref)
	if out := p.run(t, append(p.both(), "exec", "-T", "middle-registry", "/registry-module", "ls")...); !strings.Contains(out, img.Repo) {
		t.Errorf("the middle has no %s:\n%s", img.Repo, out)
	}
	p.run(t, "stop", "top-proxy")
	p.docker(t, "pull", ref)
	if status, _, err := p.ask(t.Context(), "GET", "/v2/not/pulled/manifests/1", nil); err != nil || status != 503 {
		t.Errorf("what is not stored, without the top: %d, want 503: %v", status, err)
	}
}

// checkRenewal makes the certificates anew, and waits until the bottom has its own.
func (p *playground) checkRenewal(t *testing.T) {
	before := p.leaf(t)
	must(lab.Run(t.Context(), p.dir, nil, "/bin/sh", "certificates.sh"))(t)
	p.run(t, "kill", "-s", "HUP", "top-proxy", "middle-proxy", "bottom-proxy")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for p.leaf(t) == before {
		if ctx.Err() != nil {
			t.Fatal("the bottom has its old certificate")
		}
	}
	p.await(t)
}

// leaf is the certificate that the bottom shows.
func (p *playground) leaf(t *testing.T) string {
	t.Helper()
	out := must(p.box.Run(t.Context(), nil, must(lab.System("openssl", "openssl"))(t), "s_client", "-connect", "localhost:8000"))(t)
	_, leaf, _ := strings.Cut(out, "-----BEGIN CERTIFICATE-----")
	leaf, _, ok := strings.Cut(leaf, "-----END CERTIFICATE-----")
	if !ok {
		t.Fatalf("no certificate in\n%s", out)
	}
	return leaf
}

// checkRoutes sends what is not a pull to the bottom.
func (p *playground) checkRoutes(t *testing.T, upstreams ...*lab.Origin) {
	for _, up := range upstreams {
		up.Reset()
	}
	ms := []string{"x-ms-version: 2019-02-02", "x-ms-blob-type: BlockBlob"}
	for name, c := range map[string]struct {
		method, path string
		header       []string
		status       int
		blobs        bool // the blob service has answered
	}{
		"upload of a blob":             {"PUT", "/container/log.txt", ms, 201, true},
		"upload with a registry's way": {"PUT", "/v2/container/log.txt", ms, 201, true},
		"push":                         {"POST", "/v2/team/app/blobs/uploads/", nil, 405, false},
		"health":                       {"GET", "/healthz", nil, 404, false},
		"metrics":                      {"GET", "/metrics", nil, 404, false},
		"not normalised":               {"GET", "/v2/a/../../healthz", nil, 404, false},
		"escaped":                      {"GET", "/v2/team%2Fapp/manifests/1", nil, 400, false},
	} {
		t.Run(name, func(t *testing.T) {
			status, header, err := p.ask(t.Context(), c.method, c.path, c.header)
			if err != nil {
				t.Fatal(err)
			}
			if status != c.status || strings.Contains(header, "x-ms-version: ") != c.blobs {
				t.Errorf("%s %s: %d, want %d, by the blob service: %v\n%s", c.method, c.path, status, c.status, c.blobs, header)
			}
		})
	}
	for _, up := range upstreams {
		if n := up.Counts().Requests; n != 0 {
			t.Errorf("an upstream was asked %d times for what is no pull", n)
		}
	}
}

// ask sends a request to the bottom, its path as it is, and returns the status and the
// header of the answer.
func (p *playground) ask(ctx context.Context, method, path string, header []string) (status int, text string, err error) {
	openssl, err := lab.System("openssl", "openssl")
	if err != nil {
		return 0, "", err
	}
	lines := slices.Concat([]string{method + " " + path + " HTTP/1.1", "Host: localhost:8000", "Connection: close", "Content-Length: 0"}, header, []string{"", ""})
	c := lab.Command{
		Path: p.box.Enter(), Dir: p.dir, Stdin: strings.NewReader(strings.Join(lines, "\r\n")),
		Args: []string{openssl, "s_client", "-quiet", "-verify_return_error", "-ign_eof",
			"-CAfile", filepath.Join(p.dir, "certificates/root.pem"), "-verify_hostname", "localhost", "-connect", "localhost:8000"},
	}
	o, err := c.Do(ctx)
	if err != nil {
		return 0, "", err
	}
	text, _, _ = strings.Cut(o.Stdout, "\r\n\r\n")
	if _, err := fmt.Sscanf(text, "HTTP/1.1 %d", &status); err != nil {
		return 0, "", fmt.Errorf("asking the bottom: %w\n%v", err, o)
	}
	return status, text, nil
}
