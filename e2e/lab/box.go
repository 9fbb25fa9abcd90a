package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Box is a place for programs that take it for a machine of their own: a network
// namespace, mounts and processes that nobody else sees, an empty /run, and files over
// those in /etc. It takes root, and leaves nothing when its programs have ended.
type Box struct {
	dir, script string
}

// NewBox makes a box in an empty directory, whose path must be short where engines are
// to run in it, as for [StartContainerd]. The files are by their path below /etc.
func NewBox(dir string, n *Netns, etc map[string]string) (*Box, error) {
	for program, pkg := range map[string]string{"nsenter": "util-linux", "unshare": "util-linux", "mount": "mount"} {
		if _, err := System(program, pkg); err != nil {
			return nil, err
		}
	}
	b := &Box{dir: dir, script: filepath.Join(dir, "enter")}
	files := map[string]string{"hosts": "127.0.0.1 localhost\n", "resolv.conf": "nameserver 127.0.0.1\n"}
	for name, text := range etc {
		files[name] = text
	}
	for name, text := range files {
		if err := b.Put(name, text); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "over"), 0o755); err != nil {
		return nil, fmt.Errorf("making a box: %w", err)
	}
	// The layer over /etc is in memory, since not each file system can be one.
	text := fmt.Sprintf(`#!/bin/sh
exec nsenter --net=/run/netns/%[2]s unshare --mount --pid --fork --kill-child --mount-proc sh -ec '
mount -t tmpfs tmpfs %[1]s/over
mkdir %[1]s/over/upper %[1]s/over/work
cp -a %[1]s/etc/. %[1]s/over/upper/
mount -t overlay overlay -o lowerdir=/etc,upperdir=%[1]s/over/upper,workdir=%[1]s/over/work /etc
mount -t tmpfs tmpfs /run
exec "$@"' enter "$@"
`, dir, n.Name)
	if err := os.WriteFile(b.script, []byte(text), 0o755); err != nil {
		return nil, fmt.Errorf("making a box: %w", err)
	}
	return b, nil
}

// Put writes a file, by its path below /etc, for programs that are started later.
func (b *Box) Put(name, text string) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("putting %q into a box: not below /etc", name)
	}
	path := filepath.Join(b.dir, "etc", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("putting a file into a box: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("putting a file into a box: %w", err)
	}
	return nil
}

// Enter is the path of a command that runs another one in the box, in the place of
// itself.
func (b *Box) Enter() string { return b.script }

// Run is as [Run], in the box.
func (b *Box) Run(ctx context.Context, env Env, path string, args ...string) (stdout string, err error) {
	return Run(ctx, b.dir, env, b.script, append([]string{path}, args...)...)
}

// Start is as [Start], in the box.
func (b *Box) Start(ctx context.Context, spec Spec) (*Process, error) {
	spec.Args = append([]string{spec.Path}, spec.Args...)
	spec.Path = b.script
	return Start(ctx, spec)
}

// Engine is a Docker Engine in a [Box], with networks and containers of its own.
type Engine struct {
	*Process
	dir string
	// Docker is the path of the docker command.
	Docker string
}

// StartEngine starts dockerd in a box, with the settings of its /etc/docker.
func StartEngine(ctx context.Context, b *Box) (*Engine, error) {
	dockerd, err := System("dockerd", "docker.io")
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: filepath.Join(b.dir, "docker")}
	if e.Docker, err = System("docker", "docker.io"); err != nil {
		return nil, err
	}
	if _, err := System("iptables", "iptables"); err != nil {
		return nil, err
	}
	if err := os.Mkdir(e.dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting dockerd: %w", err)
	}
	e.Process, err = b.Start(ctx, Spec{
		Name: "dockerd", Path: dockerd, Dir: e.dir,
		Args: []string{
			"--host", e.Env()["DOCKER_HOST"], "--pidfile", filepath.Join(e.dir, "pid"),
			"--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		},
		Ready: func(ctx context.Context) error {
			_, err := e.CLI(ctx, "version", "--format", "{{.Server.Version}}")
			return err
		},
	})
	return e, err
}

// Env is what clients of the engine need.
func (e *Engine) Env() Env {
	return Env{"DOCKER_HOST": "unix://" + filepath.Join(e.dir, "sock"), "DOCKER_CONFIG": filepath.Join(e.dir, "config")}
}

// CLI runs the docker command and returns what it prints, without the line's end.
func (e *Engine) CLI(ctx context.Context, args ...string) (string, error) {
	out, err := Run(ctx, e.dir, e.Env(), e.Docker, args...)
	return strings.TrimSpace(out), err
}

// Import makes an image of a file system, with changes as in a Dockerfile.
func (e *Engine) Import(ctx context.Context, r *Rootfs, name string, changes ...string) (err error) {
	archive := filepath.Join(e.dir, "import.tar")
	f, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	if err := errors.Join(r.Write(f), f.Close()); err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	args := []string{"import"}
	for _, change := range changes {
		args = append(args, "--change", change)
	}
	_, err = e.CLI(ctx, append(args, archive, name)...)
	return errors.Join(err, os.Remove(archive))
}
