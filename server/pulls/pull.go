package pulls

import (
	"cmp"
	"container/list"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/server"
)

// How much of a pull is remembered, whatever clients do.
const (
	maxText   = 200 // bytes of a name or an agent
	maxTags   = 8   // tags that were looked up
	maxAlso   = 4   // images that were pulled with it
	maxFailed = 64  // contents that could not be had
	maxReason = 300 // bytes of why
)

// pull is what is known of one.
type pull struct {
	by   *calls
	user string
	at   *list.Element // in the list of those that are open

	begun, ended, last time.Time

	// root is what was asked for first, and image and tag what it is called; it has none
	// while only tags were looked up, or blobs fetched.
	root     digest.Digest
	tag      string
	isIndex  bool
	isPulled bool
	// tags are those that the client has looked up, to ask for what they stand for by its
	// digest then.
	tags map[digest.Digest]string
	also []string // other tags or digests

	requests           int
	fromCache, fetched int64
	// blobsFromCache and blobsFetched are the part of blobs in it.
	blobsFromCache, blobsFetched int64
	stale                        bool

	// failed is what could not be had, and why, without what was had later.
	failed map[string]failure
}

// failure is why something could not be had.
type failure struct {
	left bool // the client did not wait
	err  error
}

// opens tells whether a pull can begin with the request, or is prepared by it.
func opens(a server.Answer) bool {
	switch {
	case a.Kind == server.BlobContent:
		return a.Method == "GET" && a.Result != server.Absent
	case a.Result == server.Absent:
		return false // nothing is pulled, and clients try what need not be there
	case a.Method == "HEAD":
		return isTag(a.Reference) && a.Manifest.Digest != ""
	}
	return true
}

// isTag tells a tag from a digest.
func isTag(reference string) bool { return !strings.Contains(reference, ":") }

func newPull(by *calls, user string, a server.Answer) *pull {
	return &pull{by: by, user: strings.Clone(user), begun: a.Begun}
}

// isOther tells whether the request begins another pull, where nothing is under way: it is
// for the manifest of another image.
func (x *pull) isOther(a server.Answer) bool {
	if a.Kind != server.ManifestContent || a.Method != "GET" || a.Result == server.Absent {
		return false
	}
	id, tag := x.named(a)
	switch {
	case x.root == "": // it has failed, or only looked tags up, or goes on with another one
		return x.tag != "" && tag != x.tag
	case id == x.root:
		return tag != "" && x.tag != "" && tag != x.tag
	case tag != "":
		return true
	}
	return !x.isIndex // which has no manifests of its own
}

// named is what a manifest is called: the tag by which it was asked for, or was looked up
// before.
func (x *pull) named(a server.Answer) (id digest.Digest, tag string) {
	if isTag(a.Reference) {
		return a.Manifest.Digest, a.Reference
	}
	id = digest.Digest(a.Reference)
	return id, x.tags[id]
}

// add counts a request in.
func (x *pull) add(a server.Answer) {
	x.requests++
	if x.last = a.Begun.Add(a.Took); x.last.After(x.ended) {
		x.ended = x.last
	}
	x.stale = x.stale || a.Result == server.Stale // also of a tag that is asked for by its digest then
	if a.Method == "HEAD" {
		if len(x.tags) < maxTags && isTag(a.Reference) && a.Manifest.Digest != "" && a.Kind == server.ManifestContent {
			if x.tags == nil {
				x.tags = make(map[digest.Digest]string)
			}
			x.tags[digest.Digest(strings.Clone(string(a.Manifest.Digest)))] = strings.Clone(cut(a.Reference))
		}
		return
	}
	x.judge(a)
	if a.Status < 400 {
		x.count(a)
	}
	if a.Kind == server.ManifestContent && a.Result != server.Absent {
		x.name(a)
	}
}

// name notes which image a manifest is of.
func (x *pull) name(a server.Answer) {
	x.isPulled = true
	id, tag := x.named(a)
	switch {
	case x.root == "" && (x.tag == "" || x.tag == tag): // the first, or the first that has not failed
		x.root, x.tag = digest.Digest(strings.Clone(string(id))), strings.Clone(cut(tag))
		x.isIndex = isIndex(a.Manifest.MediaType)
	case id == x.root, tag == "" && x.isIndex:
	case len(x.also) < maxAlso:
		other := cmp.Or(cut(tag), string(id))
		if other != "" && !slices.Contains(x.also, other) {
			x.also = append(x.also, strings.Clone(other))
		}
	}
}

// isIndex tells whether what has the media type has manifests of its own.
func isIndex(mediaType string) bool {
	return strings.HasSuffix(mediaType, ".index.v1+json") || strings.HasSuffix(mediaType, ".manifest.list.v2+json")
}

// count counts bytes.
func (x *pull) count(a server.Answer) {
	all, blobs := &x.fromCache, &x.blobsFromCache
	if a.Fetched {
		all, blobs = &x.fetched, &x.blobsFetched
	}
	*all += a.Bytes
	if a.Kind == server.BlobContent {
		*blobs += a.Bytes
		x.isPulled = true
	}
}

// judge notes what went wrong, and forgets what did before and has worked now.
func (x *pull) judge(a server.Answer) {
	f := failure{err: a.Err}
	switch {
	case a.Result == server.Left:
		f.left = true
	case a.Result == server.Failed:
	case a.Result == server.Absent && (a.Kind == server.BlobContent || !isTag(a.Reference)):
		// A part of it. Clients try tags that need not be there.
	case a.Result == server.Absent:
		return
	default:
		delete(x.failed, a.Reference)
		return
	}
	x.isPulled = true
	if x.failed == nil {
		x.failed = make(map[string]failure)
	}
	if _, known := x.failed[a.Reference]; known || len(x.failed) < maxFailed {
		x.failed[strings.Clone(a.Reference)] = f
	}
}

// source says in one word where it came from: what the blobs say, where there were any.
func (x *pull) source() string {
	fromCache, fetched := x.blobsFromCache, x.blobsFetched
	if fromCache+fetched == 0 {
		fromCache, fetched = x.fromCache, x.fetched
	}
	switch {
	case x.stale:
		return "stale"
	case fetched == 0:
		return "cache"
	case fromCache == 0:
		return "remote"
	}
	return "mixed"
}

// write writes the line. There is none where nothing was pulled: who looks whether a tag
// has moved does not.
func (x *pull) write(log logrus.FieldLogger) {
	if !x.isPulled {
		return
	}
	image := x.by.name
	switch {
	case x.tag != "":
		image += ":" + x.tag
	case x.root != "":
		image += "@" + string(x.root)
	}
	fields := logrus.Fields{
		"image": clean(image), "client": clean(x.by.client), "agent": clean(x.by.agent),
		"bytes": x.fromCache + x.fetched, "from_cache": x.fromCache, "fetched": x.fetched,
		"requests": x.requests, "ms": x.ended.Sub(x.begun).Milliseconds(),
	}
	if x.root != "" {
		fields["digest"] = clean(string(x.root))
	}
	if x.user != "" {
		fields["user"] = clean(x.user)
	}
	if len(x.also) > 0 {
		fields["also"] = clean(strings.Join(x.also, " "))
	}
	errs, left := x.reasons()
	if errs+left == 0 || x.fromCache+x.fetched > 0 { // otherwise nothing has come from anywhere
		fields["source"] = x.source()
	}
	entry := log.WithFields(fields)
	switch {
	case errs > 0:
		entry.WithFields(logrus.Fields{"errors": errs, logrus.ErrorKey: x.reason()}).Warn("pull failed")
	case left > 0:
		entry.Info("pull broken off by the client")
	default:
		entry.Info("pulled")
	}
}

// reasons counts what could not be had.
func (x *pull) reasons() (errs, left int) {
	for _, f := range x.failed {
		if f.left {
			left++
		} else {
			errs++
		}
	}
	return errs, left
}

// reason is one of them, the same each time.
func (x *pull) reason() error {
	for _, reference := range slices.Sorted(maps.Keys(x.failed)) {
		f := x.failed[reference]
		switch {
		case f.left:
		case f.err != nil:
			return errors.New(cleanTo(f.err.Error(), maxReason))
		default:
			return cache.ErrNotFound
		}
	}
	return nil
}

// cut is the beginning of s that is remembered.
func cut(s string) string { return s[:min(len(s), maxText)] }

// clone is the same without what it was cut from.
func (c caller) clone() caller {
	return caller{strings.Clone(c.client), strings.Clone(c.agent), strings.Clone(c.name)}
}

// clean is s with nothing in it that could be taken for another line, or another
// direction of writing.
func clean(s string) string { return cleanTo(s, 2*maxText) }

func cleanTo(s string, most int) string {
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most] + "..."
	}
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}
