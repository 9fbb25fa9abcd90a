package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// The types of what is attached to images, as those who make it write them.
const (
	CosignBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	NotarySignature = "application/vnd.cncf.notary.signature"
	SPDX            = "application/spdx+json"
	InToto          = "application/vnd.in-toto+json"
)

// Attested is an index as BuildKit makes it: two platforms, and for each of them a
// manifest of attestations, which is in the index as of a platform that nobody has.
func Attested() (Image, error) {
	index := manifest{SchemaVersion: 2, MediaType: ociIndex}
	var children []Image
	var attestations []descriptor
	for _, p := range platforms()[:2] {
		child, err := runnable(p, "attested", ociManifest, ociConfig, ociGzip)
		if err != nil {
			return Image{}, err
		}
		d := child.Root().describe()
		d.Platform = &p
		index.Manifests = append(index.Manifests, d)

		statement := BytesBlob(fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{"digest":{"sha256":%q}}]}`, d.Digest.Encoded()))
		layer := describe(InToto, statement)
		layer.Annotations = map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
		config := BytesBlob([]byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["` + statement.Digest.String() + `"]}}`))
		c := describe(ociConfig, config)
		root, err := manifest{SchemaVersion: 2, MediaType: ociManifest, Config: &c, Layers: []descriptor{layer}}.encode()
		if err != nil {
			return Image{}, err
		}
		of := root.describe()
		of.Platform = &platform{OS: "unknown", Architecture: "unknown"}
		of.Annotations = map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": d.Digest.String(),
		}
		attestations = append(attestations, of)
		children = append(children, child, Image{Manifests: []RawManifest{root}, Blobs: []RawBlob{config, statement}})
	}
	index.Manifests = append(index.Manifests, attestations...)
	root, err := index.encode()
	return join("attested index", root, children...), err
}

// ReferrersTag is the tag that lists what refers to a manifest where the registry has
// no API for that (OCI distribution specification, "Referrers Tag Schema"). With a
// suffix it is where cosign puts things.
func ReferrersTag(dgst digest.Digest) string {
	return dgst.Algorithm().String() + "-" + dgst.Encoded()
}

// CosignTags are what cosign attaches to a manifest by tags that are made of its
// digest: a signature, an attestation and an SBOM.
func CosignTags(repo string, of RawManifest) ([]Image, error) {
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, repo, of.Digest)
	envelope := fmt.Sprintf(`{"payloadType":%q,"payload":"e30=","signatures":[{"sig":%q}]}`, InToto, "MEUCIQ"+of.Digest.Encoded())
	var all []Image
	for _, a := range []struct {
		suffix, layerType, content string
		annotations                map[string]string
	}{
		{".sig", "application/vnd.dev.cosign.simplesigning.v1+json", payload, map[string]string{"dev.cosignproject.cosign/signature": "MEQCIA" + of.Digest.Encoded()}},
		{".att", "application/vnd.dsse.envelope.v1+json", envelope, map[string]string{"dev.cosignproject.cosign/signature": "", "predicateType": "https://slsa.dev/provenance/v1"}},
		{".sbom", "text/spdx+json", `{"spdxVersion":"SPDX-2.3","name":"` + of.Digest.String() + `"}`, nil},
	} {
		content := BytesBlob([]byte(a.content))
		layer := describe(a.layerType, content)
		layer.Annotations = a.annotations
		config := BytesBlob([]byte(`{"architecture":"","created":"0001-01-01T00:00:00Z","os":"","rootfs":{"type":"layers","diff_ids":["` + content.Digest.String() + `"]},"config":{}}`))
		c := describe(ociConfig, config)
		root, err := manifest{SchemaVersion: 2, MediaType: ociManifest, Config: &c, Layers: []descriptor{layer}}.encode()
		if err != nil {
			return nil, err
		}
		img := Image{Kind: "cosign " + a.suffix, Manifests: []RawManifest{root}, Blobs: []RawBlob{config, content}}
		all = append(all, img.In(repo, ReferrersTag(of.Digest)+a.suffix))
	}
	return all, nil
}

// Signatures are what refers to a manifest as its subject: a signature of cosign and an
// attestation, whose manifests say what they are in artifactType, and a signature of
// notation, which says it by the type of the configuration. Their Kind is that type. They
// have no tag but their digest.
func Signatures(repo string, of RawManifest) ([]Image, error) {
	subject := of.describe()
	none, noneBlob := empty()
	bundle := BytesBlob(fmt.Appendf(nil, `{"mediaType":%q,"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":%q}}}`, CosignBundle, of.Digest.Encoded()))
	jws := BytesBlob(fmt.Appendf(nil, `{"payload":%q,"protected":"e30","signature":"c2ln"}`, of.Digest))
	config := BytesBlob([]byte("{}"))
	notary := describe(NotarySignature, config)
	statement := BytesBlob(fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{"digest":{"sha256":%q}}]}`, of.Digest.Encoded()))
	var all []Image
	for kind, a := range map[string]struct {
		manifest
		blobs []RawBlob
	}{
		CosignBundle: {manifest{
			ArtifactType: CosignBundle, Config: &none, Layers: []descriptor{describe(CosignBundle, bundle)},
			Annotations: map[string]string{"dev.sigstore.bundle.content": "message-signature", "org.opencontainers.image.created": "2026-01-31T12:00:00Z"},
		}, []RawBlob{noneBlob, bundle}},
		NotarySignature: {manifest{
			Config: &notary, Layers: []descriptor{describe("application/jose+json", jws)},
			Annotations: map[string]string{"io.cncf.notary.x509chain.thumbprint#S256": `["` + of.Digest.Encoded() + `"]`},
		}, []RawBlob{config, jws}},
		InToto: {manifest{
			ArtifactType: InToto, Config: &none, Layers: []descriptor{describe(InToto, statement)},
			Annotations: map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
		}, []RawBlob{noneBlob, statement}},
	} {
		a.SchemaVersion, a.MediaType, a.Subject = 2, ociManifest, &subject
		root, err := a.encode()
		if err != nil {
			return nil, err
		}
		all = append(all, Image{Kind: kind, Repo: repo, Tag: root.Digest.String(), Manifests: []RawManifest{root}, Blobs: a.blobs})
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Kind, b.Kind) })
	return all, nil
}

// ReferrersIndex is what clients put where [ReferrersTag] says, of a registry that
// lists no referrers itself.
func ReferrersIndex(repo string, of digest.Digest, referrers ...Image) (Image, error) {
	index := manifest{SchemaVersion: 2, MediaType: ociIndex}
	for _, img := range referrers {
		d, err := img.Root().referrer()
		if err != nil {
			return Image{}, err
		}
		index.Manifests = append(index.Manifests, d)
	}
	root, err := index.encode()
	img := Image{Kind: "list of referrers", Manifests: []RawManifest{root}}
	return img.In(repo, ReferrersTag(of)), err
}

// referrer is the manifest as lists of referrers have it (OCI distribution
// specification, "Listing Referrers").
func (m RawManifest) referrer() (descriptor, error) {
	var doc manifest
	if err := json.Unmarshal(m.Bytes, &doc); err != nil {
		return descriptor{}, fmt.Errorf("describing a referrer: %w", err)
	}
	d := m.describe()
	d.ArtifactType, d.Annotations = doc.ArtifactType, doc.Annotations
	if d.ArtifactType == "" && doc.Config != nil {
		d.ArtifactType = doc.Config.MediaType
	}
	return d, nil
}

// StartReferring is as [StartMemory]: a registry that lists referrers as the OCI
// distribution specification wants. The one of go-containerregistry does not say what
// type they are where a manifest has an artifactType, and has no order.
func StartReferring() (_ *Memory, err error) {
	m := new(Memory)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a registry that lists referrers: %w", err), m.Stop())
		}
	}()
	content := typed(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	if m.direct, err = NewGateway(content); err != nil {
		return nil, err
	}
	m.Gateway, err = NewGateway(content, func(next http.Handler) http.Handler { return m.Record("", next) })
	return m, err
}

// Direct is host:port of the same registry for those who push: the ledger does not
// see them, and it stays there when the gateway is down.
func (m *Memory) Direct() string { return m.direct.Addr }

// typed mends lists of referrers.
func typed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before, _, found := strings.Cut(r.URL.Path, "/referrers/")
		if !found {
			next.ServeHTTP(w, r)
			return
		}
		listed := httptest.NewRecorder()
		next.ServeHTTP(listed, r)
		list := manifest{Manifests: []descriptor{}}
		if listed.Code != http.StatusOK || json.Unmarshal(listed.Body.Bytes(), &list) != nil {
			w.WriteHeader(listed.Code)
			_, _ = w.Write(listed.Body.Bytes()) // an error: the client is gone
			return
		}
		for i, d := range list.Manifests {
			got := httptest.NewRecorder()
			next.ServeHTTP(got, httptest.NewRequest(http.MethodGet, before+"/manifests/"+d.Digest.String(), nil))
			raw := newManifest(d.MediaType, got.Body.Bytes())
			if mended, err := raw.referrer(); err == nil {
				list.Manifests[i] = mended
			}
		}
		slices.SortFunc(list.Manifests, func(a, b descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
		body, err := json.Marshal(struct {
			manifest
			Manifests []descriptor `json:"manifests"` // an empty list, too
		}{list, list.Manifests})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", ociIndex)
		_, _ = w.Write(body) // an error: the client is gone
	})
}
