package cache

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/gc"
)

// Hold keeps content from being removed to make room, because it has expired, or because
// nothing uses it: that of which it was told, whether it is stored already or comes to be,
// and what the manifests among it consist of. Who removes an image by its name can do so;
// what that shares with what is held stays. A hold ends with the process. It is safe for
// use by several goroutines.
type Hold struct {
	c *Cache

	mu       sync.Mutex
	content  map[gc.ID]struct{}
	released bool
}

// Hold returns a hold that keeps nothing yet. The caller releases it.
func (c *Cache) Hold() *Hold { return &Hold{c: c, content: make(map[gc.ID]struct{})} }

// Keep adds content. What is stored of it when Keep returns stays. After Release it does
// nothing.
func (h *Hold) Keep(content ...digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return
	}
	var fresh []gc.ID
	add := func(id gc.ID) bool {
		if _, held := h.content[id]; held {
			return false
		}
		h.content[id] = struct{}{}
		fresh = append(fresh, id)
		return true
	}
	for _, dgst := range content {
		if add(idOf(dgst.String())) {
			h.c.parts(dgst, add, maxHeldNesting)
		}
	}
	h.c.holds.add(fresh)
}

// Release lets all of it go. A second call does nothing.
func (h *Hold) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.c.holds.remove(h.content)
	h.content, h.released = nil, true
}

// maxHeldNesting is how many indexes deep a hold looks; an image is usually in one.
const maxHeldNesting = 4

// parts adds what a stored manifest consists of, as far as that is new.
func (c *Cache) parts(dgst digest.Digest, add func(gc.ID) bool, nesting int) {
	var rec partsRecord
	ctx := context.Background() // it is a matter of memory, or a file
	if c.record(ctx, key(kindParts, dgst.String()), &rec) != nil {
		return // it is none, or not stored
	}
	if !rec.Index || nesting == 0 {
		for _, id := range rec.ids() {
			add(id)
		}
		return
	}
	doc, err := c.readDoc(ctx, dgst)
	if err != nil {
		return
	}
	for _, d := range doc.Manifests {
		if askable(d) && add(idOf(d.Digest.String())) {
			c.parts(d.Digest, add, nesting-1)
		}
	}
}

// holds are what all holds keep. The zero value is ready.
type holds struct {
	// mu is held for reading by who removes something, from when it has looked whether that
	// is held until it is gone.
	mu    sync.RWMutex
	count map[gc.ID]int // by how many
}

func (h *holds) add(content []gc.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count == nil {
		h.count = make(map[gc.ID]int)
	}
	for _, id := range content {
		h.count[id]++
	}
}

func (h *holds) remove(content map[gc.ID]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range content {
		if h.count[id]--; h.count[id] <= 0 {
			delete(h.count, id)
		}
	}
}

// removing makes those wait who want to hold something until the end is called.
func (h *holds) removing() (end func()) {
	h.mu.RLock()
	return h.mu.RUnlock
}

// adding makes those wait who want to remove something until the end is called.
func (h *holds) adding() (end func()) {
	h.mu.Lock()
	return h.mu.Unlock
}

// has tells whether content is held. The caller has called removing.
func (h *holds) has(dgst digest.Digest) bool { return h.count[idOf(dgst.String())] > 0 }

// all returns what is held, in order.
func (h *holds) all() []gc.ID {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Sorted(maps.Keys(h.count))
}
