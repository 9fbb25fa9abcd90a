// Package cachetest holds what tests of the cache and of its stores share:
// contract suites for the interfaces that package cache consumes, and in-memory
// fakes that pass them.
//
// It trusts nothing, is imported by tests only, and imports, of this module,
// only cache and internal packages.
package cachetest

import (
	"bytes"
	"context"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// Index is a [cache.Index] in memory. The zero value is empty and ready.
type Index struct {
	mu sync.Mutex
	m  map[string][]byte
}

// Get implements cache.Index.
func (x *Index) Get(_ context.Context, key []byte) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v, ok := x.m[string(key)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return v, nil
}

// Apply implements cache.Index.
func (x *Index) Apply(_ context.Context, changes ...cache.Change) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = make(map[string][]byte)
	}
	for _, c := range changes {
		if c.Delete {
			delete(x.m, string(c.Key))
		} else {
			x.m[string(c.Key)] = bytes.Clone(c.Value)
		}
	}
	return nil
}

// Scan implements cache.Index.
func (x *Index) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	return func(yield func(cache.Entry, error) bool) {
		x.mu.Lock()
		m := maps.Clone(x.m)
		x.mu.Unlock()
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !strings.HasPrefix(k, string(prefix)) || k < string(from) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(cache.Entry{}, err)
				return
			}
			if !yield(cache.Entry{Key: []byte(k), Value: m[k]}, nil) {
				return
			}
		}
	}
}

// Refs is a [cache.Refs] in memory. The zero value is empty and ready.
type Refs struct {
	mu sync.Mutex
	m  map[cache.Ref]digest.Digest
}

var _ cache.Refs = (*Refs)(nil)

// Get implements cache.Refs.
func (r *Refs) Get(_ context.Context, ref cache.Ref) (digest.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dgst, ok := r.m[ref]
	if !ok {
		return "", fs.ErrNotExist
	}
	return dgst, nil
}

// Put implements cache.Refs.
func (r *Refs) Put(_ context.Context, ref cache.Ref, dgst digest.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = make(map[cache.Ref]digest.Digest)
	}
	r.m[ref] = dgst
	return nil
}

// Remove implements cache.Refs.
func (r *Refs) Remove(_ context.Context, ref cache.Ref) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, ref)
	return nil
}

// All implements cache.Refs.
func (r *Refs) All(context.Context) iter.Seq2[cache.RefEntry, error] {
	r.mu.Lock()
	m := maps.Clone(r.m)
	r.mu.Unlock()
	return func(yield func(cache.RefEntry, error) bool) {
		for ref, dgst := range m {
			if !yield(cache.RefEntry{Ref: ref, Digest: dgst}, nil) {
				return
			}
		}
	}
}
