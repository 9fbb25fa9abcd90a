package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"syscall"
	"time"

	"registry-module/internal/durable"
)

// lookEvery is how often it is looked whether files have changed. It costs a call of the
// kernel for each of them, some µs.
const lookEvery = 2 * time.Second

// fileStamp tells versions of a file apart without reading it. The zero value is for one that
// is not there, or cannot be looked at.
type fileStamp struct {
	dev, inode, size uint64
	modified         time.Time
	changed          time.Time // also where its time was set
}

// stampOf looks at a file, and at what a symbolic link leads to: Kubernetes replaces
// directories by means of those.
func stampOf(path string) (s fileStamp) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // a pipe cannot be read again
		return s
	}
	s.size, s.modified = uint64(info.Size()), info.ModTime().UTC()
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.inode = uint64(sys.Dev), sys.Ino
		s.changed = time.Unix(sys.Ctim.Unix()).UTC()
	}
	return s
}

// fileWatch knows what files looked like when they were read.
type fileWatch struct {
	// seen is how they were when they were read, and last how they were at the last look.
	seen, last map[string]fileStamp
}

// look takes note of what files look like before they are read again.
func (w *fileWatch) look() {
	for path := range w.seen {
		w.seen[path] = stampOf(path)
	}
	w.last = nil
}

// read says which files were read since, with the SHA-256 of what they held, or nothing where
// that is not known.
func (w *fileWatch) read(files map[string]string) {
	seen := make(map[string]fileStamp, len(files))
	for path, sum := range files {
		s, ok := w.seen[path]
		if !ok {
			s = stampOf(path)
			if s != (fileStamp{}) && sum != "" && sum != sumOf(path) {
				s = fileStamp{} // it has changed since
			}
		}
		seen[path] = s
	}
	w.seen, w.last = seen, nil
}

// sumOf is the SHA-256 of a file, empty where it cannot be read.
func sumOf(path string) string {
	content, err := durable.ReadFile(durable.OS{}, path, maxConfigFile)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// maxConfigFile bounds, in bytes, what is read of a file: more than package config reads.
const maxConfigFile = 2 << 20

// changed tells whether files have changed since they were read, and not since the last
// call: who writes one in steps is given the time.
func (w *fileWatch) changed() bool {
	now := make(map[string]fileStamp, len(w.seen))
	for path := range w.seen {
		now[path] = stampOf(path)
	}
	settled := maps.Equal(now, w.last)
	w.last = now
	return settled && !maps.Equal(now, w.seen)
}

// watch reloads when it is told to and when files have changed, until ctx ends.
func (r *reloader) watch(ctx context.Context) {
	hangups := r.hangups
	var looks <-chan time.Time
	if r.every > 0 && r.load != nil {
		ticker := time.NewTicker(r.every)
		defer ticker.Stop()
		looks = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			r.program.log.Info("SIGHUP: reading the configuration again")
		case <-looks:
			if !r.filesChanged() {
				continue
			}
			r.program.log.Info("files of the configuration have changed: reading it again")
		}
		if _, err := r.Reload(ctx); err != nil && ctx.Err() == nil {
			r.program.log.Warn(err)
		}
	}
}

// filesChanged is fileWatch.changed, where nobody reads them just now.
func (r *reloader) filesChanged() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.running && r.files.changed()
}
