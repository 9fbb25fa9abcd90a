package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

const (
	// maxReferrersPages and maxReferrers bound a list of referrers that comes in pages:
	// how many, and how many bytes in all. A page is an image index, and has as many
	// as a manifest may have.
	maxReferrersPages = 100
	maxReferrers      = 4 * cache.MaxManifestSize
	// noReferrersFor is how long a remote is taken to have no API for referrers that
	// had none: it gets one with a new version only.
	noReferrersFor = time.Hour
)

// Referrers implements [cache.Upstream].
//
// It asks by the API of the OCI distribution specification ("Listing Referrers"), and
// where the remote has none (400, 404, 405, 501) for the tag of the referrers tag
// schema. That there is no such tag means that there are no referrers where a registry
// says so, by the form of its answer, and else is a vague [cache.ErrNotFound].
//
// A tag that is there shows that the repository has no API, and for an hour only the tag
// is asked for. Anybody who may push can make such a tag. So it shows nothing where the
// remote says that it does not know the repository or the manifest, nothing of other
// repositories, and nothing at a remote that has ever answered by the API.
//
// Descriptors without a digest, with a negative size, and those that repeat our
// credentials are left out. A list that cannot be had to its end is an error.
func (r *Remote) Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error) {
	op := "listing referrers of " + clean(repo) + "@" + clean(dgst.String())
	if err := r.checkBlob(op, repo, dgst); err != nil {
		return nil, err
	}
	if r.noReferrers.holds(repo, r.auth.now()) {
		list, _, err := r.taggedReferrers(ctx, op, repo, dgst)
		return list, err
	}
	list, api, err := r.listedReferrers(ctx, op, repo, dgst)
	if api == apiAnswers || err != nil {
		return list, err
	}
	list, found, err := r.taggedReferrers(ctx, op, repo, dgst)
	if found && api == apiLacks {
		r.noReferrers.add(repo, r.auth.now().Add(noReferrersFor))
	}
	return list, err
}

// apiState is what an answer shows of an API.
type apiState uint8

const (
	apiUnsure  apiState = iota // there may be none
	apiLacks                   // so it seems
	apiAnswers                 // there is one
)

// listedReferrers asks by the API, and tells what has come of that.
func (r *Remote) listedReferrers(ctx context.Context, op, repo string, dgst digest.Digest) ([]v1.Descriptor, apiState, error) {
	all := r.newReferrers()
	q := r.query(op, http.MethodGet, repo, "/"+repo+"/referrers/"+dgst.String())
	q.header.Set("Accept", v1.MediaTypeImageIndex)
	for page := range maxReferrersPages {
		rep, err := r.ask(ctx, q)
		if err != nil {
			return nil, apiUnsure, err
		}
		if hasNoAPI(rep.StatusCode) {
			state := apiLacks
			if knowsNot(rep.Response) {
				state = apiUnsure
			}
			rep.drain()
			if page > 0 { // and so it has one
				err = rep.blame(r.invalid(op, rep.StatusCode, "the list breaks off after %d pages", page))
			}
			return nil, state, err
		}
		next, err := r.addPage(op, rep, all)
		rep.drain()
		if err != nil {
			return nil, apiUnsure, rep.blame(err)
		}
		r.noReferrers.disprove()
		if next == "" {
			return all.list, apiAnswers, nil
		}
		link, err := rep.url.Parse(next)
		if err != nil || rep.foreign || !sameOrigin(link, r.base) || link.Path != rep.url.Path {
			return nil, apiAnswers, rep.blame(r.invalid(op, rep.StatusCode, "the list goes on where we do not follow: at another host or path"))
		}
		link.User, link.Fragment, link.RawFragment = nil, "", ""
		q.url = link
	}
	return nil, apiAnswers, r.invalid(op, http.StatusOK, "the list has more than %d pages", maxReferrersPages)
}

// hasNoAPI reports whether a status is what registries say to a path that they do not
// know.
func hasNoAPI(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

// knowsNot reports whether an answer, of which it reads the body, is that of a registry
// that does not know the repository or the manifest: by the codes of the OCI
// distribution specification ("Error Codes").
func knowsNot(resp *http.Response) bool {
	terr, ok := errors.AsType[*transport.Error](transport.CheckError(resp))
	return ok && slices.ContainsFunc(terr.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.NameUnknownErrorCode || d.Code == transport.ManifestUnknownErrorCode
	})
}

// addPage adds an answer of the API to all, and returns the link to the next one.
func (r *Remote) addPage(op string, rep *reply, all *referrers) (next string, err error) {
	if rep.StatusCode != http.StatusOK {
		return "", r.refused(op, rep)
	}
	if err := r.checkHeader(op, rep); err != nil {
		return "", err
	}
	if _, err := r.addIndex(op, rep, all); err != nil {
		return "", err
	}
	return nextLink(rep.Header.Values("Link")), nil
}

// taggedReferrers asks for the tag of the referrers tag schema, and reports whether
// there is one.
func (r *Remote) taggedReferrers(ctx context.Context, op, repo string, dgst digest.Digest) (list []v1.Descriptor, found bool, err error) {
	rep, err := r.askManifest(ctx, op, repo, cache.ReferrersTag(dgst))
	if err != nil {
		return nil, false, err
	}
	defer rep.drain()
	list, found, err = r.readTagged(op, rep)
	return list, found, rep.blame(err)
}

func (r *Remote) readTagged(op string, rep *reply) (list []v1.Descriptor, found bool, err error) {
	all := r.newReferrers()
	if rep.StatusCode != http.StatusOK {
		err := r.refused(op, rep)
		if e, ok := errors.AsType[*cache.UpstreamError](err); ok && e.Kind == cache.ErrNotFound && !e.Vague {
			return all.list, false, nil
		}
		return nil, false, err
	}
	desc, err := r.describeManifest(op, rep)
	if err != nil {
		return nil, false, err
	}
	content, err := r.addIndex(op, rep, all)
	if err != nil {
		return nil, false, err
	}
	if desc.Digest != "" && desc.Digest.Algorithm().FromBytes(content) != desc.Digest {
		return nil, false, r.invalid(op, rep.StatusCode, "the answer has not the digest %s that the remote says", desc.Digest)
	}
	return all.list, true, nil
}

// referrers is a list that is being put together.
type referrers struct {
	// drop reports whether a descriptor is not to be handed on.
	drop func(*v1.Descriptor) bool
	list []v1.Descriptor // not nil
	seen map[digest.Digest]bool
	size int // in bytes, of what it was read from
}

func (r *Remote) newReferrers() *referrers {
	return &referrers{drop: r.repeatsSecretIn, list: []v1.Descriptor{}, seen: make(map[digest.Digest]bool)}
}

// addIndex adds an answer that has to be an image index, and returns its bytes.
func (r *Remote) addIndex(op string, rep *reply, all *referrers) ([]byte, error) {
	content, err := r.readManifest(op, rep)
	if err != nil {
		return nil, err
	}
	if all.size += len(content); all.size > maxReferrers {
		return nil, r.invalid(op, rep.StatusCode, "the list is larger than %d bytes", maxReferrers)
	}
	if contentType := rep.Header.Get("Content-Type"); !all.add(content, contentType) {
		return nil, r.invalid(op, rep.StatusCode, "the answer, of type %q, is no image index", r.clean(contentType))
	}
	return content, nil
}

// add adds what an image index lists. It reports whether content is one; the list is of
// no use where it is not.
func (l *referrers) add(content []byte, contentType string) bool {
	var index struct {
		MediaType string         `json:"mediaType"`
		Manifests referrersArray `json:"manifests"`
	}
	index.Manifests.add = l.addOne
	if json.Unmarshal(content, &index) != nil || !index.Manifests.found {
		return false
	}
	// The media type within is optional, and some send all that is JSON as such.
	switch cmp.Or(index.MediaType, baseType(contentType)) {
	case v1.MediaTypeImageIndex:
		return true
	case "application/json", "":
		return index.MediaType == ""
	}
	return false
}

func (l *referrers) addOne(desc *v1.Descriptor) {
	if desc.Size < 0 || desc.Digest.Validate() != nil || l.seen[desc.Digest] || l.drop(desc) {
		return
	}
	l.seen[desc.Digest] = true
	l.list = append(l.list, *desc)
}

// referrersArray reads an array of descriptors one by one: a descriptor takes sixty
// times the room of the shortest text of one.
type referrersArray struct {
	add   func(*v1.Descriptor)
	found bool
}

// UnmarshalJSON implements [json.Unmarshaler]. What is no descriptor is left out.
func (a *referrersArray) UnmarshalJSON(content []byte) error {
	dec := json.NewDecoder(bytes.NewReader(content))
	switch start, err := dec.Token(); {
	case err != nil:
		return err
	case start == nil: // null is no descriptors
		a.found = true
		return nil
	case start != json.Delim('['):
		return errors.New("not an array")
	}
	a.found = true
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		var desc v1.Descriptor
		if json.Unmarshal(raw, &desc) == nil {
			a.add(&desc)
		}
	}
	return nil
}

// repeatsSecretIn reports whether a secret is in the texts of a descriptor, which is
// kept and handed on as it is. That of a digest is checked for its form.
func (r *Remote) repeatsSecretIn(desc *v1.Descriptor) bool {
	texts := slices.Concat([]string{string(desc.Data)}, desc.URLs, slices.Sorted(maps.Keys(desc.Annotations)), slices.Sorted(maps.Values(desc.Annotations)))
	if p := desc.Platform; p != nil {
		texts = append(append(texts, p.OS, p.Architecture, p.Variant, p.OSVersion), p.OSFeatures...)
	}
	return r.repeatsSecret(desc.MediaType) || r.repeatsSecret(desc.ArtifactType) || r.repeatsSecretAnywhere(strings.Join(texts, "\n"))
}

// repeatsSecretAnywhere reports whether a secret is in a text of any length. It is
// looked through in parts, which overlap by what has to be seen of a secret.
func (r *Remote) repeatsSecretAnywhere(text string) bool {
	for len(text) > maxSearched {
		if r.secrets.Contains(text[:maxSearched]) {
			return true
		}
		text = text[maxSearched-startOfSecret:]
	}
	return r.secrets.Contains(text)
}

// maxLacking bounds of how many repositories a lacking remembers something.
const maxLacking = 128

// lacking remembers until when repositories are taken to lack an API. The zero value
// remembers nothing.
type lacking struct {
	mu        sync.Mutex // guards following
	disproved bool       // for good, for all
	until     map[string]time.Time
}

func (l *lacking) holds(repo string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until[repo])
}

// add remembers that repo lacks it. Where that is too much, what is remembered for the
// shortest time is forgotten.
func (l *lacking) add(repo string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disproved {
		return
	}
	if l.until == nil {
		l.until = make(map[string]time.Time)
	}
	l.until[repo] = until
	for len(l.until) > maxLacking {
		first := repo
		for other, at := range l.until {
			if at.Before(l.until[first]) {
				first = other
			}
		}
		delete(l.until, first)
	}
}

// disprove forgets all: the remote has the API. From then on nothing is remembered.
func (l *lacking) disprove() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disproved, l.until = true, nil
}
