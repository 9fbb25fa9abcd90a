package cache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// defaultBindingTTL is that of [Options].BindingTTL.
const defaultBindingTTL = 30 * 24 * time.Hour

// Binding is what a [Name] has turned out to mean.
type Binding struct {
	// Name is as clients call it.
	Name string `json:"name"`
	// Host is the remote where it was found.
	Host string `json:"remote"`
	// Since is when that was.
	Since time.Time `json:"since"`
	// Expires is when it is found out anew; zero is never.
	Expires time.Time `json:"expires,omitzero"`
}

// boundRecord is a Binding in the index.
type boundRecord struct {
	Host  string `json:"h"`
	Since int64  `json:"s"` // Unix nanoseconds
}

// expired tells whether it has to be found out anew. One from the future has not
// expired: the clock was wrong, then or now, and that is no reason to doubt a name.
func (b boundRecord) expired(now time.Time, ttl time.Duration) bool {
	return ttl >= 0 && now.Sub(time.Unix(0, b.Since)) >= ttl
}

// binding returns what is recorded for a name. The error of one that is not bound
// satisfies [absent].
func (c *Cache) binding(ctx context.Context, name string) (boundRecord, error) {
	var b boundRecord
	err := c.record(ctx, key(kindBound, name), &b)
	return b, err
}

// bind records that n means r, and returns r; before is what it meant when it was
// looked for, nil for nothing. Where somebody has bound it to another one meanwhile,
// that one is returned and stays. Where it cannot be recorded it is found out again
// next time.
func (n *Name) bind(ctx context.Context, r, before *Repository) *Repository {
	c := n.c
	c.binds.Lock()
	defer c.binds.Unlock()
	now, settled, err := n.meant(ctx)
	switch {
	case err != nil:
		c.log.WithError(err).Warnf("what the name %s means is not recorded", n.name)
		return r
	case settled:
		return now
	case before == nil:
		c.log.Infof("the name %s is bound to %s, where it was found", n.name, r.remote.Host)
	case before != r:
		c.log.Warnf("the name %s is bound to %s from now on, and not to %s any more", n.name, r.remote.Host, before.remote.Host)
	}
	c.tryApply(ctx, put(key(kindBound, n.name), boundRecord{r.remote.Host, c.opts.Now().UnixNano()}))
	return r
}

// Bindings yields what names have turned out to mean, in the order of the names. An
// error ends the iteration.
func (c *Cache) Bindings(ctx context.Context) iter.Seq2[Binding, error] {
	return c.bindings().Bindings(ctx)
}

// Unbind makes what a name means be found out anew at its next use. It returns
// false where the name was not bound.
func (c *Cache) Unbind(ctx context.Context, name string) (bool, error) {
	return c.bindings().Unbind(ctx, name)
}

func (c *Cache) bindings() Bindings { return Bindings{c.opts.Index, c.settings.Load().bindingTTL} }

// Bindings are those in an index of which no [Cache] makes use.
type Bindings struct {
	Index Index
	// TTL is [Options].BindingTTL.
	TTL time.Duration
}

// Bindings is [Cache.Bindings].
func (b Bindings) Bindings(ctx context.Context) iter.Seq2[Binding, error] {
	prefix := key(kindBound, "")
	return func(yield func(Binding, error) bool) {
		for e, err := range b.Index.Scan(ctx, prefix, nil) {
			var rec boundRecord
			if err == nil {
				err = json.Unmarshal(e.Value, &rec)
			}
			if err != nil {
				yield(Binding{}, fmt.Errorf("listing bindings: %w", err))
				return
			}
			if !yield(b.of(string(bytes.TrimPrefix(e.Key, prefix)), rec), nil) {
				return
			}
		}
	}
}

// of is the binding of which rec is kept.
func (b Bindings) of(name string, rec boundRecord) Binding {
	binding := Binding{Name: name, Host: rec.Host, Since: time.Unix(0, rec.Since)}
	if b.TTL >= 0 {
		binding.Expires = binding.Since.Add(cmp.Or(b.TTL, defaultBindingTTL))
	}
	return binding
}

// Unbind is [Cache.Unbind].
func (b Bindings) Unbind(ctx context.Context, name string) (bool, error) {
	k := key(kindBound, name)
	if _, err := b.Index.Get(ctx, k); err != nil {
		if absent(err) {
			return false, nil
		}
		return false, fmt.Errorf("unbinding %s: %w", name, err)
	}
	if err := b.Index.Apply(ctx, Change{Key: k, Delete: true}); err != nil {
		return false, fmt.Errorf("unbinding %s: %w", name, err)
	}
	return true, nil
}
