package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"registry-module/e2e/lab"
)

// gatewayAddr and hubAddr are where the clients of a gateway find it, and it the registries.
// They are no loopback addresses, which clients treat in their own way.
const (
	gatewayAddr = "192.0.2.10"
	hubAddr     = "198.51.100.7"
)

// TestClientCommands runs what docs/clients.md says, with the files at their places and
// real clients, against a gateway that is called gateway:8000: each way has to work, and
// must not without what it is about.
func TestClientCommands(t *testing.T) {
	gateways := map[string]*clientGateway{}
	for kind, g := range map[string]*clientGateway{"http": {}, "https": {tls: true}, "login": {tls: true, login: true}} {
		g.start(t)
		gateways[kind] = g
	}
	// Those of which no program is here are in TestClientFiles only.
	absent := []string{"CRI-O", "k3s", "IoT Edge", "Helm", "cosign"}
	all := snippets(t)
	run := 0
	for _, s := range all {
		if slices.Contains(absent, s.client) || len(s.commands) == 0 {
			continue
		}
		run++
		g := gateways["http"]
		if strings.Contains(s.way, "HTTPS") {
			g = gateways["https"]
		}
		var before []string
		if strings.Contains(s.way, "user name") {
			g = gateways["login"]
			// The certificate has been put to its place before.
			for _, other := range all {
				if other.client == s.client && other.way == "Over HTTPS" {
					before = slices.DeleteFunc(slices.Clone(other.commands), func(line string) bool { return !strings.HasPrefix(line, "install ") })
				}
			}
		}
		t.Run(s.name(), func(t *testing.T) {
			asked := g.pulls(t)
			if out, err := g.run(t, s.client, s.files, slices.Concat(before, s.commands)); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if g.pulls(t) == asked {
				t.Error("it works, and not by the gateway")
			}
			pulls := slices.DeleteFunc(slices.Clone(s.commands), func(line string) bool {
				return !strings.Contains(line, " pull ") && !strings.Contains(line, " copy ")
			})
			if len(pulls) == len(s.commands) && len(s.files) == 0 {
				return // all is in the command
			}
			if out, err := g.run(t, s.client, nil, slices.Concat(before, pulls)); err == nil || strings.HasSuffix(err.Error(), noEngine) || strings.Contains(err.Error(), noEngine+"\n") {
				t.Errorf("%q without the rest: %v, want that it cannot be pulled\n%s", pulls, err, out)
			}
		})
	}
	if run < 20 {
		t.Errorf("only %d of %d parts of docs/clients.md were run", run, len(all))
	}
}

// noEngine is how it ends where the engine of a client does not start.
const noEngine = "exit status 9"

// clientGateway is a gateway in a network namespace, whose clients are there as well.
type clientGateway struct {
	tls, login bool

	ns     *lab.Netns
	root   []byte // the certificate of its authority
	server *lab.Process
}

func (g *clientGateway) start(t *testing.T) {
	t.Helper()
	alpine, agent := sample(t, lab.OCIIndex), sample(t, lab.DockerList)
	alpine.Repo, alpine.Tag = "library/alpine", "3.22"
	agent.Repo, agent.Tag = "azureiotedge-agent", "1.5"
	hub, mcr := origin(t, lab.OriginOptions{}, alpine), origin(t, lab.OriginOptions{}, agent)

	g.ns = netns(t, "127.0.0.1")
	for _, addr := range []string{gatewayAddr, hubAddr} {
		if err := lab.IP(t.Context(), "-n", g.ns.Name, "addr", "add", addr+"/32", "dev", "lo"); err != nil {
			t.Fatal(err)
		}
	}
	relay(t, g.ns, hubAddr+":80", hub.Addr)
	relay(t, g.ns, hubAddr+":81", mcr.Addr)

	dir := tempDir(t)
	env := lab.Env{
		"REGISTRY_PROXY_REMOTEURL": "http://registry-1.docker.io", "REGISTRY_PROXY_REMOTEURL_2": "http://mcr.microsoft.com:81",
		"REGISTRY_PROXY_ALIAS_2": "mcr.microsoft.com", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": filepath.Join(dir, "data"),
		"REGISTRY_HTTP_ADDR": gatewayAddr + ":8000", "REGISTRY_HTTP_DEBUG_ADDR": gatewayAddr + ":5001",
	}
	if g.tls {
		// As for a layer of the playground, with another name.
		script := strings.ReplaceAll(string(must(os.ReadFile("../deploy/compose/certificates.sh"))(t)), "DNS:localhost", "DNS:gateway")
		if err := os.WriteFile(filepath.Join(dir, "certificates.sh"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		must(lab.Run(t.Context(), dir, nil, "/bin/sh", "certificates.sh"))(t)
		g.root = must(os.ReadFile(filepath.Join(dir, "certificates/root.pem")))(t)
		env["REGISTRY_HTTP_TLS_CERTIFICATE"] = filepath.Join(dir, "certificates/top-chain.pem")
		env["REGISTRY_HTTP_TLS_KEY"] = filepath.Join(dir, "certificates/top.key")
	}
	if g.login {
		hash := must(bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost))(t)
		if err := os.WriteFile(filepath.Join(dir, "htpasswd"), append([]byte("line1:"), hash...), 0o600); err != nil {
			t.Fatal(err)
		}
		env["REGISTRY_AUTH_HTPASSWD_REALM"], env["REGISTRY_AUTH_HTPASSWD_PATH"] = "gateway", filepath.Join(dir, "htpasswd")
	}
	env["REGISTRY_LOG_ACCESSLOG_SAMPLE"] = "100%" // see pulls
	box := must(lab.NewBox(dir, g.ns, map[string]string{"hosts": g.hosts()}))(t)
	g.server = must(box.Start(t.Context(), lab.Spec{Name: "registry-module", Path: bin.module, Args: []string{"serve"}, Dir: dir, Env: env}))(t)
	end(t, g.server)
	eventually(t, "the gateway listens", func() bool {
		c, err := g.ns.DialContext(t.Context(), "tcp", gatewayAddr+":8000")
		if err != nil {
			return false
		}
		_ = c.Close() // nothing was sent
		return true
	})
}

func (g *clientGateway) hosts() string {
	return "127.0.0.1 localhost\n" + gatewayAddr + " gateway\n" + hubAddr + " registry-1.docker.io docker.io mcr.microsoft.com\n"
}

// pulls is how many manifests the gateway has served.
func (g *clientGateway) pulls(t *testing.T) (n int) {
	t.Helper()
	for line := range bytes.Lines(must(os.ReadFile(g.server.Log()))(t)) {
		if bytes.Contains(line, []byte("/manifests/")) && bytes.Contains(line, []byte("status=200")) {
			n++
		}
	}
	return n
}

// run runs commands on a machine that has a client with nothing stored, and the files.
func (g *clientGateway) run(t *testing.T, client string, files map[string]string, commands []string) (string, error) {
	t.Helper()
	dir := tempDir(t)
	etc := map[string]string{
		"hosts": g.hosts(),
		// Where podman keeps what it has. It is configured here as it is on no machine.
		"containers/storage.conf":    fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", dir+"/root", dir+"/run"),
		"containers/containers.conf": fmt.Sprintf("[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\ntmp_dir = %q\n", dir+"/tmp"),
		"containers/policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"docker/daemon.json":         "{}",
	}
	for path, text := range files {
		etc[strings.TrimPrefix(path, "/etc/")] = text
	}
	for name, text := range map[string]string{"root.pem": string(g.root), "password.txt": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := lab.Env{
		"PATH":        strings.Join([]string{filepath.Dir(bin.crane), filepath.Dir(bin.oras), os.Getenv("PATH")}, ":"),
		"DOCKER_HOST": "unix://" + dir + "/sock", "CONTAINERD_ADDRESS": dir + "/c.sock", "CONTAINERD_SNAPSHOTTER": "native",
	}
	// Engines end with the shell.
	start := map[string]string{
		"Docker Engine": `dockerd --host $DOCKER_HOST --pidfile $HOME/pid --data-root $HOME/data --exec-root $HOME/exec --bridge=none --iptables=false >log 2>&1 &
until docker version >/dev/null 2>&1; do kill -0 $! || { tail log; exit 9; }; sleep 0.1; done`,
		"containerd": `containerd --root $HOME/root --state $HOME/state --address $CONTAINERD_ADDRESS >log 2>&1 &
until ctr version >/dev/null 2>&1; do kill -0 $! || { tail log; exit 9; }; sleep 0.1; done`,
	}[client]
	box := must(lab.NewBox(dir, g.ns, etc))(t)
	return box.Run(t.Context(), env, "/bin/sh", "-ec", strings.Join(append([]string{start}, commands...), "\n"))
}
