package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

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
}

// Prefix returns what stands before the names of the repositories of the remote
// registry host. The first remote that a directory sees gets the bare names, for
// which the prefix is empty, as does a volume of the stock registry that is
// adopted. An empty host, for no remote, gets the bare names, too.
func (s *Store) Prefix(host string) (string, error) {
	f, err := s.format()
	if err != nil {
		return "", err
	}
	switch {
	case host == "" || f.Remote == host:
		return "", nil
	case f.Remote != "":
		return host + "/", nil
	}
	f.Remote = host
	return "", s.setFormat(f)
}

// BareRemote returns the host of the remote that the bare names belong to, empty
// where there is none yet.
func (s *Store) BareRemote() (string, error) {
	f, err := s.format()
	return f.Remote, err
}

func (s *Store) format() (format, error) {
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
	if f.Version > formatVersion {
		return format{}, fmt.Errorf("the data directory %s has format %d, and this program knows formats up to %d: use a newer version of registry-module", s.root, f.Version, formatVersion)
	}
	return f, nil
}

func (s *Store) setFormat(f format) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.fs, s.path(formatName), append(data, '\n')); err != nil {
		return fmt.Errorf("format of the data directory: %w", err)
	}
	return nil
}
