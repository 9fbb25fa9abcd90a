package upstreamtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// SetReferrers says whether the registry has the API for referrers, which it has by
// default. Without it, the answer is 404 and not in the form of a registry's, as that of
// registries that do not know the path.
func (r *Registry) SetReferrers(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noReferrers = !on
}

// SetReferrersPage makes answers of the API for referrers have n of them at most, with
// a Link to the others. 0, the default, is all.
func (r *Registry) SetReferrersPage(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.referrersPage = n
}

// AddReferrer puts an artifact into repo, an image manifest without layers, that refers
// to subject. It returns the descriptor that the list of referrers has of it.
func (r *Registry) AddReferrer(repo string, subject v1.Descriptor, artifactType string, annotations map[string]string) v1.Descriptor {
	r.AddBlob(repo, v1.DescriptorEmptyJSON.Data)
	content, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: v1.DescriptorEmptyJSON, Layers: []v1.Descriptor{v1.DescriptorEmptyJSON}, Subject: &subject, Annotations: annotations,
	})
	if err != nil {
		panic(err) // these fields can always be marshalled
	}
	r.AddManifest(repo, "", v1.MediaTypeImageManifest, content)
	desc, _ := referrer(v1.MediaTypeImageManifest, content)
	return desc
}

// TagReferrers does for a registry without the API what its clients do: it puts an
// index of what refers to subject into repo, under the tag of the referrers tag schema
// of the OCI distribution specification, and returns its digest.
func (r *Registry) TagReferrers(repo string, subject digest.Digest) digest.Digest {
	encoded := subject.Encoded()
	return r.AddManifest(repo, subject.Algorithm().String()+"-"+encoded[:min(len(encoded), 64)],
		v1.MediaTypeImageIndex, referrersIndex(r.referrers(repo, subject)))
}

// referrers returns what refers to subject, by digest.
func (r *Registry) referrers(repo string, subject digest.Digest) []v1.Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []v1.Descriptor{}
	rp := r.repos[repo]
	if rp == nil {
		return list
	}
	for _, dgst := range slices.Sorted(maps.Keys(rp.manifests)) {
		m := rp.manifests[dgst]
		if desc, of := referrer(m.mediaType, m.content); of == subject && of != "" {
			desc.Digest = dgst
			list = append(list, desc)
		}
	}
	return list
}

// referrer returns the descriptor of a manifest as lists of referrers have it, and what
// it refers to, if it does.
func referrer(mediaType string, content []byte) (desc v1.Descriptor, subject digest.Digest) {
	var m v1.Manifest
	if json.Unmarshal(content, &m) != nil || m.Subject == nil {
		return v1.Descriptor{}, ""
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	return v1.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}, m.Subject.Digest
}

func referrersIndex(list []v1.Descriptor) []byte {
	content, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		panic(err) // these fields can always be marshalled
	}
	return content
}

// serveReferrers lists referrers as the OCI distribution specification says; nothing
// refers to what is not there.
func (r *Registry) serveReferrers(s *sender, req *http.Request) {
	r.mu.Lock()
	missing, page := r.noReferrers, r.referrersPage
	r.mu.Unlock()
	if missing {
		s.Header().Set("Content-Type", "text/plain; charset=utf-8")
		s.WriteHeader(http.StatusNotFound)
		s.body([]byte("404 page not found\n"))
		return
	}
	list := r.referrers(s.req.Repo, digest.Digest(s.req.Ref))
	if last := req.URL.Query().Get("last"); last != "" {
		i, found := slices.BinarySearchFunc(list, last, func(desc v1.Descriptor, last string) int {
			return strings.Compare(desc.Digest.String(), last)
		})
		if found {
			i++
		}
		list = list[i:]
	}
	if page > 0 && page < len(list) {
		list = list[:page]
		s.Header().Set("Link", fmt.Sprintf("</v2/%s/referrers/%s?last=%s>; rel=\"next\"",
			s.req.Repo, s.req.Ref, url.QueryEscape(list[page-1].Digest.String())))
	}
	body := s.fault.Body
	if body == nil {
		body = referrersIndex(list)
	}
	s.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	s.Header().Set("Content-Length", strconv.Itoa(len(body)))
	s.WriteHeader(http.StatusOK)
	s.body(body)
}
