package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/e2e/lab"
)

// shelf is an upstream with images that something is attached to.
type shelf struct {
	remote
	// direct is host:port for who pushes.
	direct string
	push   func(context.Context, ...lab.Image) error
	// tags are how many GETs of a tag it takes to list the referrers of one manifest.
	tags   int
	images []lab.Image
	// subjects are the images, and a platform's manifest of one of them.
	subjects []subject
}

// subject is a manifest that something is attached to.
type subject struct {
	repo string
	of   lab.RawManifest
	// referrers name it as their subject; their Kind is the type of the artifact.
	referrers []lab.Image
	// tagged have tags that are made of its digest.
	tagged []lab.Image
}

// shelves are the kinds of registries: with the API for referrers, and with the
// referrers tag schema.
func shelves() map[string]func(*testing.T) *shelf {
	return map[string]func(*testing.T) *shelf{
		"API": func(t *testing.T) *shelf {
			up := referring(t)
			return &shelf{remote: up, direct: up.Direct(), push: up.Push}
		},
		"tag schema": func(t *testing.T) *shelf {
			up := upstream(t, lab.UpstreamOptions{})
			return &shelf{remote: up, direct: up.Registry.Addr, push: up.Push, tags: 1}
		},
	}
}

// referring starts a registry in memory that lists referrers.
func referring(t *testing.T) *lab.Memory {
	t.Helper()
	up := must(lab.StartReferring())(t)
	t.Cleanup(func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("requests to the upstream since the last reset:\n%v", up)
		}
	})
	return up
}

// fill pushes an image for one platform and one for two into repositories, and attaches
// to both and to the manifest of a platform what cosign, notation and oras attach.
func (s *shelf) fill(t *testing.T, plainRepo, indexRepo string) *shelf {
	t.Helper()
	s.images = []lab.Image{sample(t, "OCI image").In(plainRepo, "plain"), must(lab.Attested())(t).In(indexRepo, "index")}
	if err := s.push(t.Context(), s.images...); err != nil {
		t.Fatal(err)
	}
	plain, index := s.images[0], s.images[1]
	amd64 := index.Manifests[0] // as of all samples for several platforms
	s.attach(t, plain.Repo, plain.Root())
	s.attach(t, index.Repo, index.Root())
	s.attach(t, index.Repo, amd64)
	s.Reset()
	return s
}

func (s *shelf) attach(t *testing.T, repo string, of lab.RawManifest) {
	t.Helper()
	sub := subject{repo: repo, of: of, tagged: must(lab.CosignTags(repo, of))(t), referrers: must(lab.Signatures(repo, of))(t)}
	all := slices.Concat(sub.tagged, sub.referrers)
	if s.tags > 0 {
		all = append(all, must(lab.ReferrersIndex(repo, of.Digest, sub.referrers...))(t))
	}
	if err := s.push(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	sub.referrers = append(sub.referrers, s.orasAttach(t, repo, of, lab.SPDX, "sbom.spdx.json"))
	s.subjects = append(s.subjects, sub)
}

// orasAttach has oras attach a file, which finds out for itself whether the registry
// has the API.
func (s *shelf) orasAttach(t *testing.T, repo string, of lab.RawManifest, kind, file string) lab.Image {
	t.Helper()
	dir := tempDir(t)
	content := fmt.Appendf(nil, `{"name":%q,"about":%q}`, file, of.Digest)
	if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
		t.Fatal(err)
	}
	must(lab.NewClient(dir, bin.oras).CLI(t.Context(), "attach", "--plain-http", "--artifact-type", kind, "--annotation", "test.file="+file,
		"--export-manifest", "manifest.json", s.direct+"/"+repo+"@"+of.Digest.String(), file+":"+kind))(t)
	manifest := must(os.ReadFile(filepath.Join(dir, "manifest.json")))(t)
	dgst := digest.FromBytes(manifest)
	return lab.Image{
		Kind: kind, Repo: repo, Tag: dgst.String(), Blobs: []lab.RawBlob{lab.BytesBlob(content), lab.BytesBlob([]byte("{}"))},
		Manifests: []lab.RawManifest{{MediaType: ociManifest, Digest: dgst, Bytes: manifest}},
	}
}

// listed is what a list of referrers has of an artifact.
func listed(img lab.Image) (v1.Descriptor, error) {
	var doc v1.Manifest
	err := json.Unmarshal(img.Root().Bytes, &doc)
	return v1.Descriptor{
		MediaType: ociManifest, Digest: img.Root().Digest, Size: int64(len(img.Root().Bytes)),
		ArtifactType: img.Kind, Annotations: doc.Annotations,
	}, err
}

// list asks for the referrers of a subject as a client of the API does, all or those of
// a type, and tells how the answer differs from what was attached.
func (s subject) list(ctx context.Context, m *lab.Server, kind string) error {
	to := m.URL() + "/v2/" + s.repo + "/referrers/" + s.of.Digest.String()
	if kind != "" {
		to += "?artifactType=" + url.QueryEscape(kind)
	}
	req, err := request(ctx, http.MethodGet, to)
	if err != nil {
		return err
	}
	resp, err := client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	a := read(resp)
	var index v1.Index
	if err := errors.Join(a.Err, json.Unmarshal(a.Body, &index)); a.Status != http.StatusOK || err != nil {
		return fmt.Errorf("%s: status %d, %v\n%.300s", to, a.Status, err, a.Body)
	}
	if applied := a.Header.Get("OCI-Filters-Applied"); (applied == "artifactType") != (kind != "") {
		return fmt.Errorf("%s: OCI-Filters-Applied: %q", to, applied)
	}
	want := map[digest.Digest]v1.Descriptor{}
	for _, img := range s.referrers {
		if kind == "" || img.Kind == kind {
			if want[img.Root().Digest], err = listed(img); err != nil {
				return err
			}
		}
	}
	got := map[digest.Digest]v1.Descriptor{}
	for _, d := range index.Manifests {
		got[d.Digest] = d
	}
	if len(got) != len(index.Manifests) || !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s: listed are\n%s\nwant\n%+v", to, a.Body, want)
	}
	return nil
}

// types are those of what refers to a subject, and one that nothing has.
func (s subject) types() []string {
	all := []string{"", "application/vnd.example.other"}
	for _, img := range s.referrers {
		all = append(all, img.Kind)
	}
	return all
}

// verify does what cosign and notation do to verify an image: it gets its manifest,
// lists referrers by type, and gets what is listed, and what is under cosign's tags. It tells all that
// differs from what was attached.
func (s subject) verify(ctx context.Context, m *lab.Server) error {
	errs := []error{gives(ctx, http.MethodGet, manifestURL(m, s.repo, s.of.Digest.String()), s.of)}
	for _, kind := range s.types() {
		errs = append(errs, s.list(ctx, m, kind))
	}
	for _, img := range slices.Concat(s.tagged, s.referrers) {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			for _, ref := range []string{img.Tag, img.Root().Digest.String()} {
				errs = append(errs, gives(ctx, method, manifestURL(m, img.Repo, ref), img.Root()))
			}
		}
		for _, b := range img.Blobs {
			f, err := fetch(ctx, blobURL(m, img.Repo, b.Digest))
			if err = errors.Join(err, f.whole(b)); err != nil {
				errs = append(errs, fmt.Errorf("a blob of %s: %w", img.Kind, err))
			}
		}
	}
	return errors.Join(errs...)
}

// gives tells how the answer to a request differs from a manifest.
func gives(ctx context.Context, method, to string, want lab.RawManifest) error {
	req, err := request(ctx, method, to)
	if err != nil {
		return err
	}
	resp, err := client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	a := read(resp)
	if a.Status != http.StatusOK || a.Err != nil || a.Header.Get("Docker-Content-Digest") != want.Digest.String() ||
		a.Header.Get("Content-Type") != want.MediaType || method == http.MethodGet && string(a.Body) != string(want.Bytes) {
		return fmt.Errorf("%s %s: status %d, %v, %v, want %s\n%.300s", method, to, a.Status, a.Err, a.Header, want.Digest, a.Body)
	}
	return nil
}

// tools has oras and crane find, and get, what is attached.
func (s subject) tools(t *testing.T, what string, m *lab.Server) {
	t.Helper()
	dir := tempDir(t)
	oras, crane := lab.NewClient(dir, bin.oras), lab.NewClient(dir, bin.crane)
	name := m.Addr + "/" + s.repo
	for _, kind := range []string{"", lab.CosignBundle} {
		if got, want := discover(t, oras, name+"@"+s.of.Digest.String(), kind), s.digests(kind); !slices.Equal(got, want) {
			t.Errorf("%s: oras discover of type %q: %v, want %v", what, kind, got, want)
		}
	}
	sbom := s.referrers[slices.IndexFunc(s.referrers, func(img lab.Image) bool { return img.Kind == lab.SPDX })]
	must(oras.CLI(t.Context(), "pull", "--plain-http", "--output", "pulled", sbom.ByDigest(m.Addr)))(t)
	if got := must(os.ReadFile(filepath.Join(dir, "pulled", "sbom.spdx.json")))(t); string(got) != readAll(t, sbom.Blobs[0]) {
		t.Errorf("%s: oras pull: %s", what, got)
	}
	for _, img := range s.tagged {
		if got := must(crane.CLI(t.Context(), "digest", img.ByTag(m.Addr)))(t); got != img.Root().Digest.String() {
			t.Errorf("%s: crane digest of %s: %s, want %s", what, img.Tag, got, img.Root().Digest)
		}
		if got := must(crane.CLI(t.Context(), "manifest", img.ByTag(m.Addr)))(t); got != strings.TrimSpace(string(img.Root().Bytes)) {
			t.Errorf("%s: crane manifest of %s differs from upstream's:\n%s", what, img.Tag, got)
		}
	}
}

// digests are those of the referrers of a type, all where that is empty, in order.
func (s subject) digests(kind string) (all []string) {
	for _, img := range s.referrers {
		if kind == "" || img.Kind == kind {
			all = append(all, img.Root().Digest.String())
		}
	}
	slices.Sort(all)
	return all
}

// discover has oras list what refers to a manifest directly, by digest, in order.
func discover(t *testing.T, oras *lab.Client, ref, kind string) (all []string) {
	t.Helper()
	out := must(oras.CLI(t.Context(), "discover", "--plain-http", "--format", "json", "--depth", "1", "--artifact-type", kind, ref))(t)
	var found struct{ Referrers []struct{ Digest string } }
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatal(err)
	}
	for _, d := range found.Referrers {
		all = append(all, d.Digest)
	}
	slices.Sort(all)
	return all
}

// once fails the test if a remote was asked for something twice, or for more lists of
// referrers than there are subjects.
func (s *shelf) once(t *testing.T) {
	t.Helper()
	seen := map[string]int{}
	lists, tags := 0, 0
	repos := map[string]bool{}
	for _, r := range s.Requests() {
		seen[r.URI]++
		if seen[r.URI] == 2 && r.Kind != lab.Ping {
			t.Errorf("the upstream was asked again: %v", r)
		}
		for _, sub := range s.subjects {
			if strings.HasSuffix(r.URI, "/referrers/"+sub.of.Digest.String()) {
				lists++
				repo, _, _ := strings.Cut(r.URI, "/referrers/")
				repos[repo] = true
			}
			if strings.HasSuffix(r.URI, "/manifests/"+lab.ReferrersTag(sub.of.Digest)) {
				tags++
			}
		}
	}
	wantLists := len(s.subjects)
	if s.tags > 0 {
		wantLists = len(repos) // each shows that it has no API
	}
	if lists != wantLists || tags != s.tags*len(s.subjects) {
		t.Errorf("%d lists of referrers and %d tags for them were asked for, want %d and %d\n%v", lists, tags, wantLists, s.tags*len(s.subjects), s)
	}
	t.Logf("cold: %v", s.Counts())
}

// verifyAll verifies all subjects.
func (s *shelf) verifyAll(ctx context.Context, m *lab.Server) error {
	var errs []error
	for _, sub := range s.subjects {
		errs = append(errs, sub.verify(ctx, m))
	}
	return errors.Join(errs...)
}

// linked tells whether the layout has all that is attached, which is when a kill does
// not take it away: clients have had it before.
func (s *shelf) linked(m *lab.Server) bool {
	for _, sub := range s.subjects {
		for _, img := range slices.Concat(sub.tagged, sub.referrers) {
			dir := filepath.Join(m.Data, "docker/registry/v2/repositories", img.Repo)
			links := []string{filepath.Join(dir, "_manifests/revisions/sha256", img.Root().Digest.Encoded(), "link")}
			for _, b := range img.Blobs {
				links = append(links, filepath.Join(dir, "_layers/sha256", b.Digest.Encoded(), "link"))
			}
			for _, link := range links {
				if _, err := os.Stat(link); err != nil {
					return false
				}
			}
		}
	}
	return true
}

// offline waits until all that is attached is found while the upstream is away: clients
// do not wait for the disk.
func (s *shelf) offline(t *testing.T, m *lab.Server) {
	t.Helper()
	var err error
	defer func() {
		if err != nil {
			t.Log(err)
		}
	}()
	within(t, 10*time.Second, "all that is attached is found without upstream", func() bool {
		err = s.verifyAll(t.Context(), m)
		return err == nil
	})
}
