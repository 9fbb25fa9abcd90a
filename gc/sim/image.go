package sim

import (
	"math"

	"registry-module/gc"
)

// Slack is the part of the limit that is freed at least when anything is, so
// that not each pull has to evict: the low watermark.
const Slack = 0.02

// Policy says what images are worth.
type Policy struct {
	Name string
	// Forget tells whether the history of an image that was evicted is no
	// longer remembered. Nil forgets at once.
	Forget func(s State, turns float64) bool
	// Succeed, if not nil, is called when a tag moves, as [gc.Use.Succeed].
	Succeed func(old, new State) (State, State)
	// Touch returns what an image is worth after one more use of it.
	Touch func(s State, n Now) State
}

// State is what a policy knows of an image.
type State struct {
	Use   gc.Use
	Count float64    // of uses
	Last  float64    // turns at the last use
	Times [2]float64 // of the last uses, in pulls
}

// Now is what a policy may know when an image is used.
type Now struct {
	Number int     // of the pull, from 1
	Turns  float64 // how many times the limit has been filled
	Size   int64   // of the image
	Floor  float64 // the highest score that was evicted
}

// ByImage returns how many bytes are fetched from upstream where whole images
// are evicted, by the real plan, with limit bytes of space.
func ByImage(t Trace, limit int64, p Policy) (upstream int64) {
	c := images{
		Trace:  t,
		states: make([]State, len(t.Images)),
		place:  make([]int, len(t.Images)),
		moved:  make([]bool, len(t.Images)),
		has:    make([]bool, len(t.Sizes)),
		users:  make([]int, len(t.Sizes)),
		free:   limit,
	}
	floor := 0.0
	for i, pull := range t.Pulls {
		image := pull.Image
		missing, size := int64(0), int64(0)
		for _, b := range pull.Blobs {
			size += t.Sizes[b]
			if !c.has[b] {
				missing += t.Sizes[b]
			}
		}
		turns := float64(upstream) / float64(limit)
		s := &c.states[image]
		if c.place[image] == 0 && (p.Forget == nil || p.Forget(*s, turns)) {
			*s = State{}
		}
		if before := t.Before[image]; before >= 0 && p.Succeed != nil && !c.moved[image] {
			c.moved[image] = true
			old := &c.states[before]
			if c.place[before] == 0 && (p.Forget == nil || p.Forget(*old, turns)) {
				*old = State{}
			}
			*old, *s = p.Succeed(*old, *s)
		}
		*s = p.Touch(*s, Now{Number: i + 1, Turns: turns, Size: size, Floor: floor})
		s.Last = turns
		upstream += missing
		if missing > c.free {
			floor = max(floor, c.evict(pull, max(missing-c.free, int64(Slack*float64(limit)))))
		}
		if missing <= c.free {
			c.store(pull)
		}
	}
	return upstream
}

// images is a cache.
type images struct {
	Trace
	states []State
	stored []int  // images
	place  []int  // of each image in stored plus 1, or 0
	moved  []bool // whether the tag was seen to move to each image
	has    []bool // each blob
	users  []int  // how many stored images name each blob
	free   int64
}

func (c *images) store(p Pull) {
	for _, b := range p.Blobs {
		if !c.has[b] {
			c.has[b] = true
			c.free -= c.Sizes[b]
		}
	}
	if c.place[p.Image] == 0 {
		c.stored = append(c.stored, p.Image)
		c.place[p.Image] = len(c.stored)
		for _, b := range c.Images[p.Image] {
			c.users[b]++
		}
	}
}

// evict frees bytes if it can, without what is pulled, and returns the highest
// score of what was evicted.
func (c *images) evict(p Pull, bytes int64) float64 {
	g := new(gc.Graph)
	byID := make(map[gc.ID]int, len(c.stored))
	for _, image := range c.stored {
		for _, b := range c.Images[image] {
			if c.has[b] {
				g.Add(blobID(b), c.Sizes[b], gc.Use{})
			}
		}
		id := c.manifest(image)
		g.Add(id, 0, c.states[image].Use)
		byID[id] = image
	}
	for id, image := range byID {
		var ids []gc.ID
		for _, b := range c.Images[image] {
			ids = append(ids, blobID(b))
		}
		g.Manifest(id, ids)
	}
	g.Busy(c.manifest(p.Image))
	for _, b := range p.Blobs {
		g.Busy(blobID(b))
	}
	score := math.Inf(-1)
	for _, v := range g.Plan(gc.PlanOptions{Free: bytes}).Victims {
		score = max(score, v.Use.Score)
		c.remove(byID[v.ID])
	}
	return score
}

func (c *images) remove(image int) {
	last := len(c.stored) - 1
	c.stored[c.place[image]-1] = c.stored[last]
	c.place[c.stored[last]] = c.place[image]
	c.stored = c.stored[:last]
	c.place[image] = 0
	for _, b := range c.Images[image] {
		c.users[b]--
		if c.users[b] == 0 && c.has[b] {
			c.has[b] = false
			c.free += c.Sizes[b]
		}
	}
}

// blobID returns an ID that is spread like a digest.
func blobID(b int) gc.ID { return gc.ID(b+1) * 0x9e3779b97f4a7c15 }

// manifest returns the ID of the manifest of an image, whose size is counted
// with that of its config, its last blob.
func (c *images) manifest(image int) gc.ID { return blobID(len(c.Sizes) + image) }
