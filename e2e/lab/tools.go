package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// Tool is a program that is built from a Go module of a fixed version.
type Tool struct {
	// Name is the name of the binary.
	Name string
	// Package is the import path of its main package.
	Package string
	// Version is the version of the module.
	Version string
}

// StockRegistry is the registry that registry-module replaces, the origin of
// the e2e tests and the opponent in the benchmarks.
func StockRegistry() Tool {
	return Tool{"registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2"}
}

// StockRegistry2 builds the registry of the version before, 2.8, and returns the path
// of the binary. Not all that it was made of can be had any more: see the module in
// e2e/stock2.
func StockRegistry2(ctx context.Context) (path string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return build(ctx, root, filepath.Join(root, "e2e/stock2"), "registry2", []string{"CGO_ENABLED=0"}, "-trimpath", "-buildvcs=false", ".")
}

// Zot builds zot as a pull-through cache, in the version that can be had from the module
// proxy, and returns the path of the binary: see the module in e2e/zot.
func Zot(ctx context.Context) (path string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return build(ctx, root, filepath.Join(root, "e2e/zot"), "zot", []string{"CGO_ENABLED=0"},
		"-trimpath", "-buildvcs=false", "-tags=sync,containers_image_openpgp", ".")
}

// Crane is the command of go-containerregistry.
func Crane() Tool {
	return Tool{"crane", "github.com/google/go-containerregistry/cmd/crane", "v0.22.1"}
}

// Oras is the client for artifacts.
func Oras() Tool {
	return Tool{"oras", "oras.land/oras/cmd/oras", "v1.3.6"}
}

// Conformance is the suite of the OCI distribution specification, which it is
// released with.
func Conformance() Tool {
	return Tool{"conformance", "github.com/opencontainers/distribution-spec/conformance", "v0.0.0-20260831232431-97274622c111"}
}

// Install returns the path of the tool's binary. It is built once per user and
// version; processes that want it at the same time wait for each other.
func (t Tool) Install(ctx context.Context) (path string, err error) {
	dir, err := cacheDir(t.Name + "@" + t.Version)
	if err != nil {
		return "", err
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()

	path = filepath.Join(dir, t.Name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// The go command renames the finished binary into place, so what Stat finds
	// is whole.
	cmd := goCommand(ctx, "install", t.Package+"@"+t.Version)
	cmd.Env = append(cmd.Env, "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing %s %s: %w\n%s", t.Name, t.Version, err, out)
	}
	return path, nil
}

// Module builds registry-module from the working tree that the caller runs in,
// as it is released (static and stripped), and returns the path of the binary.
// It takes the go command a second when nothing has changed: call it once.
func Module(ctx context.Context) (path string, err error) {
	return buildModule(ctx, "registry-module", []string{"CGO_ENABLED=0"}, "-trimpath", "-ldflags=-s -w")
}

// RaceModule is as [Module], with the race detector in it, which needs a C
// compiler. Such a process ends with an error if there was a race.
func RaceModule(ctx context.Context) (path string, err error) {
	if _, err := System("gcc", "gcc"); err != nil {
		return "", err
	}
	return buildModule(ctx, "registry-module-race", []string{"CGO_ENABLED=1"}, "-race")
}

func buildModule(ctx context.Context, name string, env []string, flags ...string) (path string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return build(ctx, root, root, name, env, append(flags, "./cmd/registry-module")...)
}

// build runs the go command in a directory of the working tree at root.
func build(ctx context.Context, root, dir, name string, env []string, args ...string) (path string, err error) {
	// Tests of another tree that run meanwhile must not replace the binary of these.
	place, err := cacheDir("module-" + digest.FromString(root).Encoded()[:12])
	if err != nil {
		return "", err
	}
	unlock, err := lock(place)
	if err != nil {
		return "", err
	}
	defer unlock()

	// A binary that runs cannot be written to, but it can be replaced.
	path = filepath.Join(place, name)
	next := path + ".next"
	cmd := goCommand(ctx, slices.Concat([]string{"build", "-o", next}, args)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	if err := os.Rename(next, path); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	return path, nil
}

// System returns the path of a program that the system's package of the given
// name installs.
func System(program, pkg string) (path string, err error) {
	path, err = exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s is missing (install the package %s; `make test` does): %w", program, pkg, err)
	}
	return path, nil
}

// moduleRoot returns the directory of the go.mod that governs the working
// directory.
func moduleRoot(ctx context.Context) (dir string, err error) {
	out, err := goCommand(ctx, "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("looking for go.mod: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("looking for go.mod: not within a Go module")
	}
	return filepath.Dir(mod), nil
}

// goCommand prepares a run of the go command for the machine it runs on,
// whatever platform the tests themselves were built for.
func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "GOOS", "GOARCH", "GOARM", "GO386", "CGO_ENABLED", "GOBIN":
		default:
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

// cacheDir returns a directory below the user's cache directory, which it
// creates.
func cacheDir(name string) (dir string, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for a place for tools: %w", err)
	}
	dir = filepath.Join(base, "registry-module-lab", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making a place for tools: %w", err)
	}
	return dir, nil
}

// lock takes the lock of a directory, for all processes of the machine.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close() // the lock's error says more
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
