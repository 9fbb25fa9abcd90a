package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/bcrypt"

	"registry-module/e2e/lab"
)

// snippet is a part of docs/clients.md: what is between two headings.
type snippet struct {
	client, way string            // the headings
	files       map[string]string // by path, or by what else stands behind the kind
	commands    []string          // the lines of shell
}

func (s snippet) name() string { return s.client + "/" + s.way }

// snippets reads docs/clients.md. A fenced block is of a kind, and has the path of the
// file that it is.
func snippets(t *testing.T) (all []snippet) {
	t.Helper()
	var at *snippet
	var kind, path string
	var block strings.Builder
	client := ""
	for line := range strings.Lines(string(must(os.ReadFile("../docs/clients.md"))(t))) {
		trimmed := strings.TrimSpace(line)
		if info, fence := strings.CutPrefix(trimmed, "```"); fence {
			if kind == "" {
				kind, path, _ = strings.Cut(info, " ")
				continue
			}
			switch {
			case kind == "sh" && path == "":
				at.commands = append(at.commands, strings.Split(strings.TrimSpace(block.String()), "\n")...)
			case path == "" || at.files[path] != "":
				t.Fatalf("%s: a block of %q for %q", at.name(), kind, path)
			default:
				at.files[path] = block.String()
			}
			kind = ""
			block.Reset()
			continue
		}
		if kind != "" {
			block.WriteString(line)
			continue
		}
		way, sub := strings.CutPrefix(trimmed, "### ")
		name, top := strings.CutPrefix(trimmed, "## ")
		if top {
			client = name
		}
		if top || sub {
			all = append(all, snippet{client: client, way: way, files: map[string]string{}})
			at = &all[len(all)-1]
			if top {
				at.way = ""
			}
		}
	}
	return slices.DeleteFunc(all, func(s snippet) bool { return len(s.files)+len(s.commands) == 0 })
}

// TestClientFiles parses each file that docs/clients.md has, strictly, as the program does
// that it is for, and lets the shell read the commands.
func TestClientFiles(t *testing.T) {
	files := 0
	for _, s := range snippets(t) {
		t.Run(s.name(), func(t *testing.T) {
			for path, text := range s.files {
				files++
				if err := parseClientFile(path, text); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				if err := parseClientFile(path, strings.Replace(text, "a", "unknown", 1)+"unknown"); err == nil {
					t.Errorf("%s is accepted with errors in it, too", path)
				}
			}
			for _, line := range s.commands {
				must(lab.Run(t.Context(), ".", nil, "/bin/sh", "-nc", line))(t)
				if !strings.Contains(line, "gateway") && !strings.Contains(line, "3.22") && !strings.Contains(line, "1.5") && !strings.HasPrefix(line, "export ") && !strings.HasPrefix(line, "chmod ") {
					t.Errorf("%q names no image, and not the gateway", line)
				}
			}
		})
	}
	if files < 12 {
		t.Errorf("docs/clients.md has only %d files", files)
	}
}

func parseClientFile(path, text string) error {
	hosts := func(urls ...string) error {
		for _, s := range urls {
			if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return fmt.Errorf("%q is no URL: %v", s, err)
			}
		}
		return nil
	}
	switch {
	case path == "/etc/docker/daemon.json":
		var file struct {
			Insecure []string `json:"insecure-registries"`
			Mirrors  []string `json:"registry-mirrors"`
		}
		if err := strictJSON(text, &file); err != nil {
			return err
		}
		return hosts(file.Mirrors...)
	case path == "registryCredentials":
		var file map[string]struct{ Address, Username, Password string }
		return strictJSON(text, &file)
	case filepath.Base(path) == "hosts.toml":
		var file struct {
			Server string `toml:"server"`
			Host   map[string]struct {
				Capabilities []string          `toml:"capabilities"`
				CA           string            `toml:"ca"`
				Header       map[string]string `toml:"header"`
			} `toml:"host"`
		}
		if err := strictTOML(text, &file); err != nil {
			return err
		}
		for host := range file.Host {
			if err := hosts(file.Server, host); err != nil {
				return err
			}
		}
		return nil
	case path == "/etc/containerd/config.toml":
		var file struct {
			Version int `toml:"version"`
			Plugins map[string]struct {
				Registry struct {
					ConfigPath string `toml:"config_path"`
				} `toml:"registry"`
			} `toml:"plugins"`
		}
		if err := strictTOML(text, &file); err != nil {
			return err
		}
		name := map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}[file.Version]
		if file.Plugins[name].Registry.ConfigPath == "" {
			return fmt.Errorf("version %d has no path for %s", file.Version, name)
		}
		return nil
	case strings.HasPrefix(path, "/etc/containers/registries.conf.d/"):
		var file struct {
			Registry []struct {
				Prefix   string `toml:"prefix"`
				Location string `toml:"location"`
				Insecure bool   `toml:"insecure"`
				Mirror   []struct {
					Location string `toml:"location"`
					Insecure bool   `toml:"insecure"`
				} `toml:"mirror"`
			} `toml:"registry"`
		}
		return strictTOML(text, &file)
	case strings.HasPrefix(path, "/etc/crio/crio.conf.d/"):
		var file struct {
			Crio struct {
				Image struct {
					GlobalAuthFile string `toml:"global_auth_file"`
				} `toml:"image"`
			} `toml:"crio"`
		}
		return strictTOML(text, &file)
	case path == "/etc/rancher/k3s/registries.yaml":
		var file struct {
			Mirrors map[string]struct{ Endpoint []string }
			Configs map[string]struct {
				Auth struct{ Username, Password string }
				TLS  struct {
					CAFile string `yaml:"ca_file"`
				}
			}
		}
		d := yaml.NewDecoder(strings.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&file); err != nil {
			return err
		}
		for _, m := range file.Mirrors {
			if err := hosts(m.Endpoint...); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("nothing here knows %q", path)
}

func strictTOML(text string, v any) error {
	meta, err := toml.Decode(text, v)
	if err == nil && len(meta.Undecoded()) > 0 {
		err = fmt.Errorf("unknown keys %v", meta.Undecoded())
	}
	return err
}

func strictJSON(text string, v any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more behind its end: %v", err)
	}
	return nil
}

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
