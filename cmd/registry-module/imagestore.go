package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"registry-module/cache"
	"registry-module/config"
	"registry-module/upstream/router"
)

// namedImages are what a store holds.
type namedImages struct {
	store imageStore
	names *imageNames
}

// newNamedImages finds what is in store by the names that remotes and routes give it.
func newNamedImages(store imageStore, b bindings, remotes []cache.Remote, routes []router.Remote) (*namedImages, error) {
	names, err := newImageNames(b, remotes, routes)
	return &namedImages{store, names}, err
}

// found is something that is stored, under a name that it has.
type found struct {
	repository, ref string // ref is a tag or a digest, or empty for the whole repository
	remote          string
	pins            []cache.Pin // that keep it
	detail          cache.ImageDetail
}

func (f found) String() string { return imageName(f.repository, f.ref) }

// imageName is REPOSITORY:TAG or REPOSITORY@DIGEST.
func imageName(repository, ref string) string {
	switch {
	case ref == "":
		return repository
	case strings.Contains(ref, ":"):
		return repository + "@" + ref
	}
	return repository + ":" + ref
}

// find returns what somebody means by image; without tag and digest, what lookUp makes
// of no ref. What can mean two things is an error: one of them may be to be removed.
func (n *namedImages) find(ctx context.Context, image, ref string, lookUp func(ctx context.Context, repository, ref string) (found, error)) (found, error) {
	repository, tag, dgst := config.CutReference(image)
	if dgst != "" {
		ref = dgst
	} else if tag != "" {
		ref = tag
	}
	asClients, asListed, err := n.names.keys(ctx, repository)
	if err != nil {
		return found{}, err
	}
	if len(asClients) == 0 && asListed == "" {
		return found{}, &saidError{errBadPattern, fmt.Sprintf("%q is not the name of an image: write [HOST/]NAME:TAG or [HOST/]NAME@DIGEST", image)}
	}
	if dgst != "" {
		if ref, err = n.wholeDigest(ctx, dgst, n.keysOf(asClients, asListed)); err != nil {
			return found{}, err
		}
	}
	var hits []found
	for _, p := range asClients {
		f, err := lookUp(ctx, n.names.key(p), ref)
		if errors.Is(err, cache.ErrNotFound) {
			continue
		}
		if err != nil {
			return found{}, err
		}
		hits = append(hits, f)
		break
	}
	if asListed != "" {
		f, err := lookUp(ctx, asListed, ref)
		if err != nil && !errors.Is(err, cache.ErrNotFound) {
			return found{}, err
		}
		if err == nil {
			hits = append(hits, f)
		}
	}
	switch len(hits) {
	case 0:
		return found{}, &saidError{cache.ErrNotFound, fmt.Sprintf("%s is not stored: `registry-module ls` lists what is", printable(image))}
	case 1:
		return hits[0], nil
	}
	return found{}, &saidError{errBadPattern, fmt.Sprintf("%s can mean two things that are stored, %s of %s, which clients get by this name, and %s of %s, which is listed so: write %s or %s",
		printable(image), printable(hits[0].String()), hits[0].remote, printable(hits[1].String()), hits[1].remote,
		n.explicit(hits[0]), n.explicit(hits[1]))}
}

func (n *namedImages) keysOf(places []cache.Place, more string) []string {
	var keys []string
	for _, p := range places {
		keys = append(keys, n.names.key(p))
	}
	return append(keys, more)
}

// explicit is the name of an image with the host of its registry.
func (n *namedImages) explicit(f found) string {
	name, ok := n.names.now.Load().namings[f.remote].Name(f.repository)
	if !ok {
		name = f.repository
	}
	return printable(f.remote + "/" + imageName(name, f.ref))
}

// abbreviated is a digest of which the end is left out, as in lists.
var abbreviated = regexp.MustCompile(`^sha(256|384|512):[a-f0-9]{6,}$`)

// digestLengths are the lengths of digests of which none is left out.
var digestLengths = map[string]int{"256": 64, "384": 96, "512": 128}

// wholeDigest completes a digest that is abbreviated, if it is one of an image in
// repositories.
func (n *namedImages) wholeDigest(ctx context.Context, dgst string, repositories []string) (string, error) {
	parts := abbreviated.FindStringSubmatch(dgst)
	if parts == nil {
		return "", &saidError{errBadPattern, fmt.Sprintf("%q is not a digest: write sha256: and its 64 characters, or the first 6 or more of an image that is listed", dgst)}
	}
	if len(dgst)-len("sha256:") == digestLengths[parts[1]] {
		return dgst, nil
	}
	whole := ""
	for i, err := range n.store.Images(ctx) {
		if err != nil {
			return "", err
		}
		full := i.Digest.String()
		if !strings.HasPrefix(full, dgst) || !slices.Contains(repositories, i.Repository) || full == whole {
			continue
		}
		if whole != "" {
			return "", &saidError{errBadPattern, fmt.Sprintf("%s is the beginning of several digests, %s and %s: write more of it", dgst, whole, full)}
		}
		whole = full
	}
	if whole == "" {
		return "", &saidError{cache.ErrNotFound, fmt.Sprintf("nothing is stored in that repository with a digest that begins with %s: `registry-module ls` lists what is", dgst)}
	}
	return whole, nil
}

// image looks up an image.
func (n *namedImages) image(ctx context.Context, repository, ref string) (found, error) {
	d, err := n.store.InspectImage(ctx, repository, ref)
	return found{repository: repository, ref: ref, remote: d.Remote, pins: d.Pins, detail: d}, err
}

// repository looks up a whole repository.
func (n *namedImages) repository(ctx context.Context, repository, _ string) (found, error) {
	f := found{repository: repository}
	stored := false
	for i, err := range n.store.Images(ctx) {
		if err != nil {
			return found{}, err
		}
		if i.Repository != repository {
			continue
		}
		stored, f.remote = true, i.Remote
		for _, p := range i.Pins {
			if !slices.Contains(f.pins, p) {
				f.pins = append(f.pins, p)
			}
		}
	}
	if !stored {
		return found{}, cache.ErrNotFound
	}
	return f, nil
}

// Images implements imageControl.
func (n *namedImages) Images(ctx context.Context) iter.Seq2[cache.Image, error] {
	return n.store.Images(ctx)
}

// Inspect implements imageControl.
func (n *namedImages) Inspect(ctx context.Context, image string) (cache.ImageDetail, error) {
	f, err := n.find(ctx, image, "latest", n.image)
	return f.detail, err
}

// Pins implements imageControl.
func (n *namedImages) Pins(ctx context.Context) ([]cache.Pin, error) { return n.store.Pins(ctx) }

// Pin implements imageControl.
func (n *namedImages) Pin(ctx context.Context, pattern string) ([]pinned, error) {
	if err := config.CheckPin(pattern); err != nil {
		return nil, &saidError{errBadPattern, fmt.Sprintf("%q %v", pattern, err)}
	}
	patterns, err := n.patterns(ctx, pattern)
	if err != nil {
		return nil, err
	}
	var done []pinned
	for _, p := range patterns {
		matches, err := n.store.PinImages(ctx, cache.Pin{Pattern: p, Reason: cache.PinnedByOperator, Since: time.Now().Round(time.Second)})
		if err != nil {
			return done, err
		}
		done = append(done, pinned{p, matches})
	}
	return done, nil
}

// patterns are those to pin: one where the image is stored that is meant.
func (n *namedImages) patterns(ctx context.Context, pattern string) ([]string, error) {
	if _, suffix := cutPattern(pattern); suffix != "" && !strings.ContainsAny(pattern, patternMarks) {
		f, err := n.find(ctx, pattern, "", n.image)
		if err == nil {
			return []string{f.String()}, nil
		}
		if !errors.Is(err, cache.ErrNotFound) {
			return nil, err
		}
	}
	return n.names.expand(pattern), nil
}

// Unpin implements imageControl.
func (n *namedImages) Unpin(ctx context.Context, pattern string) (u unpinned, err error) {
	if err := config.CheckPin(pattern); err != nil {
		return u, &saidError{errBadPattern, fmt.Sprintf("%q %v", pattern, err)}
	}
	meant := append(n.names.expand(pattern), pattern) // as it is listed
	all, err := n.store.Pins(ctx)
	if err != nil {
		return u, err
	}
	for _, p := range all {
		if !slices.Contains(meant, p.Pattern) {
			continue
		}
		if p.Reason == cache.PinnedByPolicy {
			u.Remaining = append(u.Remaining, p)
			continue
		}
		if _, err := n.store.UnpinImages(ctx, p.Pattern, p.Reason); err != nil {
			return u, err
		}
		u.Removed = append(u.Removed, p)
	}
	return u, nil
}

// Remove implements imageControl.
func (n *namedImages) Remove(ctx context.Context, o removeOptions) (removal, error) {
	if err := checkRemoval(o); err != nil {
		return removal{}, &saidError{errBadPattern, err.Error()}
	}
	lookUp := n.image
	if o.All {
		lookUp = n.repository
	}
	f, err := n.find(ctx, o.Image, "", lookUp)
	if err != nil {
		return removal{}, err
	}
	done := removal{Image: f.String()}
	if o.Force {
		if done.Unpinned, err = n.unpinExactly(ctx, f); err != nil {
			return done, err
		}
	}
	done.Removed, err = n.store.RemoveImage(ctx, f.repository, f.ref)
	switch {
	case errors.Is(err, cache.ErrPinned):
		return done, pinnedError(f, f.pins)
	case errors.Is(err, cache.ErrNotFound):
		return done, &saidError{cache.ErrNotFound, fmt.Sprintf("%s is not stored any more", printable(f.String()))}
	}
	return done, err
}

// checkRemoval makes sure that it is said what is to be removed: a default would be
// somebody else's image.
func checkRemoval(o removeOptions) error {
	_, suffix := cutPattern(o.Image)
	switch {
	case o.All && suffix != "":
		return fmt.Errorf("%q has a tag or a digest: leave it out to remove the whole repository, or leave out --all", o.Image)
	case !o.All && suffix == "":
		return fmt.Errorf("%q has neither tag nor digest: write NAME:TAG or NAME@DIGEST, or --all for the whole repository", o.Image)
	}
	return nil
}

// unpinExactly removes the pins that are for f and nothing else, if it has no others.
func (n *namedImages) unpinExactly(ctx context.Context, f found) (patterns []string, err error) {
	isExact := func(p cache.Pin) bool {
		if f.ref == "" {
			repository, _, _ := config.CutReference(p.Pattern)
			return p.Reason != cache.PinnedByPolicy && repository == f.repository
		}
		return p.Reason != cache.PinnedByPolicy && p.Pattern == f.String()
	}
	if others := slices.DeleteFunc(slices.Clone(f.pins), isExact); len(others) > 0 {
		return nil, pinnedError(f, others)
	}
	for _, p := range f.pins {
		if _, err := n.store.UnpinImages(ctx, p.Pattern, p.Reason); err != nil {
			return patterns, err
		}
		if !slices.Contains(patterns, p.Pattern) {
			patterns = append(patterns, p.Pattern)
		}
	}
	return patterns, nil
}

// pinnedError says that f is pinned by pins, and what to do.
func pinnedError(f found, pins []cache.Pin) error {
	text := printable(f.String()) + " is pinned, and so not removed"
	for _, p := range pins {
		if p.Reason == cache.PinnedByPolicy {
			text += fmt.Sprintf("; take %s out of the configuration first (cache.pins, REGISTRY_CACHE_PINS)", printable(p.Pattern))
		} else {
			text += fmt.Sprintf("; `registry-module unpin '%s'` first", printable(p.Pattern))
		}
	}
	return &saidError{cache.ErrPinned, text}
}

// Collect implements imageControl.
func (n *namedImages) Collect(ctx context.Context, o cache.CollectOptions) (cache.Collection, error) {
	return n.store.Collect(ctx, o)
}

// Verify implements imageControl.
func (n *namedImages) Verify(ctx context.Context, o cache.VerifyOptions) (cache.VerifyReport, error) {
	// While the index is rebuilt it lacks what is stored, and nothing is wrong with that.
	if err := n.store.Ready(ctx); err != nil {
		return cache.VerifyReport{}, err
	}
	return n.store.Verify(ctx, o)
}
