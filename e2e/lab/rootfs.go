package lab

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Rootfs is the file system of an image that is made of what this machine has, and so
// without a network. The zero value is empty.
type Rootfs struct {
	entries map[string]rootfsEntry // by name, without a slash in front
}

type rootfsEntry struct {
	header tar.Header
	path   string // of a file on this machine; a directory has none
}

func (r *Rootfs) add(name string, header tar.Header, path string) {
	if r.entries == nil {
		r.entries = map[string]rootfsEntry{}
	}
	name = strings.TrimPrefix(filepath.ToSlash(name), "/")
	header.Name = name
	r.entries[name] = rootfsEntry{header, path}
}

// Dir adds a directory that belongs to a user and the group of the same number.
func (r *Rootfs) Dir(name string, mode int64, user int) {
	r.add(strings.TrimSuffix(name, "/")+"/", tar.Header{Typeflag: tar.TypeDir, Mode: mode, Uid: user, Gid: user}, "")
}

// File adds a file of this machine under a name.
func (r *Rootfs) File(name, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("adding %s: %w", name, err)
	}
	r.add(name, tar.Header{Mode: int64(info.Mode().Perm()), Size: info.Size()}, path)
	return nil
}

// Program adds a program under a name, and the libraries that it is linked with where
// they are on this machine. One that is static has none.
func (r *Rootfs) Program(name, path string) error {
	if err := r.File(name, path); err != nil {
		return err
	}
	// Lines are "name => /path (address)", or "/path (address)" for the loader.
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("looking for the libraries of %s: %w\n%s", path, err, out)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			if err := r.File(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// Write writes it as a tar archive.
func (r *Rootfs) Write(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		entry := r.entries[name]
		if err := archive.WriteHeader(&entry.header); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		if entry.path == "" {
			continue
		}
		if err := copyFile(archive, entry.path); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return archive.Close()
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
