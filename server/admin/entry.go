package admin

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// entry is an image in a form of which there can be many: texts that many have are there
// once, and times are numbers.
type entry struct {
	asked, repository, remote, name, mediaType string // asked is without tag and digest

	tag             string
	digest          digest.Digest
	platforms       []string
	pins            []cache.Pin
	size, unique    int64
	used, confirmed int64 // nanoseconds of Unix time, 0 for none
	missing         int32
	complete        bool
}

// packer makes entries of images.
type packer struct {
	name      func(cache.Place) string
	texts     map[string]string
	platforms map[string][]string
	pins      map[string][]cache.Pin
	last      entry // the one before, of which the name is known
}

func (p *packer) text(s string) string {
	if known, ok := p.texts[s]; ok {
		return known
	}
	s = strings.Clone(s)
	p.texts[s] = s
	return s
}

func (p *packer) pack(i cache.Image) entry {
	e := entry{
		repository: p.text(i.Repository), remote: p.text(i.Remote), name: p.text(i.Name), mediaType: p.text(i.MediaType),
		tag: strings.Clone(i.Tag), digest: digest.Digest(strings.Clone(string(i.Digest))),
		size: i.Size, unique: i.Unique, used: packTime(i.Used), confirmed: packTime(i.Confirmed),
		missing: int32(min(i.Missing, 1<<30)), complete: i.Complete,
	}
	switch {
	case p.last.asked != "" && p.last.repository == e.repository && p.last.remote == e.remote:
		e.asked = p.last.asked
	case p.name == nil || i.Name == "":
		e.asked = cmp.Or(e.name, e.repository)
	default:
		e.asked = p.text(p.name(cache.Place{Host: i.Remote, Repo: i.Name}))
	}
	if len(i.Platforms) > 0 {
		key := strings.Join(i.Platforms, "\x00")
		if _, ok := p.platforms[key]; !ok {
			p.platforms[key] = i.Platforms
		}
		e.platforms = p.platforms[key]
	}
	if len(i.Pins) > 0 {
		key := fmt.Sprint(i.Pins)
		if _, ok := p.pins[key]; !ok {
			p.pins[key] = i.Pins
		}
		e.pins = p.pins[key]
	}
	p.last = e
	return e
}

func (e *entry) unpack() Image {
	asked := e.asked + ":" + e.tag
	if e.tag == "" {
		asked = e.asked + "@" + e.digest.String()
	}
	return Image{
		Image: cache.Image{
			Repository: e.repository, Remote: e.remote, Name: e.name, Tag: e.tag, Digest: e.digest, MediaType: e.mediaType,
			Platforms: e.platforms, Size: e.size, Unique: e.unique, Complete: e.complete, Missing: int(e.missing),
			Used: unpackTime(e.used), Confirmed: unpackTime(e.confirmed), Pins: e.pins,
		},
		Pinned: len(e.pins) > 0, Asked: asked,
	}
}

// matches tells whether text, in lower case, is in the entry's name, tag or digest, or in
// the reference that they make up.
func (e *entry) matches(text string) bool {
	if text == "" {
		return true
	}
	return strings.Contains(strings.ToLower(e.asked), text) || strings.Contains(strings.ToLower(e.repository), text) ||
		strings.Contains(strings.ToLower(e.tag), text) || strings.Contains(e.digest.String(), text) ||
		strings.ContainsAny(text, ":@") && strings.Contains(strings.ToLower(e.unpack().Asked), text)
}

// compareBy compares by one property.
func compareBy(sort string, a, b *entry) int {
	switch sort {
	case SortSize:
		return cmp.Compare(a.size, b.size)
	case SortUsed:
		return cmp.Compare(a.used, b.used)
	case SortPinned:
		return cmp.Compare(min(len(a.pins), 1), min(len(b.pins), 1))
	}
	return cmp.Or(cmp.Compare(a.asked, b.asked), cmp.Compare(a.tag, b.tag), cmp.Compare(a.digest, b.digest), cmp.Compare(a.remote, b.remote))
}

func compare(sort string, a, b *entry) int {
	return cmp.Or(compareBy(sort, a, b), compareBy(SortName, a, b))
}

func packTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func unpackTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
