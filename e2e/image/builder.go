// Package image tests the image that the Dockerfile makes: it builds it with a
// real Docker Engine, runs it and looks at it from outside.
//
// The builder image that the Dockerfile names comes from a registry, which a
// test must not depend on. [Builder] makes one with the same parts from the
// machine's own Go toolchain, so that every line of the Dockerfile is run.
//
// It imports e2e/lab for the engine, and nothing else of this module.
package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Builder writes the file system of a builder image as a tar archive: a shell,
// CA certificates, the Go toolchain, and those modules that pkg, a package of
// the module in root, is built from.
func Builder(ctx context.Context, w io.Writer, root, pkg string) error {
	b := &builder{tar: tar.NewWriter(w), done: map[string]bool{}}
	if err := errors.Join(b.shell(), b.toolchain(ctx), b.modules(ctx, root, pkg)); err != nil {
		return fmt.Errorf("making a builder image: %w", err)
	}
	if err := b.tar.Close(); err != nil {
		return fmt.Errorf("making a builder image: %w", err)
	}
	return nil
}

// BuilderEnv is the environment of the builder image.
func BuilderEnv() []string {
	return []string{
		"PATH=/usr/local/go/bin:/bin",
		"GOMODCACHE=" + moduleCache,
		"GOCACHE=/tmp/go-build",
		// All is there; what is not, the build must not look for.
		"GOPROXY=off",
		"GOTOOLCHAIN=local",
		// go.sum holds the checksums; the database is on the net.
		"GONOSUMDB=*",
	}
}

const moduleCache = "/go/pkg/mod"

type builder struct {
	tar  *tar.Writer
	done map[string]bool // names in the archive
}

// shell adds what the commands of the Dockerfile need beside Go.
func (b *builder) shell() error {
	for name, program := range map[string]string{"bin/sh": "sh", "bin/mkdir": "mkdir", "bin/cp": "cp", "bin/chmod": "chmod"} {
		path, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		if err := b.program(path, name); err != nil {
			return err
		}
	}
	const certificates = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(certificates); err != nil {
		return fmt.Errorf("no CA certificates (install the package ca-certificates; `make test` does): %w", err)
	}
	return errors.Join(b.file(certificates, certificates), b.dir("/tmp", 0o1777))
}

// program adds a program under a name, and the libraries that it is linked
// with, where they are.
func (b *builder) program(path, name string) error {
	if err := b.file(path, name); err != nil {
		return err
	}
	// Lines are "name => /path (address)", or "/path (address)" for the loader.
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("looking for the libraries of %s: %w", path, err)
	}
	for line := range strings.Lines(string(out)) {
		for word := range strings.FieldsSeq(line) {
			if filepath.IsAbs(word) {
				if err := b.file(word, word); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// toolchain adds what the go command needs to build.
func (b *builder) toolchain(ctx context.Context) error {
	goroot, err := output(ctx, "", "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	for _, part := range []string{"VERSION", "go.env", "bin/go", "pkg", "src"} {
		if err := b.tree(filepath.Join(goroot, part), filepath.Join("/usr/local/go", part)); err != nil {
			return err
		}
	}
	return nil
}

// modules adds the source of the modules that pkg is built from, and what the
// go command asks its cache about them.
func (b *builder) modules(ctx context.Context, root, pkg string) error {
	cache, err := output(ctx, root, "go", "env", "GOMODCACHE")
	if err != nil {
		return err
	}
	out, err := output(ctx, root, "go", "list", "-deps", "-f", "{{with .Module}}{{.Dir}}{{end}}", pkg)
	if err != nil {
		return err
	}
	dirs := strings.Fields(out)
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		rel, err := filepath.Rel(cache, dir)
		if err != nil || !filepath.IsLocal(rel) {
			continue // the module itself, which the Dockerfile copies
		}
		if err := b.tree(dir, filepath.Join(moduleCache, rel)); err != nil {
			return err
		}
	}
	download := filepath.Join(cache, "cache", "download")
	return filepath.WalkDir(download, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".info", ".mod", ".ziphash":
			rel, err := filepath.Rel(cache, path)
			if err != nil {
				return err
			}
			return b.file(path, filepath.Join(moduleCache, rel))
		}
		return nil
	})
}

// tree adds a file, or a directory with all below it.
func (b *builder) tree(path, name string) error {
	return filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "testdata" {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		return b.file(p, filepath.Join(name, rel))
	})
}

// file adds a regular file under a name, once.
func (b *builder) file(path, name string) error {
	name = strings.TrimPrefix(filepath.ToSlash(name), "/")
	if b.done[name] {
		return nil
	}
	b.done[name] = true
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}
	if err := b.tar.WriteHeader(header); err != nil {
		return err
	}
	if _, err := bufio.NewReader(f).WriteTo(b.tar); err != nil {
		return fmt.Errorf("adding %s: %w", path, err)
	}
	return nil
}

func (b *builder) dir(name string, mode int64) error {
	return b.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(name, "/") + "/", Mode: mode})
}

// output runs a command and returns what it prints, without the line's end.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return "", fmt.Errorf("running %s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
