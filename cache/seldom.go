package cache

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

const (
	// seldomEvery is how often the same warning is logged at most, seldomSize of how many
	// that is remembered.
	seldomEvery = 10 * time.Minute
	seldomSize  = 1024
)

// seldom are warnings that would come with each request.
type seldom struct {
	last *lru.Cache[string, time.Time]
}

func newSeldom() (seldom, error) {
	last, err := lru.New[string, time.Time](seldomSize)
	return seldom{last}, err
}

// seldom returns where to log what goes by that name: for debugging only, if it was logged
// a short while ago.
func (c *Cache) seldom(name string, err error) func(format string, args ...any) {
	log := c.log.WithError(err)
	now := c.opts.Now()
	if last, ok := c.warned.last.Get(name); ok && within(last, now, seldomEvery) {
		return log.Debugf
	}
	c.warned.last.Add(name, now)
	return log.Warnf
}

// warnPassing tells that there is no room for a blob.
func (c *Cache) warnPassing(dgst digest.Digest, cause error) {
	c.seldom("pass "+dgst.String(), cause)("blob %s is passed through uncached", dgst)
}
