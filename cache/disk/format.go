package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"registry-module/cache"
	"registry-module/internal/durable"
)

// formatName is the file that says what the directory contains.
const formatName = "registry-module.json"

// formatVersion is the format that this program writes and the newest that it
// reads.
const formatVersion = 1

// format is the content of the format file.
type format struct {
	Version int `json:"version"`
	// Remote is the host of the remote registry that the repositories under
	// bare names belong to, so that configuring another one does not relabel
	// content. Empty until a remote is configured.
	Remote string `json:"remote,omitempty"`
	// Others are the hosts of the other remotes that the directory has seen, with
	// what stands before the names of their repositories.
	Others map[string]string `json:"others,omitempty"`
}

// Namings returns how the repositories of the remote registries hosts are named in
// the directory, and remembers it for ever. The first remote that a directory sees
// gets the bare names, as does a volume of the stock registry that is adopted; the
// others get their hosts as a prefix. Where there is such a directory already, it
// has repositories of another registry that is called so, and the prefix gets an @,
// which no name of a repository can have. An empty host stands for whoever the bare
// names belong to.
func (s *Store) Namings(hosts ...string) (map[string]cache.Naming, error) {
	f, err := s.format()
	if err != nil {
		return nil, err
	}
	changed := false
	for _, host := range hosts {
		if _, known := f.Others[host]; known || host == "" || host == f.Remote {
			continue
		}
		changed = true
		if f.Remote == "" {
			f.Remote = host
			continue
		}
		prefix := host + "/"
		if taken, err := s.exists(path.Join(reposDir, host)); err != nil {
			return nil, err
		} else if taken {
			prefix = "@" + prefix
		}
		if f.Others == nil {
			f.Others = make(map[string]string)
		}
		f.Others[host] = prefix
	}
	if changed {
		if err := s.setFormat(f); err != nil {
			return nil, err
		}
	}
	namings := make(map[string]cache.Naming, len(hosts))
	for _, host := range hosts {
		if prefix, ok := f.Others[host]; ok {
			namings[host] = cache.Naming{Prefix: prefix}
			continue
		}
		namings[host] = cache.Naming{
			Others: slices.Sorted(maps.Values(f.Others)),
			Aside:  "@" + f.Remote + "/",
		}
	}
	return namings, nil
}

// Hosts returns the hosts of all remotes that the directory has seen: first that of
// the remote that the bare names belong to, which is empty where there is none yet.
func (s *Store) Hosts() ([]string, error) {
	f, err := s.format()
	if err != nil {
		return nil, err
	}
	return append([]string{f.Remote}, slices.Sorted(maps.Keys(f.Others))...), nil
}

// exists tells whether there is something in the directory dir, which is relative
// to the root.
func (s *Store) exists(dir string) (bool, error) {
	for _, err := range s.dirs(dir) {
		return err == nil, err
	}
	return false, nil
}

func (s *Store) format() (format, error) {
	if f := s.unsaved.Load(); f != nil {
		return *f, nil
	}
	const limit = 64 << 10
	data, err := durable.ReadFile(s.fs, s.path(formatName), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return format{Version: formatVersion}, nil
	}
	if err != nil {
		return format{}, fmt.Errorf("format of the data directory: %w", err)
	}
	var f format
	if err := json.Unmarshal(data, &f); err != nil {
		return format{}, fmt.Errorf("%s is damaged: %w; if all content is of one remote, delete the file", s.path(formatName), err)
	}
	for host, prefix := range f.Others {
		if dir := strings.TrimSuffix(prefix, "/"); dir == prefix || dir != host && dir != "@"+host || host == f.Remote || validRepo(dir) != nil {
			return format{}, fmt.Errorf("%s is damaged: repositories of %q cannot be below %q; write its host with a slash behind it", s.path(formatName), host, prefix)
		}
	}
	if f.Version > formatVersion {
		return format{}, fmt.Errorf("the data directory %s has format %d, and this program knows formats up to %d: use a newer version of registry-module", s.root, f.Version, formatVersion)
	}
	return f, nil
}

// setFormat replaces the content of the format file; on a read-only file system, for
// this process only: the same remotes get the same names next time.
func (s *Store) setFormat(f format) error {
	if s.ReadOnly() {
		s.unsaved.Store(&f)
		return nil
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.fs, s.path(formatName), append(data, '\n')); err != nil {
		return fmt.Errorf("format of the data directory: %w", err)
	}
	return nil
}
