package lab

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Podman runs podman with nothing in it and nothing shared with the machine's.
type Podman struct {
	dir, podman string
	at          At
}

// NewPodman prepares podman in an empty directory.
func NewPodman(dir string) (*Podman, error) { return NewPodmanAt(At{}, dir) }

// NewPodmanAt does so somewhere.
func NewPodmanAt(at At, dir string) (*Podman, error) {
	podman, err := System("podman", "podman")
	if err != nil {
		return nil, err
	}
	p := &Podman{dir: dir, podman: podman, at: at}
	files := map[string]string{
		p.registries(): "unqualified-search-registries = []\n",
		p.policy():     `{"default": [{"type": "insecureAcceptAnything"}]}`,
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("preparing podman: %w", err)
		}
	}
	return p, nil
}

// Mirror configures a place, host:port with or without a path, as the mirror of a
// registry, before all others. Podman knows the images by the registry's name, and
// asks for them below that place.
func (p *Podman) Mirror(registry, location string) error {
	f, err := os.OpenFile(p.registries(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configuring podman: %w", err)
	}
	_, err = fmt.Fprintf(f, "[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", registry, location)
	if err := cmp.Or(err, f.Close()); err != nil {
		return fmt.Errorf("configuring podman: %w", err)
	}
	return nil
}

func (p *Podman) registries() string { return filepath.Join(p.dir, "registries.conf") }
func (p *Podman) policy() string     { return filepath.Join(p.dir, "policy.json") }

// CLI runs the podman command and returns what it prints.
func (p *Podman) CLI(ctx context.Context, args ...string) (string, error) {
	env := Env{"CONTAINERS_REGISTRIES_CONF": p.registries(), "XDG_RUNTIME_DIR": p.dir}
	global := []string{
		"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"),
		"--tmpdir", filepath.Join(p.dir, "tmp"), "--storage-driver", "vfs",
		"--events-backend", "none", "--cgroup-manager", "cgroupfs",
	}
	return runIn(ctx, p.at.Netns, p.dir, env, p.podman, append(global, args...)...)
}

// Pull pulls an image, for the machine's platform where platform is empty, and
// returns the digests that podman has it under: the index's and that of the
// platform.
func (p *Podman) Pull(ctx context.Context, ref, platform string) (digests []string, err error) {
	args := []string{"pull", "--quiet", fmt.Sprintf("--tls-verify=%t", p.at.TLS), "--signature-policy", p.policy()}
	args = append(args, p.at.user("--creds")...)
	if platform != "" {
		args = append(args, "--platform", platform)
	}
	id, err := p.CLI(ctx, append(args, ref)...)
	if err != nil {
		return nil, err
	}
	out, err := p.CLI(ctx, "image", "inspect", "--format", `{{join .RepoDigests "\n"}}`, strings.TrimSpace(id))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		if _, dgst, ok := strings.Cut(strings.TrimSpace(line), "@"); ok {
			digests = append(digests, dgst)
		}
	}
	return digests, nil
}

// Skopeo runs skopeo.
type Skopeo struct {
	dir, skopeo string
	at          At
}

// NewSkopeo prepares skopeo in a directory of its own.
func NewSkopeo(dir string) (*Skopeo, error) { return NewSkopeoAt(At{}, dir) }

// NewSkopeoAt does so somewhere.
func NewSkopeoAt(at At, dir string) (*Skopeo, error) {
	skopeo, err := System("skopeo", "skopeo")
	if err != nil {
		return nil, err
	}
	return &Skopeo{dir: dir, skopeo: skopeo, at: at}, nil
}

// CLI runs the skopeo command and returns what it prints.
func (s *Skopeo) CLI(ctx context.Context, args ...string) (string, error) {
	conf := filepath.Join(s.dir, "registries.conf")
	if err := os.WriteFile(conf, []byte("unqualified-search-registries = []\n"), 0o644); err != nil {
		return "", fmt.Errorf("preparing skopeo: %w", err)
	}
	env := Env{"CONTAINERS_REGISTRIES_CONF": conf, "XDG_RUNTIME_DIR": s.dir}
	return runIn(ctx, s.at.Netns, s.dir, env, s.skopeo, append([]string{"--insecure-policy"}, args...)...)
}

// Pull copies an image, for the machine's platform where platform is empty,
// into a directory, and returns the digest that skopeo sees the reference at.
func (s *Skopeo) Pull(ctx context.Context, ref, platform string) (digests []string, err error) {
	var override []string
	if platform != "" {
		parts := strings.Split(platform, "/")
		for i, flag := range []string{"--override-os", "--override-arch", "--override-variant"}[:len(parts)] {
			override = append(override, flag, parts[i])
		}
	}
	to, err := os.MkdirTemp(s.dir, "image")
	if err != nil {
		return nil, err
	}
	verify := fmt.Sprintf("tls-verify=%t", s.at.TLS)
	copied := slices.Concat(override, []string{"copy", "--src-" + verify}, s.at.user("--src-creds"), []string{"docker://" + ref, "dir:" + to})
	_, err = s.CLI(ctx, copied...)
	if err != nil {
		return nil, err
	}
	raw, err := s.CLI(ctx, slices.Concat([]string{"inspect", "--raw", "--" + verify}, s.at.user("--creds"), []string{"docker://" + ref})...)
	if err != nil {
		return nil, err
	}
	return []string{digest.FromString(raw).String()}, nil
}

// Client runs a client that is one program without state: crane or oras.
type Client struct {
	dir, path string
	at        At
}

// NewClient prepares a program in a directory of its own, where its
// credentials (docker's config.json) lie as well.
func NewClient(dir, path string) *Client { return &Client{dir: dir, path: path} }

// NewClientAt does so somewhere.
func NewClientAt(at At, dir, path string) *Client { return &Client{dir: dir, path: path, at: at} }

// CLI runs the program and returns what it prints, without white space around.
func (c *Client) CLI(ctx context.Context, args ...string) (string, error) {
	out, err := runIn(ctx, c.at.Netns, c.dir, Env{"DOCKER_CONFIG": c.dir}, c.path, args...)
	return strings.TrimSpace(out), err
}

// CraneClient is [Crane] as a client that pulls.
type CraneClient struct{ *Client }

// Pull writes an image as an OCI layout, for linux/amd64 where platform is
// empty, and returns the digest that crane sees the reference at.
func (c CraneClient) Pull(ctx context.Context, ref, platform string) (digests []string, err error) {
	to, err := os.MkdirTemp(c.dir, "image")
	if err != nil {
		return nil, err
	}
	args := []string{"pull", "--format", "oci", "--platform", cmp.Or(platform, "linux/amd64"), ref, to}
	if _, err := c.CLI(ctx, args...); err != nil {
		return nil, err
	}
	dgst, err := c.CLI(ctx, "digest", ref)
	return []string{dgst}, err
}
