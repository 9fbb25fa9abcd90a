package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// acceptManifests is the Accept header of requests for manifests. Registries
// that hold one in several forms, or that would convert it, give the one that
// is named; what we have never heard of is taken too.
var acceptManifests = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws",
	"application/vnd.docker.distribution.manifest.v1+json",
	"application/json;q=0.2",
	"*/*;q=0.1",
}, ", ")

// Manifest implements [cache.Upstream].
func (r *Remote) Manifest(ctx context.Context, repo, ref string) (cache.Manifest, error) {
	op := "fetching manifest " + describe(repo, ref)
	rep, err := r.askManifest(ctx, op, repo, ref)
	if err != nil {
		return cache.Manifest{}, err
	}
	defer rep.drain()
	m, err := r.openManifest(op, rep)
	if err == nil {
		dated(&m.Descriptor, ref, rep)
	}
	return m, rep.blame(err)
}

// dated adds to the answer for ref how old it is. What a digest stands for does not
// change, and an answer that says nothing has no age.
func dated(desc *cache.Descriptor, ref string, rep *reply) {
	says := rep.StatusCode == http.StatusOK || rep.StatusCode == http.StatusNotModified
	if says && digest.Digest(ref).Validate() != nil {
		desc.Age, desc.Stale = ageOf(rep.Header)
	}
}

func (r *Remote) openManifest(op string, rep *reply) (cache.Manifest, error) {
	if rep.StatusCode != http.StatusOK {
		return cache.Manifest{}, r.refused(op, rep)
	}
	desc, err := r.describeManifest(op, rep)
	if err != nil {
		return cache.Manifest{}, err
	}
	content, err := r.readManifest(op, rep)
	if err != nil {
		return cache.Manifest{}, err
	}
	desc.Size = int64(len(content))
	return cache.Manifest{Descriptor: desc, Bytes: content}, nil
}

// Resolve implements [cache.Upstream]. A remote that does not answer HEAD at
// all is taken to exist and to say nothing.
//
// Known is asked for by If-None-Match (RFC 9110 section 13.1.2), as the ETag that
// registries give a manifest: its digest in quotes. Where the answer is that nothing
// has changed, known is returned, without type and size. A remote that has said no
// digest to a HEAD is asked in the same way by GET, once. Where it says none to that
// either, and sends the manifest, the digest is that of its bytes, by the algorithm of
// known: who has those stored need not fetch them again. Who has not does: they are not
// kept. No other GET is sent: some count them against a limit, and no HEAD.
func (r *Remote) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	op := "asking for manifest " + describe(repo, ref)
	desc, err := r.resolveBy(ctx, op, http.MethodHead, repo, ref, known)
	if err == nil && desc.Digest == "" && known != "" {
		return r.resolveBy(ctx, op, http.MethodGet, repo, ref, known)
	}
	return desc, err
}

// resolveBy is Resolve by one request.
func (r *Remote) resolveBy(ctx context.Context, op, method, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	q, err := r.queryManifest(op, method, repo, ref)
	if err != nil {
		return cache.Descriptor{}, err
	}
	if known != "" {
		if err := known.Validate(); err != nil {
			return cache.Descriptor{}, r.invalid(op, 0, "what is known is not a digest: %w", err)
		}
		q.header.Set("If-None-Match", `"`+known.String()+`"`)
	}
	rep, err := r.ask(ctx, q)
	if err != nil {
		return cache.Descriptor{}, err
	}
	defer rep.drain()
	desc, err := r.resolved(op, method, rep, known)
	if err == nil {
		dated(&desc, ref, rep)
	}
	return desc, rep.blame(err)
}

func (r *Remote) resolved(op, method string, rep *reply, known digest.Digest) (cache.Descriptor, error) {
	switch status := rep.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusNotModified:
		return r.unchanged(op, rep, known)
	case method == http.MethodHead && (status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented):
		return cache.Descriptor{Size: -1}, nil
	default:
		return cache.Descriptor{}, r.refused(op, rep)
	}
	desc, err := r.describeManifest(op, rep)
	if err != nil {
		return cache.Descriptor{}, err
	}
	if method == http.MethodGet && desc.Digest == "" {
		content, err := r.readManifest(op, rep)
		if err != nil {
			return cache.Descriptor{}, err
		}
		desc.Digest, desc.Size = known.Algorithm().FromBytes(content), int64(len(content))
		return desc, nil
	}
	if desc.Size = rep.ContentLength; desc.Size <= 0 {
		desc.Size = -1 // no manifest is empty: this is a length that was not known
	}
	return desc, nil
}

// unchanged is the answer that what is known is still so.
func (r *Remote) unchanged(op string, rep *reply, known digest.Digest) (cache.Descriptor, error) {
	if known == "" {
		return cache.Descriptor{}, r.invalid(op, rep.StatusCode, "the answer is that nothing has changed, which we did not ask")
	}
	if claim := rep.Header.Get("Docker-Content-Digest"); claim != "" && claim != known.String() {
		return cache.Descriptor{}, r.invalid(op, rep.StatusCode, "the answer is that nothing has changed since %s, and its Docker-Content-Digest is %q",
			known, r.clean(claim))
	}
	return cache.Descriptor{Digest: known, Size: -1}, nil
}

func (r *Remote) askManifest(ctx context.Context, op, repo, ref string) (*reply, error) {
	q, err := r.queryManifest(op, http.MethodGet, repo, ref)
	if err != nil {
		return nil, err
	}
	return r.ask(ctx, q)
}

func (r *Remote) queryManifest(op, method, repo, ref string) (*query, error) {
	if err := r.checkReference(op, repo, ref); err != nil {
		return nil, err
	}
	q := r.query(op, method, repo, "/"+repo+"/manifests/"+ref)
	q.header.Set("Accept", acceptManifests)
	return q, nil
}

// describeManifest reads the headers of a manifest, all but its length.
func (r *Remote) describeManifest(op string, rep *reply) (cache.Descriptor, error) {
	if err := r.checkHeader(op, rep); err != nil {
		return cache.Descriptor{}, err
	}
	mediaType := rep.Header.Get("Content-Type")
	if r.repeatsSecret(mediaType) {
		// It would be kept, and handed on as it is.
		return cache.Descriptor{}, r.invalid(op, rep.StatusCode, "the type of the answer repeats our credentials: %q", r.clean(mediaType))
	}
	desc := cache.Descriptor{MediaType: mediaType, Size: -1}
	if claim := rep.Header.Get("Docker-Content-Digest"); claim != "" {
		desc.Digest = digest.Digest(claim)
		if err := desc.Digest.Validate(); err != nil {
			return cache.Descriptor{}, r.invalid(op, rep.StatusCode, "its Docker-Content-Digest %q is no digest: %w", r.clean(claim), err)
		}
	}
	return desc, nil
}

// repeatsSecret reports whether a secret is in the type of a manifest. Words that types
// are made of are none, even where somebody has chosen one as password.
func (r *Remote) repeatsSecret(mediaType string) bool {
	base, params, _ := strings.Cut(mediaType, ";")
	return r.secrets.Contains(params) || !strings.Contains(acceptManifests, strings.TrimSpace(base)) && r.secrets.Contains(base)
}

// readManifest reads the bytes of a manifest.
func (r *Remote) readManifest(op string, rep *reply) ([]byte, error) {
	tooLarge := func() error {
		return r.invalid(op, rep.StatusCode, "the answer is larger than %d bytes", cache.MaxManifestSize)
	}
	if rep.ContentLength > cache.MaxManifestSize {
		return nil, tooLarge()
	}
	var buf bytes.Buffer
	if rep.ContentLength > 0 {
		buf.Grow(int(rep.ContentLength) + bytes.MinRead) // ReadFrom wants to see the end
	}
	if _, err := buf.ReadFrom(io.LimitReader(rep.Body, cache.MaxManifestSize+1)); err != nil {
		return nil, err
	}
	content := buf.Bytes()
	switch {
	case len(content) > cache.MaxManifestSize:
		return nil, tooLarge()
	case len(content) == 0:
		return nil, r.invalid(op, rep.StatusCode, "the answer is empty")
	case !isJSONObject(content):
		return nil, r.unlike(op, rep, content, "the answer is no manifest: it is not a JSON object")
	}
	return content, nil
}

// isJSONObject reports whether content is what all kinds of manifest are.
func isJSONObject(content []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) && json.Valid(content)
}

// describe names a manifest as users do.
func describe(repo, ref string) string {
	if digest.Digest(ref).Validate() == nil {
		return repo + "@" + ref
	}
	return clean(fmt.Sprintf("%s:%s", repo, ref))
}
