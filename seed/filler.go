package seed

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// filler brings one image.
type filler struct {
	*run
	*image
	track *tracker
	out   SeededImage

	fetched atomic.Int64 // bytes
	stored  atomic.Bool  // something was brought
}

// once brings content into the image's repository, unless it is there. For one content it
// is done by one at a time, since what somebody brings need not be fetched again; and what
// could not be had is not asked for again for another image. Has tells what is there now.
func (f *filler) once(ctx context.Context, dgst digest.Digest, has func() (bool, error), bring func() error) error {
	c := f.contents[dgst]
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p := c.places[f.repo.Key()]
	if p.has && f.loose {
		// Nothing has held it since it was looked for.
		var err error
		if p.has, err = has(); err != nil {
			return fmt.Errorf("looking for what is stored: %w", err)
		}
	}
	if p.has || p.err != nil {
		return p.err
	}
	f.stored.Store(true)
	err := bring()
	p.has = err == nil
	if err != nil && ctx.Err() == nil && !isOver(err) {
		p.err = err
	}
	return err
}
