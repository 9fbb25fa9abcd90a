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
	rep, err := r.askManifest(ctx, op, http.MethodGet, repo, ref)
	if err != nil {
		return cache.Manifest{}, err
	}
	defer rep.drain()
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
func (r *Remote) Resolve(ctx context.Context, repo, ref string, known digest.Digest) (cache.Descriptor, error) {
	op := "asking for manifest " + describe(repo, ref)
	rep, err := r.askManifest(ctx, op, http.MethodHead, repo, ref)
	if err != nil {
		return cache.Descriptor{}, err
	}
	defer rep.drain()
	switch rep.StatusCode {
	case http.StatusOK:
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return cache.Descriptor{Size: -1}, nil
	default:
		return cache.Descriptor{}, r.refused(op, rep)
	}
	desc, err := r.describeManifest(op, rep)
	if err != nil {
		return cache.Descriptor{}, err
	}
	if desc.Size = rep.ContentLength; desc.Size <= 0 {
		desc.Size = -1 // no manifest is empty: this is a length that was not known
	}
	return desc, nil
}

func (r *Remote) askManifest(ctx context.Context, op, method, repo, ref string) (*reply, error) {
	if err := r.checkReference(op, repo, ref); err != nil {
		return nil, err
	}
	q := r.query(op, method, repo, "/"+repo+"/manifests/"+ref)
	q.header.Set("Accept", acceptManifests)
	return r.ask(ctx, q)
}

// describeManifest reads the headers of a manifest, all but its length.
func (r *Remote) describeManifest(op string, rep *reply) (cache.Descriptor, error) {
	mediaType := rep.Header.Get("Content-Type")
	switch {
	case isPage(mediaType):
		return cache.Descriptor{}, r.invalid(op, rep.StatusCode,
			"the answer is of type %q: is there a login page or a block page of a proxy in between?", r.clean(mediaType))
	case encoded(rep.Header):
		return cache.Descriptor{}, r.invalid(op, rep.StatusCode, "the answer is encoded (%q), which we did not ask for",
			r.clean(rep.Header.Get("Content-Encoding")))
	}
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
		return r.invalid(op, rep.StatusCode, "the manifest is larger than %d bytes", cache.MaxManifestSize)
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
		return nil, r.invalid(op, rep.StatusCode, "the answer is no manifest: it is not a JSON object")
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
