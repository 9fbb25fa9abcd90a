package cache

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Stats returns what the cache has done since it was opened, and what it does now. It looks
// at nothing that is stored, asks the storage how much is free once a second at most, and
// ends with ctx. After an error, which is that, that the storage does not tell, or
// [ErrClosed], what is not known is left as it is in the zero value, or as its fields say;
// counters are right in any case.
func (c *Cache) Stats(ctx context.Context) (Stats, error) {
	// With locks that are held while storage is written to, which can take its time.
	live, _, err := fly(ctx, c, step{name: "count"}, "stats", c.live)
	if err != nil {
		err = fmt.Errorf("finding out what the cache does: %w", err)
	}
	s := Stats{Evictions: make(map[EvictionCause]Count), Space: live.space, Kept: live.kept, Health: c.Health(), Blobs: -1}
	s.Fills = slices.Clone(live.fills) // others may have asked, too
	s.Space.Limit = c.settings.Load().maxSize
	s.Space.Room = c.room.get()
	s.Space.Pinned = c.pinned()
	select {
	case <-c.space.known:
		s.Space.Known = live.asked
	default:
	}
	if c.counters.contentsKnown.Load() {
		s.Blobs = c.counters.contents.Load()
	}
	for i, cause := range evictionCauses() {
		s.Evictions[cause] = c.counters.evicted[i].get()
	}
	for _, r := range *c.remotes.Load() {
		of := RemoteStats{Host: r.Host}
		c.counters.of(r.Host).stats(&of)
		for _, f := range s.Fills {
			if f.Place.Host == r.Host {
				of.Filling++
				if f.Waiting {
					of.Waiting++
				}
			}
		}
		s.Remotes = append(s.Remotes, of)
	}
	return s, err
}

// pinned is how many bytes are pinned, -1 where that is not known.
func (c *Cache) pinned() int64 {
	if c.pins.none() {
		return 0
	}
	return c.counters.pinned.Load()
}

// live is what a cache does now.
type live struct {
	fills []FillStats
	kept  Count
	space SpaceStats
	asked bool // space is known
}

func (c *Cache) live(ctx context.Context) (l live, err error) {
	for _, f := range c.allFills() {
		l.fills = append(l.fills, f.stats())
	}
	for p := range c.counters.passages.Range {
		l.fills = append(l.fills, p.(*passage).stats())
	}
	slices.SortFunc(l.fills, func(a, b FillStats) int { return a.Begun.Compare(b.Begun) })
	l.kept = c.keptNow()
	l.space, err = c.space.stats(ctx)
	l.asked = err == nil
	return l, err
}

// allFills are the downloads that are under way, in no order.
func (c *Cache) allFills() []*fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*fill, 0, len(c.fills))
	for _, f := range c.fills {
		all = append(all, f)
	}
	return all
}

// keptNow is how many unfinished downloads nobody works on, and how many bytes they have.
func (c *Cache) keptNow() (n Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.left {
		n.Times++
		n.Bytes += l.kept
	}
	return n
}

// stats tells how far the download is.
func (f *fill) stats() FillStats {
	s := FillStats{
		Place: f.by.Place(), Digest: f.dgst, Size: -1, Begun: f.begun,
		Waiting: f.queued.Load() > 0, Clients: int(f.clients.Load()), Ahead: true,
	}
	if n := f.named.Load(); n > 0 {
		s.Size = n
	}
	select {
	case <-f.started:
		s.Size = f.size
	default:
	}
	select {
	case <-f.urgent:
		s.Ahead = false
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Have, s.Fetched, s.Failure = f.have.Len(), f.came, f.broke
	if f.came > 0 {
		s.LastByte = f.lastByte
	}
	return s
}

// statsEvery is how often the storage is asked for who only wants to know.
const statsEvery = time.Second

// stats returns the account for who only wants to know.
func (s *space) stats(ctx context.Context) (SpaceStats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.asked.IsZero() || !within(s.asked, now, statsEvery) {
		if _, err := s.look(ctx); err != nil {
			return SpaceStats{}, err
		}
	}
	return SpaceStats{
		Used: s.used + s.written + s.beside, Free: s.unused, Total: s.total, MinFree: s.minFree(s.total),
	}, nil
}
