package cachetest_test

import (
	"testing"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

func TestFakes(t *testing.T) {
	t.Run("index", func(t *testing.T) {
		cachetest.TestIndex(t, func(*testing.T) cache.Index { return new(cachetest.Index) })
	})
	t.Run("blobs", func(t *testing.T) {
		cachetest.TestBlobs(t, func(*testing.T) cache.Blobs { return new(cachetest.Blobs) })
	})
	t.Run("refs", func(t *testing.T) {
		cachetest.TestRefs(t, func(*testing.T) cache.Refs { return new(cachetest.Refs) })
	})
	t.Run("partials", func(t *testing.T) {
		cachetest.TestPartials(t, func(*testing.T) (cache.Blobs, cache.Partials, func() (cache.Blobs, cache.Partials)) {
			blobs := new(cachetest.Blobs)
			partials := &cachetest.Partials{Blobs: blobs}
			return blobs, partials, func() (cache.Blobs, cache.Partials) {
				partials.Restart()
				return blobs, partials
			}
		})
	})
}

func TestMemoryDocument(t *testing.T) {
	cachetest.TestDocument(t, func(*testing.T) cache.Document { return new(cachetest.Document) })
}

func TestMemoryQuarantine(t *testing.T) {
	cachetest.TestQuarantine(t, func(*testing.T) (cache.Blobs, cache.Quarantine) {
		b := new(cachetest.Blobs)
		return b, b
	})
}
