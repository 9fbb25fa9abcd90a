package cache

import (
	"errors"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// isFull tells whether err is about the room that the storage has.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// ranShort notes that there was no room for content, though the storage has said so:
// somebody else has taken it, or there is a quota. Some is made for who asks for it next.
// After other errors it only notes whether there is room.
func (c *Cache) ranShort(dgst digest.Digest, size int64, err error) {
	c.noRoom(size, err)
	if !isFull(err) {
		return
	}
	c.log.WithError(err).Debugf("making room for %s", dgst)
	c.collector.short.Store(c.space.occupied(max(size, 1)))
	poke(c.collector.kick)
}
