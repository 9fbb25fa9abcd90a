package seed_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/seed"
)

func run(t *testing.T, f *fake, job seed.Job) seed.Report {
	t.Helper()
	report, err := seed.New(seed.Options{Cache: f}).Seed(t.Context(), job, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func plan(t *testing.T, f *fake, job seed.Job) seed.Plan {
	t.Helper()
	p, err := seed.New(seed.Options{Cache: f}).Plan(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func images(names ...string) (job seed.Job) {
	for _, n := range names {
		job.Wants = append(job.Wants, seed.Want{Image: n})
	}
	return job
}

// signed is an image of two platforms with all that can be attached to it.
func signed(f *fake) (top v1.Descriptor, parts int) {
	arm := on(f.image("app", "", "base", "arm"), "linux/arm64")
	amd := on(f.image("app", "", "base", "amd"), "linux/amd64")
	attestation := on(f.image("app", "", "provenance of arm"), "unknown/unknown")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": arm.Digest.String()}
	top = f.list("app", "1", arm, amd, attestation)
	sbom := f.image("app", "", "sbom")
	r := f.repo("app")
	r.referrers[top.Digest] = []v1.Descriptor{sbom}
	r.referrers[sbom.Digest] = []v1.Descriptor{f.image("app", "", "signature of the sbom")}
	f.image("app", "sha256-"+top.Digest.Encoded()+".sig", "signature")
	f.image("app", "sha256-"+amd.Digest.Encoded()+".att", "of amd")
	return top, 8
}

func TestSeed(t *testing.T) {
	f := newFake(t)
	top, _ := signed(f)
	p := plan(t, f, images("remote.test/app:1"))
	if n := f.count("blob"); n != 0 || len(f.order) != 0 {
		t.Fatalf("a plan has fetched %d blobs and written %q", n, f.order)
	}
	report := run(t, f, images("remote.test/app:1"))
	i := report.Images[0]
	if i.State != seed.Seeded || i.Digest != top.Digest || i.Attached != 5 || !i.Pinned || i.Remote != "remote.test" ||
		strings.Join(i.Platforms, " ") != "linux/arm64 linux/amd64" {
		t.Errorf("%+v", i)
	}
	// 8 manifests; and for each but the index a configuration, and its layers, of which
	// one is shared.
	if p.Blobs != 8+7+8-0 || p.Size != report.Size || p.Fetch != p.Size || p.Present != 0 || !p.Fits {
		t.Errorf("%+v", p)
	}
	if report.Fetched != f.bytes || i.Fetched != f.bytes || f.count("blob") != 15 {
		t.Errorf("%d bytes in %d requests, and %d are told of", f.bytes, f.count("blob"), report.Fetched)
	}
	last := f.order[len(f.order)-4:]
	if last[0] != "pin app:1" || last[3] != "tag 1" || !strings.HasPrefix(last[1], "tag sha256-") {
		t.Errorf("it ends with %q", last)
	}
	before := slices.Index(f.order, "manifest "+top.Digest.String())
	if n := slices.IndexFunc(f.order, func(s string) bool { return strings.HasPrefix(s, "manifest") }); n < 15 || before < n+3 {
		t.Errorf("%q", f.order)
	}

	f.reset()
	report = run(t, f, images("remote.test/app:1"))
	if i := report.Images[0]; i.State != seed.Present || i.Fetched != 0 || !i.Pinned || i.Attached != 5 {
		t.Errorf("%+v", i)
	}
	if f.count("blob") != 0 || len(f.order) != 0 {
		t.Errorf("the second run has written %q", f.order)
	}
	if p := plan(t, f, images("remote.test/app:1")); p.Fetch != 0 || p.Present != p.Size || p.Images[0].Fetch != 0 {
		t.Errorf("%+v", p)
	}
}

// What is attached, and platforms, can be left out, and a pin.
func TestSeedLess(t *testing.T) {
	f := newFake(t)
	signed(f)
	report := run(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1", Platforms: []string{"linux/amd64"}, Bare: true, Loose: true}}})
	i := report.Images[0]
	if i.State != seed.Seeded || i.Attached != 0 || i.Pinned || strings.Join(i.Platforms, " ") != "linux/amd64" {
		t.Errorf("%+v", i)
	}
	if f.count("blob") != 3 || f.count("referrers") != 0 || f.count("peek app sha256-") != 0 || f.count("peek") != 2 {
		t.Errorf("%v", f.calls)
	}
	// With what is attached to that platform, and not to the other one.
	f.reset()
	report = run(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1", Platforms: []string{"linux/amd64"}}}})
	if i := report.Images[0]; i.Attached != 4 || f.count("blob") != 8 || !i.Pinned {
		t.Errorf("%+v, %v", i, f.calls)
	}
}

func TestPlatforms(t *testing.T) {
	tests := map[string]struct {
		has   string
		wants string
		want  string // or what the error has, behind a !
	}{
		"all":                       {"linux/amd64 linux/arm64/v8 windows/amd64", "", "linux/amd64 linux/arm64 windows/amd64"},
		"one":                       {"linux/amd64 linux/arm64/v8", "linux/arm64", "linux/arm64"},
		"variant that goes without": {"linux/arm64 linux/amd64", "linux/arm64/v8", "linux/arm64"},
		"not above v8":              {"linux/arm64/v9 linux/arm64/v8", "linux/arm64", "linux/arm64"},
		"above v8 alone":            {"linux/arm64/v9", "linux/arm64", "!nothing for linux/arm64, but for linux/arm64/v9"},
		"all variants":              {"linux/arm/v5 linux/arm/v7 linux/arm", "linux/arm", "linux/arm/v5 linux/arm/v7 linux/arm"},
		"exact variant":             {"linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v6", "linux/arm/v6"},
		"next variant below":        {"linux/arm/v5 linux/arm/v6 linux/arm64", "linux/arm/v7", "linux/arm/v6"},
		"no variant below":          {"linux/arm/v7", "linux/arm/v6", "!nothing for linux/arm/v6, but for linux/arm/v7"},
		"other names":               {"linux/amd64 linux/arm/v7 linux/386", "linux/x86_64 linux/armhf", "linux/amd64 linux/arm/v7"},
		"another system":            {"linux/amd64 windows/amd64", "windows/amd64", "windows/amd64"},
		"one of two":                {"linux/amd64", "linux/amd64 linux/s390x", "!nothing for linux/s390x, but for linux/amd64"},
		"neither":                   {"linux/amd64 linux/arm64", "linux/s390x linux/arm/v7", "!nothing for linux/s390x, linux/arm/v7, but for linux/amd64, linux/arm64"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.index("app", "1", strings.Fields(tt.has)...)
			i := plan(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1", Platforms: strings.Fields(tt.wants)}}}).Images[0]
			text, fails := strings.CutPrefix(tt.want, "!")
			switch {
			case fails && !strings.Contains(i.Error, text), !fails && i.Error != "":
				t.Errorf("error %q", i.Error)
			case !fails && strings.Join(i.Platforms, " ") != text:
				t.Errorf("%q", i.Platforms)
			case !fails && f.count("peek app sha256:") != len(strings.Fields(text)):
				t.Errorf("%v", f.calls)
			}
		})
	}
}

func TestShapes(t *testing.T) {
	var deep func(f *fake, n int) v1.Descriptor
	deep = func(f *fake, n int) v1.Descriptor {
		if n == 0 {
			return on(f.image("app", "", "x"), "linux/arm64")
		}
		return f.list("app", "1", deep(f, n-1))
	}
	foreign := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: "sha256:" + v1.DescriptorEmptyJSON.Digest[7:], Size: 99, URLs: []string{"https://h.example/x"}}
	tests := map[string]struct {
		add    func(f *fake)
		wants  []string
		blobs  int // of the plan
		warns  string
		failed string
	}{
		"manifest alone":       {func(f *fake) { f.image("app", "1", "a", "b") }, []string{"linux/arm64"}, 4, "", ""},
		"nested index":         {func(f *fake) { deep(f, 2) }, []string{"linux/arm64"}, 5, "", ""},
		"nested, no such":      {func(f *fake) { deep(f, 2) }, []string{"linux/amd64"}, 0, "", "nothing for linux/amd64, but for linux/arm64"},
		"nested too deep":      {func(f *fake) { deep(f, 5) }, nil, 0, "", "it is an index in more than 3 others"},
		"platform is not told": {func(f *fake) { f.list("app", "1", f.image("app", "", "x")) }, []string{"linux/arm64"}, 4, "whether it has linux/arm64 is not known", ""},
		"same child twice":     {func(f *fake) { c := f.image("app", "", "x"); f.list("app", "1", c, c) }, nil, 4, "", ""},
		"foreign layer": {func(f *fake) {
			f.json("app", v1.MediaTypeImageManifest, v1.Manifest{Config: f.add("app", "", []byte("{}")), Layers: []v1.Descriptor{foreign}}, "1")
		}, nil, 2, "", ""},
		"schema 1":      {func(f *fake) { f.add("app", "", []byte(`{"schemaVersion":1,"fsLayers":[]}`), "1") }, nil, 0, "", "Docker's schema 1"},
		"no JSON":       {func(f *fake) { f.add("app", "", []byte("<html>"), "1") }, nil, 0, "", "it is no manifest"},
		"neither":       {func(f *fake) { f.add("app", "", []byte("{}"), "1") }, nil, 0, "", "neither an index nor"},
		"broken digest": {func(f *fake) { f.add("app", "", []byte(`{"layers":[{"digest":"sha256:1"}]}`), "1") }, nil, 0, "", "it names"},
		"negative size": {func(f *fake) { f.add("app", "", []byte(`{"layers":[{"digest":"`+aDigest+`","size":-1}]}`), "1") }, nil, 0, "", "-1 bytes"},
		"absurd size": {func(f *fake) {
			f.add("app", "", []byte(`{"layers":[{"digest":"`+aDigest+`","size":9000000000000000000}]}`), "1")
		}, nil, 0, "", "9000000000000000000 bytes"},
		"too large": {func(f *fake) { f.add("app", "", []byte(`{"layers":[],"x":"`+strings.Repeat("x", 4<<20)+`"}`), "1") }, nil, 0, "", "more than 4194304"},
		"a cycle": {func(f *fake) {
			f.repo("app").referrers[f.image("app", "1", "a").Digest] = []v1.Descriptor{f.image("app", "1", "a")}
		}, nil, 3, "", ""},
		"child is not there": {func(f *fake) {
			f.list("app", "1", on(v1.Descriptor{Digest: "sha256:" + v1.DescriptorEmptyJSON.Digest[7:]}, "linux/arm64"))
		}, nil, 0, "", "for linux/arm64: peek app"},
		"attached is not there": {func(f *fake) { f.repo("app").referrers[f.image("app", "1", "a").Digest] = []v1.Descriptor{foreign} }, nil, 3, "is left out", ""},
		"attached is no such": {func(f *fake) {
			f.repo("app").referrers[f.image("app", "1", "a").Digest] = []v1.Descriptor{f.add("app", "", []byte("no"))}
		}, nil, 3, "it cannot be used", ""},
		"tag of cosign is wrong": {func(f *fake) {
			f.add("app", "", []byte("no"), "sha256-"+f.image("app", "1", "a").Digest.Encoded()+".sig")
		}, nil, 3, "is left out", ""},
		"index without platform": {func(f *fake) { f.add("app", "", []byte(`{"manifests":[]}`), "1") }, []string{"linux/arm64"}, 0, "", "nothing for linux/arm64, but for none"},
		"not there":              {func(*fake) {}, nil, 0, "", "not found"},
		"more manifests than can be": {func(f *fake) {
			var list []v1.Descriptor
			for n := range 1001 {
				list = append(list, f.add("app", "", fmt.Appendf(nil, `{"layers":[],"n":%d}`, n)))
			}
			f.list("app", "1", list...)
		}, nil, 0, "", "more than 1000 manifests"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tt.add(f)
			p := plan(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1", Platforms: tt.wants}}})
			i := p.Images[0]
			if (i.Error == "") != (tt.failed == "") || !strings.Contains(i.Error, tt.failed) || !strings.Contains(i.Warning, tt.warns) || (i.Warning == "") != (tt.warns == "") {
				t.Errorf("error %q, warning %q", i.Error, i.Warning)
			}
			if p.Blobs != tt.blobs {
				t.Errorf("%d blobs and manifests", p.Blobs)
			}
		})
	}
}

// What is wanted several times is one image, by whatever name, and for all platforms that
// any of them names.
func TestSameImage(t *testing.T) {
	f := newFake(t)
	f.index("app", "1", "linux/amd64", "linux/arm64", "linux/s390x")
	job := seed.Job{Wants: []seed.Want{
		{Image: "app:1", Platforms: []string{"linux/amd64"}, From: "one", Loose: true, Bare: true},
		{Image: "remote.test/app:1", Platforms: []string{"linux/arm64"}, From: "two"},
		{Image: "app:1", Platforms: []string{"linux/amd64"}, From: "one"},
	}}
	p := plan(t, f, job)
	if len(p.Images) != 1 || strings.Join(p.Images[0].Platforms, " ") != "linux/amd64 linux/arm64" || p.Images[0].From != "one; two" {
		t.Errorf("%+v", p.Images)
	}
	if f.count("find") != 2 || f.count("peek app 1") != 1 || f.count("referrers") != 3 {
		t.Errorf("%v", f.calls)
	}
	f.index("app", "2", "linux/amd64", "linux/s390x") // whose children are the same
	f.reset()
	if plan(t, f, images("app:1", "app:2")); f.count("peek app sha256:") != 3 {
		t.Errorf("%v", f.calls)
	}
	job.Wants = append(job.Wants, seed.Want{Image: "app:1"})
	if p := plan(t, f, job); len(p.Images[0].Platforms) != 3 {
		t.Errorf("%+v", p.Images)
	}
}

func TestTags(t *testing.T) {
	f := newFake(t)
	f.page = 2
	for _, tag := range []string{"1.0", "1.1", "1.2", "2.0", "latest"} {
		f.image("app", tag, "base", tag)
	}
	job := seed.Job{Wants: []seed.Want{
		{Image: "app", Tags: &seed.Tags{SemVer: "1.x", Newest: 2}},
		{Image: "app", Tags: &seed.Tags{Glob: []string{"2*"}}},
		{Image: "app", Tags: &seed.Tags{Glob: []string{"9*"}}},
		{Image: "app"},
	}}
	report := run(t, f, job)
	var got []string
	for _, i := range report.Images {
		got = append(got, i.Image+" "+string(i.State))
	}
	if want := "app:1.2 seeded,app:1.1 seeded,app:2.0 seeded,app failed,app seeded"; strings.Join(got, ",") != want {
		t.Errorf("%q", got)
	}
	if !strings.Contains(report.Images[3].Error, `none of its 5 tags is wanted by {"glob":["9*"]}`) {
		t.Errorf("%q", report.Images[3].Error)
	}
	if f.count("tags app") != 3 || f.count("find") != 2 || strings.Join(f.pinned(), " ") != "app:1.1 app:1.2 app:2.0 app:latest" {
		t.Errorf("%v, %q", f.calls, f.pinned())
	}
}

// A blob of several images is fetched once, be they of different repositories.
func TestSharedBlobs(t *testing.T) {
	f := newFake(t)
	var names []string
	for n := range 20 {
		repo := fmt.Sprintf("app%d", n%3)
		f.image(repo, fmt.Sprint(n), "base", "other base", fmt.Sprint("layer ", n))
		names = append(names, fmt.Sprintf("%s:%d", repo, n))
	}
	f.asked = func(_ context.Context, op string) error {
		if strings.HasPrefix(op, "blob") {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		f.parts[digestOf("base")] = 3
		p := plan(t, f, images(names...))
		report, err := seed.New(seed.Options{Cache: f, Parallel: 10}).Seed(t.Context(), images(names...), nil)
		if err != nil || report.Failures() > 0 {
			t.Fatalf("%v, %+v", err, report)
		}
		if f.count("blob") != 2+20*2 || p.Present != 3 {
			t.Errorf("%d requests for blobs, %d bytes were there", f.count("blob"), p.Present)
		}
		if manifests := manifestBytes(f); report.Fetched != f.bytes || report.Fetched != p.Fetch-manifests {
			t.Errorf("%d of %d bytes were fetched, %d for manifests", report.Fetched, p.Fetch, manifests)
		}
	})
}

func digestOf(layer string) string { return newFake(nil).add("x", "", []byte(layer)).Digest.String() }

func manifestBytes(f *fake) (n int64) {
	for _, r := range f.remote {
		for dgst, mediaType := range r.types {
			if mediaType == v1.MediaTypeImageManifest || mediaType == v1.MediaTypeImageIndex {
				n += int64(len(r.content[dgst]))
			}
		}
	}
	return n
}

// Nothing is fetched where it would not fit, and what is not pinned does not count.
func TestNoRoom(t *testing.T) {
	f := newFake(t)
	f.limit = 100
	f.image("app", "1", strings.Repeat("x", 1000))
	f.image("app", "2", "y")
	report, err := seed.New(seed.Options{Cache: f}).Seed(t.Context(), images("app:1", "app:2"), nil)
	if !errors.Is(err, seed.ErrNoRoom) || !strings.Contains(err.Error(), "REGISTRY_CACHE_MAXSIZE") || !strings.Contains(err.Error(), "100 B") {
		t.Errorf("%v", err)
	}
	if f.count("blob") != 0 || len(f.order) != 0 || report.Failures() != 2 || len(f.holds) != 0 {
		t.Errorf("%q was written; %+v", f.order, report)
	}
	report = run(t, f, seed.Job{Wants: []seed.Want{{Image: "app:1", Loose: true}}})
	if report.Failures() != 0 || len(f.holds) != 0 {
		t.Errorf("%+v", report)
	}
}

func TestPrune(t *testing.T) {
	tests := map[string]struct {
		wants []seed.Want
		asked func(op string) error
		left  string
		warns string
	}{
		"what is not wanted":      {[]seed.Want{{Image: "app:1"}}, nil, "app:1 other", ""},
		"what is loose now":       {[]seed.Want{{Image: "app:1", Loose: true}}, nil, "other", ""},
		"image that is not there": {[]seed.Want{{Image: "app:1"}, {Image: "app:9"}}, nil, "app:0 app:1 other", "app:9"},
		"unknown host":            {[]seed.Want{{Image: "app:1"}, {Image: "elsewhere.test/a"}}, nil, "app:0 app:1 other", "elsewhere.test/a"},
		"nothing is wanted":       {nil, nil, "app:0 app:1 other", "no image is named"},
		"blob that cannot be had": {[]seed.Want{{Image: "app:1"}, {Image: "app:2"}}, func(op string) error {
			if strings.HasSuffix(op, digestOf("b")) {
				return cache.ErrNoSpace
			}
			return nil
		}, "app:0 app:1 other", "app:2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.image("app", "1", "a")
			f.image("app", "2", "b")
			f.pins = []cache.Pin{
				{Pattern: "app:0", Reason: cache.PinnedBySeed}, {Pattern: "app:1", Reason: cache.PinnedBySeed}, {Pattern: "other", Reason: cache.PinnedByOperator},
			}
			f.asked = func(_ context.Context, op string) error {
				if tt.asked == nil {
					return nil
				}
				return tt.asked(op)
			}
			report := run(t, f, seed.Job{Wants: tt.wants, Prune: true})
			if got := strings.Join(f.pinned(), " "); got != tt.left {
				t.Errorf("%q are left", got)
			}
			if (report.Warning == "") != (tt.warns == "") || !strings.Contains(report.Warning, tt.warns) {
				t.Errorf("%q", report.Warning)
			}
			if len(report.Pruned) != 3-len(strings.Fields(tt.left)) {
				t.Errorf("%q", report.Pruned)
			}
		})
	}
}
