package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxFile bounds what is read of a file, in bytes: the Docker configuration of a
// machine that knows thousands of registries.
const maxFile = 1 << 20

// file is something that is kept in a file. It is read each time that it is asked
// for, which costs less than to know whether it has changed: secrets are replaced
// by symbolic links (Kubernetes, Docker), by a rename, or in place, within the
// resolution of a time stamp.
//
// While a file is being replaced it may be gone, empty or cut short. So what was
// good the last time counts as long as nothing better is there.
type file[T any] struct {
	// what is in it, for errors.
	what, path string
	// parse makes sense of the content. Its errors do not repeat any of that.
	parse func(content []byte) (T, error)

	mu      sync.Mutex
	good    bool // content has been read, and value is what it means
	content []byte
	value   T
	problem error // of the last attempt to read
}

func (f *file[T]) read() (T, error) {
	content, err := readFile(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.problem = err }()
	if err == nil {
		if f.good && bytes.Equal(content, f.content) {
			return f.value, nil
		}
		var value T
		if value, err = f.parse(content); err == nil {
			f.good, f.content, f.value = true, content, value
			return value, nil
		}
	}
	err = fmt.Errorf("reading %s from %s: %w", f.what, f.path, err)
	if f.good {
		return f.value, nil
	}
	return f.value, err
}

// stale returns why the last good content counts, nil where it is what the file holds.
func (f *file[T]) stale() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.good {
		return nil
	}
	return f.problem
}

func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, a pipe that nobody writes into would hold us up, and in spite
	// of it, one that somebody holds open.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, withoutPath(err)
	case info.IsDir():
		return nil, syscall.EISDIR
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file, but a pipe or a device")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case len(content) > maxFile:
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	case len(bytes.TrimSpace(content)) == 0:
		return nil, errors.New("it is empty")
	}
	return content, nil
}

// withoutPath leaves out of err what its reader is told anyway.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// secretFile are credentials whose secret is the content of a file.
type secretFile struct {
	file   file[string]
	config func(secret string) authn.AuthConfig
}

func newSecretFile(what, path string, config func(secret string) authn.AuthConfig) *secretFile {
	return &secretFile{file: file[string]{what: what, path: path, parse: parseSecret}, config: config}
}

// parseSecret leaves out the line break that editors, and echo, put at the end.
func parseSecret(content []byte) (string, error) {
	secret := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	return secret, nil
}

func (s *secretFile) get(context.Context) (authn.AuthConfig, error) {
	secret, err := s.file.read()
	if err != nil {
		return authn.AuthConfig{}, err
	}
	return s.config(secret), nil
}

func (s *secretFile) stale() error { return s.file.stale() }

func (s *secretFile) renew(rejected authn.AuthConfig) bool {
	secret, err := s.file.read()
	return err == nil && s.config(secret) != rejected
}
