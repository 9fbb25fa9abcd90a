package cache

import (
	"context"
	"fmt"
)

// Find returns the repository that is meant, of which nothing need be stored. Where that
// can be several, it is the first that has ref, a tag or a digest, or, where ref is empty,
// that exists at all; which one that is, is kept, as with a pull.
func (n *Name) Find(ctx context.Context, ref string) (*Repository, error) {
	switch len(n.among) {
	case 0:
		return nil, fmt.Errorf("repository %s: %w", n.name, ErrNotServed)
	case 1:
		return n.among[0], nil
	}
	if ref == "" {
		return find(ctx, n, allTags, func(r *Repository) (*Repository, error) {
			_, err := r.Tags(ctx, 1, "")
			return r, err
		})
	}
	return find(ctx, n, aContent, func(r *Repository) (*Repository, error) {
		_, err := r.Peek(ctx, ref)
		return r, err
	})
}
