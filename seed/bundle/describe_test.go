package bundle_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/seed/bundle"
)

func TestDescribe(t *testing.T) {
	s := newStore()
	base := s.layer("base", 100)
	amd, arm := s.image("amd64", base), s.image("arm64", base, s.layer("arm", 100))
	half := s.image("s390x", base, s.layer("half", 100))
	delete(s.content, s.layer("half", 100).Digest)
	gone := s.image("ppc64le", base)
	delete(s.content, gone.Digest)
	multi := s.index(amd, arm, half, gone)
	nested := s.index(s.index(amd))
	none := s.index(half, gone)
	foreign := s.image("amd64", base, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString("f"), Size: 1, URLs: []string{"https://elsewhere.example/f"}})
	schema1 := s.add("application/vnd.docker.distribution.manifest.v1+json", []byte(`{"fsLayers":[{"blobSum":"`+string(base.Digest)+`"}]}`))
	broken := s.add(v1.MediaTypeImageManifest, []byte("hello"))
	deep := amd
	for range 12 {
		deep = s.index(deep)
	}
	other := base
	other.Size++
	lies := s.image("amd64", other)
	wrong := s.image("arm64", s.layer("wrong", 10))
	s.content[wrong.Digest] = append(s.content[wrong.Digest], ' ')
	referrer, lost := s.signature(multi), s.signature(amd)
	delete(s.content, lost.Digest)

	for name, tt := range map[string]struct {
		root      v1.Descriptor
		with      []v1.Descriptor
		o         bundle.DescribeOptions
		manifests []v1.Descriptor
		platforms []string
		blobs     int
		skipped   int
		fail      string
		whole     bool // the failure is not one of completeness
	}{
		"one platform": {root: amd, platforms: []string{"linux/amd64"}, blobs: 2},
		"index":        {root: multi, manifests: []v1.Descriptor{amd, arm}, platforms: []string{"linux/amd64", "linux/arm64"}, blobs: 4},
		"only one child": {
			root: multi, manifests: []v1.Descriptor{arm}, platforms: []string{"linux/arm64"}, blobs: 3,
			o: bundle.DescribeOptions{Child: func(_ bundle.Image, d v1.Descriptor) bool { return d.Platform.Architecture == "arm64" }},
		},
		"no child wanted": {root: multi, o: bundle.DescribeOptions{Child: func(bundle.Image, v1.Descriptor) bool { return false }}, fail: "none of what it lists"},
		"child with a blob that the site has": {
			root: multi, manifests: []v1.Descriptor{amd, arm, half}, platforms: []string{"linux/amd64", "linux/arm64", "linux/s390x"}, blobs: 6,
			o: bundle.DescribeOptions{Have: []bundle.Content{{Digest: halfLayer(half, s)}}},
		},
		"index in an index":  {root: nested, manifests: []v1.Descriptor{amd, nestedChild(s, nested)}, platforms: []string{"linux/amd64"}, blobs: 2},
		"layer elsewhere":    {root: foreign, platforms: []string{"linux/amd64"}, blobs: 2},
		"empty index":        {root: s.index(), blobs: 0},
		"with a referrer":    {root: amd, with: []v1.Descriptor{referrer}, manifests: []v1.Descriptor{referrer}, platforms: []string{"linux/amd64"}, blobs: 3},
		"a referrer skipped": {root: amd, with: []v1.Descriptor{lost, referrer}, manifests: []v1.Descriptor{referrer}, platforms: []string{"linux/amd64"}, blobs: 3, skipped: 1},
		"a referrer missing": {root: amd, with: []v1.Descriptor{lost}, skipped: -1, fail: "is not stored"},
		"nothing whole":      {root: none, fail: "is not stored"},
		"blob missing":       {root: half, fail: halfLayer(half, s).String()},
		"manifest missing":   {root: gone, fail: gone.Digest.String()},
		"schema 1":           {root: schema1, fail: "schema 1", whole: true},
		"no JSON":            {root: broken, fail: "invalid character", whole: true},
		"too deep":           {root: deep, fail: "lie in one another", whole: true},
		"wrong bytes":        {root: wrong, fail: "does not match", whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			i := root("h.example", "a", "1", tt.root)
			for _, m := range tt.with {
				i.Manifests = append(i.Manifests, bundle.Manifest{Digest: m.Digest, MediaType: m.MediaType})
			}
			skipped := 0
			if tt.skipped >= 0 {
				tt.o.Skip = func(_ bundle.Image, _ bundle.Manifest, why error) {
					if errors.Is(why, bundle.ErrIncomplete) {
						skipped++
					}
				}
			}
			d, err := bundle.Describe(context.Background(), s, []bundle.Image{i}, tt.o)
			if tt.fail != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fail) || errors.Is(err, bundle.ErrIncomplete) == tt.whole || !strings.Contains(err.Error(), "h.example/a:1") {
					t.Errorf("error %v, want %q", err, tt.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got, want []digest.Digest
			for _, m := range d.Images[0].Manifests {
				got = append(got, m.Digest)
			}
			for _, m := range tt.manifests {
				want = append(want, m.Digest)
			}
			if !slices.Equal(got, want) || !slices.Equal(d.Images[0].Platforms, tt.platforms) || len(d.Images[0].Blobs) != tt.blobs || skipped != tt.skipped {
				t.Errorf("%+v, want manifests %q; %d skipped", d.Images[0], want, skipped)
			}
		})
	}
	// The errors of all images come at once.
	_, err := bundle.Describe(context.Background(), s, []bundle.Image{root("h.example", "a", "1", gone), root("h.example", "b", "1", half)}, bundle.DescribeOptions{})
	if err == nil || !strings.Contains(err.Error(), "/a:1") || !strings.Contains(err.Error(), "/b:1") {
		t.Errorf("error %v", err)
	}
	_, err = bundle.Describe(context.Background(), s, []bundle.Image{root("h.example", "a", "1", amd), root("h.example", "b", "1", lies)}, bundle.DescribeOptions{})
	if err == nil || !strings.Contains(err.Error(), "101 bytes, and elsewhere 100") {
		t.Errorf("error %v", err)
	}
}

// Indexes that list one another's children over and over again, none of them whole, are
// looked at once each.
func TestDescribeManyPaths(t *testing.T) {
	s := newStore()
	half := s.image("amd64", s.layer("gone", 100))
	delete(s.content, newStore().layer("gone", 100).Digest)
	level := []v1.Descriptor{half}
	for range 7 {
		var next []v1.Descriptor
		for n := range 40 {
			children := append([]v1.Descriptor{}, level...)
			children[0].Annotations = map[string]string{"n": strings.Repeat("x", n)}
			next = append(next, s.index(children...))
		}
		level = next
	}
	_, err := bundle.Describe(context.Background(), s, []bundle.Image{root("h.example", "a", "1", s.index(level...))}, bundle.DescribeOptions{})
	if !errors.Is(err, bundle.ErrIncomplete) || len(err.Error()) > 10_000 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	for dgst, n := range s.opened {
		if n > 1 {
			t.Errorf("%s is opened %d times", dgst, n)
		}
	}
	s.content[half.Digest] = []byte(`{"layers":[` + strings.Repeat("{},", 1<<20) + `{}]}`)
	_, err = bundle.Describe(context.Background(), s, []bundle.Image{root("h.example", "a", "1", s.add(v1.MediaTypeImageManifest, s.content[half.Digest]))}, bundle.DescribeOptions{})
	if err == nil || !strings.Contains(err.Error(), "parts") {
		t.Errorf("error %v", err)
	}
}

// In whatever order what refers to an image is given, and whatever of it is left out, the
// description is the same.
func TestDescribeReferrers(t *testing.T) {
	s := newStore()
	amd := s.image("amd64", s.layer("a", 100))
	good := s.image("s390x", s.layer("b", 100))
	broken := s.add(v1.MediaTypeImageManifest, []byte("hello"))
	var all []bundle.Manifest
	for _, d := range []v1.Descriptor{s.signature(amd), s.index(good, broken), s.index(good), good} {
		all = append(all, bundle.Manifest{Digest: d.Digest, MediaType: d.MediaType})
	}
	var want bundle.Description
	for n := range all {
		i := root("h.example", "a", "1", amd)
		i.Manifests = append(slices.Clone(all[n:]), all[:n]...)
		skipped := 0
		d := describe(t, s, []bundle.Image{i}, bundle.DescribeOptions{Skip: func(bundle.Image, bundle.Manifest, error) { skipped++ }})
		if n == 0 {
			want = d
		}
		if !reflect.DeepEqual(d, want) || skipped != 1 || len(d.Images[0].Manifests) != 3 || len(d.Images[0].Platforms) != 1 {
			t.Errorf("%d skipped, %+v, want %+v", skipped, d, want)
		}
	}
}

// halfLayer is the layer of an image that is not stored.
func halfLayer(v1.Descriptor, *store) digest.Digest {
	return newStore().layer("half", 100).Digest
}

// nestedChild is the index that another lists.
func nestedChild(s *store, index v1.Descriptor) v1.Descriptor {
	for dgst := range s.content {
		if strings.Contains(string(s.content[index.Digest]), string(dgst)) {
			return v1.Descriptor{Digest: dgst}
		}
	}
	return v1.Descriptor{}
}
