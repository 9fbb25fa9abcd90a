package cache

import "slices"

// Reconfigure stands in for what is being written elsewhere, and is to be replaced by that: it
// replaces the remotes, and nothing else.
func (c *Cache) Reconfigure(opts Options) error {
	c.adding.Lock()
	defer c.adding.Unlock()
	before := *c.remotes.Load()
	var remotes []served
	for _, r := range opts.Remotes {
		i := slices.IndexFunc(before, func(s served) bool { return s.Host == r.Host })
		if i >= 0 && before[i].Upstream == r.Upstream && before[i].TagTTL == r.TagTTL {
			remotes = append(remotes, served{before[i].remote, r.Naming})
			continue
		}
		remotes = append(remotes, served{newRemote(r), r.Naming})
	}
	c.remotes.Store(&remotes)
	return nil
}
