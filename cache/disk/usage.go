package disk

import (
	"context"
	"fmt"
	"math"

	"registry-module/cache"
	"registry-module/internal/durable"
)

var _ cache.Usage = (*Store)(nil)

// Free implements cache.Blobs.
func (s *Store) Free(context.Context) (free, total int64, err error) {
	free, total, err = statfs(s.root)
	if err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", s.root, err)
	}
	return free, total, nil
}

// Occupies implements cache.Usage. It is what du(1) shows on ext4 for a blob: the content
// and its directory, each in whole blocks. Other file systems take less for directories
// and short files.
func (s *Store) Occupies(size int64) int64 {
	const others = 1
	size = max(size, 0)
	if size > math.MaxInt64-(others+1)*s.block {
		return math.MaxInt64
	}
	return (size+s.block-1)/s.block*s.block + others*s.block
}

// OccupiesRef implements cache.Usage: the link and its directory, of a tag one more, and
// of a manifest those that a repository has beside it.
func (s *Store) OccupiesRef(kind cache.RefKind) int64 {
	switch kind {
	case cache.RefManifest:
		return 10 * s.block
	case cache.RefTag:
		return 3 * s.block
	default:
		return 2 * s.block
	}
}

// Beside implements cache.Usage. It looks at each file that is neither below docker/
// nor below partial/: some hundreds of the index, and a few others.
func (s *Store) Beside(ctx context.Context) (int64, error) {
	entries, err := s.fs.ReadDir(s.root)
	if err != nil {
		return 0, fmt.Errorf("size of the data directory: %w", s.advise(err))
	}
	var sum int64
	for _, e := range entries {
		if e.Name() == dockerDir || e.Name() == partialDir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := durable.Allocated(s.fs, s.path(e.Name()))
		if err != nil {
			return 0, fmt.Errorf("size of the data directory: %w", err)
		}
		sum += n
	}
	return sum, nil
}
