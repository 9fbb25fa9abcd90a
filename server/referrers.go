package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// maxReferrersBody is how large one page of a list of referrers is, in bytes: an index
// has to be within what clients take for a manifest.
const maxReferrersBody = cache.MaxManifestSize

// serveReferrers lists what refers to a manifest, which the app cannot. See the OCI
// distribution specification, "Listing Referrers".
func (s *Server) serveReferrers(x *exchange, r *http.Request, rt route) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		x.Header().Set("Allow", "GET, HEAD")
		s.refuse(x, http.StatusMethodNotAllowed, errcode.ErrorCodeUnsupported, "a list of referrers can be read only")
		return
	}
	s.setCommonHeader(x.Header())
	list, err := x.repo.Referrers(cache.WithOutcome(r.Context(), &x.outcome), digest.Digest(rt.reference))
	if err != nil {
		s.fail(x, manifestContent, err)
		return
	}
	s.show(x, referrersAnswer, list.Freshness)
	query := r.URL.Query()
	if types := query["artifactType"]; len(types) > 0 {
		x.Header().Set("OCI-Filters-Applied", "artifactType")
		list.Manifests = slices.DeleteFunc(slices.Clone(list.Manifests), func(d v1.Descriptor) bool { return !slices.Contains(types, d.ArtifactType) })
	}
	body, last, err := referrersPage(list.Manifests, query)
	if err != nil {
		s.fail(x, manifestContent, fmt.Errorf("listing referrers of %s: %w", rt.reference, err))
		return
	}
	h := x.Header()
	if last != "" {
		query.Set("last", last)
		h.Set("Link", "<"+(&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String()+`>; rel="next"`)
	}
	h.Set("Content-Type", v1.MediaTypeImageIndex)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = x.Write(body) // the client may be gone
	}
}

// referrersPage makes one page of a list. There is another one where last, with which
// to ask for it, is not empty. The parameters n and last are those of lists of tags.
func referrersPage(all []v1.Descriptor, query url.Values) (body []byte, last string, err error) {
	if after := query.Get("last"); after != "" {
		// Where it is not there any more, the client gets some twice, and misses none.
		all = all[1+slices.IndexFunc(all, func(d v1.Descriptor) bool { return d.Digest.String() == after }):]
	}
	most := len(all)
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 {
		most = min(most, n)
	}
	const around = 1 << 10 // more than what is around the descriptors
	size, fits := around, 0
	for _, d := range all[:most] {
		text, err := json.Marshal(d)
		if err != nil {
			return nil, "", err
		}
		if size += len(text) + 1; size > maxReferrersBody && fits > 0 {
			break
		}
		fits++
	}
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: append([]v1.Descriptor{}, all[:fits]...), // an empty list is not null
	}
	if fits > 0 && fits < len(all) {
		last = all[fits-1].Digest.String()
	}
	body, err = json.Marshal(index)
	return body, last, err
}
