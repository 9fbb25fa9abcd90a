package source

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"registry-module/seed"
)

// version is that of the format of seed files.
const version = "1"

const (
	// maxElements is how many elements a list within a seed file can have, and maxPattern
	// how long a text in it can be, in bytes. No selection that somebody understands is
	// larger.
	maxElements = 100
	maxPattern  = 1024
)

// seedFile reads a seed file. What it does not know in it is an error: what was meant by a
// misspelled key would not be done.
func (r *reader) seedFile(doc *node) {
	f := r.keys(doc, place{}, "version", "schedule", "platforms", "referrers", "pin", "prune", "images")
	switch v := f["version"]; {
	case v.absent():
		r.bad(place{}, "has no version: write version: %s at its beginning", version)
	case v.kind != scalar || v.text != version:
		r.bad(place{line: v.line}, "its version is none that is known: write version: %s", version)
	}
	r.schedule(f["schedule"])
	if p, ok := r.boolean(f["prune"], place{}, "prune", false); ok && !f["prune"].absent() {
		r.doc.Prune = &p
	}
	var defaults seed.Want
	r.options(&defaults, f, place{})

	images := f["images"]
	if images.absent() || images.kind != sequence || len(images.items) == 0 {
		at := place{}
		if images != nil {
			at.line = images.line
		}
		r.bad(at, "names no image: write images: and below it, for example, - quay.io/team/app:1.2")
		return
	}
	for _, item := range images.items {
		if r.full() || !r.step(1) {
			return
		}
		r.entry(item, defaults)
	}
}

// schedule reads when to seed.
func (r *reader) schedule(n *node) {
	for _, e := range r.texts(n, place{}, "schedule") {
		at := place{line: e.line}
		if fields := len(strings.Fields(e.text)); fields != 5 {
			r.bad(at, "schedule %q is no cron expression: write five fields, minute, hour, day of the month, month and day of the week, for example \"0 2 * * *\" for each night at two", shown(e.text))
			continue
		}
		if r.o.CheckSchedule != nil {
			if err := r.o.CheckSchedule(e.text); err != nil {
				r.bad(at, "schedule %q %v", shown(e.text), err)
				continue
			}
		}
		r.doc.Schedule = append(r.doc.Schedule, e.text)
	}
}

// entry reads an element of images.
func (r *reader) entry(item *node, defaults seed.Want) {
	at := place{line: item.line}
	w := defaults
	switch {
	case item.kind == mapping:
		f := r.keys(item, at, "image", "tags", "platforms", "referrers", "pin")
		written, ok := f["image"].string()
		if !ok {
			r.bad(at, "has no image: write image: and what it is, for example quay.io/team/app")
			return
		}
		at.line = f["image"].line
		// All that is wrong with an entry is reported, and not what is wrong first.
		w.Image, ok = r.expanded(written, placeholders{}, at)
		if !r.options(&w, f, at) {
			ok = false
		}
		if f["tags"] != nil {
			w.Tags = r.tags(f["tags"])
			if _, tag, dgst := cut(w.Image); ok && (tag != "" || dgst != "") {
				r.bad(at, "%q has a tag or a digest, and tags beside it: leave out one of them", shownImage(written))
				return
			}
			ok = ok && w.Tags != nil
		}
		if !ok {
			return
		}
	default:
		written, ok := item.string()
		if !ok {
			r.bad(at, "is no image: write it as text, or image: with its options below it")
			return
		}
		if w.Image, ok = r.expanded(written, placeholders{}, at); !ok {
			return
		}
	}
	r.add(w, at)
}

// options reads what there is for all images and for each of them.
func (r *reader) options(w *seed.Want, f map[string]*node, at place) bool {
	referrers, ok1 := r.boolean(f["referrers"], at, "referrers", !w.Bare)
	pin, ok2 := r.boolean(f["pin"], at, "pin", !w.Loose)
	w.Bare, w.Loose = !referrers, !pin
	ok := ok1 && ok2
	if f["platforms"].absent() {
		return ok
	}
	w.Platforms = nil
	for _, e := range r.texts(f["platforms"], at, "platforms") {
		switch {
		case slices.Contains(w.Platforms, e.text):
		case platform.MatchString(e.text):
			w.Platforms = append(w.Platforms, e.text)
		default:
			r.bad(place{line: e.line}, "%q is no platform: write os/architecture or os/architecture/variant, for example linux/arm64 or linux/arm/v7", shown(e.text))
			ok = false
		}
	}
	return ok && len(w.Platforms) > 0
}

// platform is os/architecture[/variant].
var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)

// tags reads a choice of tags. It is nil where something is wrong.
func (r *reader) tags(n *node) *seed.Tags {
	at, wrong := place{line: n.line}, r.wrong()
	f := r.keys(n, at, "glob", "semver", "regexp", "newest")
	var t seed.Tags
	for _, e := range r.texts(f["glob"], at, "glob") {
		if !doublestar.ValidatePattern(e.text) || strings.ContainsAny(e.text, "/: ") {
			r.bad(place{line: e.line}, "glob %q is no pattern for tags: write for example 1.27*, and end what begins with { or [", shown(e.text))
		}
		t.Glob = append(t.Glob, e.text)
	}
	t.Regexp = r.one(f["regexp"], at, "regexp")
	if _, err := regexp.Compile(t.Regexp); err != nil {
		r.bad(place{line: f["regexp"].line}, "regexp %q is no regular expression: %s", shown(t.Regexp), shown(strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
	}
	t.SemVer = r.one(f["semver"], at, "semver")
	if v := f["newest"]; !v.absent() {
		newest, err := strconv.ParseInt(v.text, 10, 32)
		if v.kind != scalar || v.str || err != nil || newest < 1 {
			r.bad(place{line: v.line}, "newest is no number of tags: write for example newest: 3, or leave it out for all")
		}
		t.Newest = int(newest)
	}
	if r.wrong() == wrong && r.o.CheckTags != nil {
		if err := r.o.CheckTags(t); err != nil {
			r.bad(at, "tags %v", err)
		}
	}
	if r.wrong() > wrong {
		return nil
	}
	return &t
}

// keys returns the values of a mapping by their keys, and reports those that are not known
// or there twice.
func (r *reader) keys(n *node, at place, known ...string) map[string]*node {
	values := map[string]*node{}
	if n.kind != mapping {
		r.bad(at, "is no mapping: write %s", strings.Join(known, ", "))
		return values
	}
	if !r.step(len(n.items)) {
		return values
	}
	for i := 0; i+1 < len(n.items); i += 2 {
		key := n.items[i]
		at := place{line: key.line}
		switch {
		case key.kind != scalar || !slices.Contains(known, key.text):
			r.bad(at, "%q is no key that is known here: write one of %s", shown(key.text), strings.Join(known, ", "))
		case values[key.text] != nil:
			r.bad(at, "%s is there twice: leave out one of them", key.text)
		default:
			values[key.text] = n.items[i+1]
		}
	}
	return values
}

// texts reads a text or a list of them. Of texts that are wrong it reports that.
func (r *reader) texts(n *node, at place, key string) []*node {
	if n.absent() {
		return nil
	}
	at.line = n.line
	list := []*node{n}
	if n.kind == sequence {
		list = n.items
		if len(list) == 0 {
			r.bad(at, "%s is an empty list: leave it out", key)
		}
	}
	if len(list) > maxElements {
		r.bad(at, "%s has more than %d elements", key, maxElements)
		return nil
	}
	var texts []*node
	for _, e := range list {
		if !r.step(1) {
			return nil
		}
		if text := r.one(e, at, key); text != "" {
			texts = append(texts, e)
		}
	}
	return texts
}

// one reads a text. It is empty where there is none.
func (r *reader) one(n *node, at place, key string) string {
	if n == nil {
		return ""
	}
	at.line = n.line
	text, ok := n.string()
	switch {
	case !ok:
		r.bad(at, "%s is not text: put it in quotation marks", key)
	case text == "":
		r.bad(at, "%s is empty: leave it out", key)
	case len(text) > maxPattern:
		r.bad(at, "%s is longer than %d bytes", key, maxPattern)
	default:
		return text
	}
	return ""
}

// boolean reads a yes or no, which is otherwise where there is none.
func (r *reader) boolean(n *node, at place, key string, otherwise bool) (value, ok bool) {
	switch {
	case n.absent():
		return otherwise, true
	case n.kind == scalar && !n.str && (n.text == "true" || n.text == "false"):
		return n.text == "true", true
	}
	at.line = n.line
	r.bad(at, "%s is no yes or no: write %s: true or %s: false", key, key, key)
	return otherwise, false
}
