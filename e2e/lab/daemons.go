package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Containerd is a containerd with nothing in it and nothing shared with the
// machine's.
type Containerd struct {
	*Process
	dir, ctr string
	at       At
}

// At is where a client runs, and how it pulls. The zero value is this machine, and a
// registry that speaks HTTP and wants no password.
type At struct {
	// Netns is where it runs; nil is this machine.
	Netns *Netns
	// TLS has it verify the registry by what the namespace trusts.
	TLS bool
	// Username and Password are sent to the registry where it asks for them.
	Username, Password string
}

// user is how many commands take a user with his password.
func (a At) user(flag string) []string {
	if a.Username == "" {
		return nil
	}
	return []string{flag, a.Username + ":" + a.Password}
}

// StartContainerd starts containerd. Its socket lies in dir, so the path must
// be short: 100 bytes at the most.
func StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	return StartContainerdAt(ctx, At{}, dir)
}

// StartContainerdAt does so somewhere.
func StartContainerdAt(ctx context.Context, at At, dir string) (*Containerd, error) {
	containerd, err := System("containerd", "containerd")
	if err != nil {
		return nil, err
	}
	ctr, err := System("ctr", "containerd")
	if err != nil {
		return nil, err
	}
	c := &Containerd{dir: dir, ctr: ctr, at: at}
	config := filepath.Join(dir, "containerd.toml")
	text := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	path, line, err := at.Netns.Enter(containerd, "--config", config)
	if err != nil {
		return nil, err
	}
	c.Process, err = Start(ctx, Spec{
		Name: "containerd", Path: path, Args: line, Dir: dir,
		Ready: func(ctx context.Context) error {
			_, err := c.Ctr(ctx, "version")
			return err
		},
	})
	return c, err
}

func (c *Containerd) socket() string { return filepath.Join(c.dir, "containerd.sock") }

// Ctr runs the ctr command and returns what it prints.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	return runIn(ctx, c.at.Netns, c.dir, nil, c.ctr, append([]string{"--address", c.socket()}, args...)...)
}

// Mirror configures a server as the only place to pull the images of a
// registry from. Containerd then names the registry in the query of each
// request: ?ns=<registry>.
func (c *Containerd) Mirror(registry, server string) error {
	dir := filepath.Join(c.hosts(), registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("configuring containerd: %w", err)
	}
	// Where all hosts fail, containerd goes to the registry itself. That must
	// not help: 127.0.0.1:1 is refused.
	text := fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", server)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("configuring containerd: %w", err)
	}
	return nil
}

func (c *Containerd) hosts() string { return filepath.Join(c.dir, "hosts") }

// Pull pulls an image, for the machine's platform where platform is empty, and
// returns the digest that containerd has it under.
func (c *Containerd) Pull(ctx context.Context, ref, platform string) (digests []string, err error) {
	args := []string{"images", "pull", "--hosts-dir", c.hosts(), "--snapshotter", "native"}
	args = append(args, c.at.user("--user")...)
	if platform != "" {
		args = append(args, "--platform", platform)
	}
	if _, err := c.Ctr(ctx, append(args, ref)...); err != nil {
		return nil, err
	}
	out, err := c.Ctr(ctx, "images", "list", "name=="+ref)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		// REF TYPE DIGEST SIZE PLATFORMS LABELS
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == ref {
			return fields[2:3], nil
		}
	}
	return nil, fmt.Errorf("containerd has no image %s:\n%s", ref, out)
}

// Docker is a Docker Engine with nothing in it and nothing shared with the
// machine's. It makes no network.
type Docker struct {
	*Process
	dir, docker string
	containerd  *Containerd
	at          At
}

// StartDocker starts dockerd, and a containerd for it. The path of dir must be
// short, as for [StartContainerd].
func StartDocker(ctx context.Context, dir string) (*Docker, error) {
	return StartDockerAt(ctx, At{}, dir)
}

// StartDockerAt does so somewhere.
func StartDockerAt(ctx context.Context, at At, dir string) (_ *Docker, err error) {
	dockerd, err := System("dockerd", "docker.io")
	if err != nil {
		return nil, err
	}
	docker, err := System("docker", "docker.io")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o644); err != nil {
		return nil, fmt.Errorf("starting dockerd: %w", err)
	}
	below := filepath.Join(dir, "c")
	if err := os.Mkdir(below, 0o755); err != nil {
		return nil, fmt.Errorf("starting dockerd: %w", err)
	}
	d := &Docker{dir: dir, docker: docker, at: at}
	if d.containerd, err = StartContainerdAt(ctx, at, below); err != nil {
		return nil, err
	}
	path, line, err := at.Netns.Enter(dockerd,
		"--host", d.host(), "--containerd", d.containerd.socket(), "--config-file", config,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--storage-driver", "vfs",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
	)
	if err != nil {
		return nil, errors.Join(err, d.containerd.Stop())
	}
	d.Process, err = Start(ctx, Spec{
		Name: "dockerd", Path: path, Dir: dir, Args: line,
		Ready: func(ctx context.Context) error {
			_, err := d.CLI(ctx, "version", "--format", "{{.Server.Version}}")
			return err
		},
	})
	if err != nil {
		return nil, errors.Join(err, d.containerd.Stop())
	}
	return d, nil
}

func (d *Docker) host() string { return "unix://" + filepath.Join(d.dir, "docker.sock") }

// CLI runs the docker command and returns what it prints.
func (d *Docker) CLI(ctx context.Context, args ...string) (string, error) {
	return Run(ctx, d.dir, Env{"DOCKER_HOST": d.host(), "DOCKER_CONFIG": filepath.Join(d.dir, "config")}, d.docker, args...)
}

// Login has the docker command keep the user's password for a registry, which says
// whether it is right.
func (d *Docker) Login(ctx context.Context, registry string) error {
	_, err := d.CLI(ctx, "login", "--username", d.at.Username, "--password", d.at.Password, registry)
	return err
}

// Pull pulls an image, for the machine's platform where platform is empty, and
// returns the digest that Docker has verified.
func (d *Docker) Pull(ctx context.Context, ref, platform string) (digests []string, err error) {
	args := []string{"pull"}
	if platform != "" {
		args = append(args, "--platform", platform)
	}
	out, err := d.CLI(ctx, append(args, ref)...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		if dgst, ok := strings.CutPrefix(line, "Digest: "); ok {
			digests = append(digests, strings.TrimSpace(dgst))
		}
	}
	return digests, nil
}

// Stop ends dockerd and its containerd.
func (d *Docker) Stop() error { return errors.Join(d.Process.Stop(), d.containerd.Stop()) }
