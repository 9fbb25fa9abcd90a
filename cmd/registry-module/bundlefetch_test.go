package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"registry-module/cache"
	"registry-module/seed"
	"registry-module/seed/bundle"
	"registry-module/upstream/router"
)

// fetchesNothing is a seeding that fetches nothing.
type fetchesNothing struct {
	seeding
	job    seed.Job
	report seed.Report
}

func (f *fetchesNothing) Seed(_ context.Context, job seed.Job, _ func(seed.Progress)) (seed.Report, error) {
	f.job = job
	return f.report, nil
}

// What is to be carried is fetched first, and one image that cannot be had is an error.
func TestBundleFetches(t *testing.T) {
	s := &fetchesNothing{report: seed.Report{Images: []seed.SeededImage{
		{Image: "team/app:v1", State: seed.Seeded}, {Image: "team/tool:1.2", State: seed.Unconfirmed},
	}}}
	f := createFlags{wants: []seed.Want{
		{Image: "team/app:v1", Loose: true, Bare: true}, {Image: "team/tool", Tags: &seed.Tags{Newest: 1}, Platforms: []string{"linux/arm64"}},
	}}
	var notes strings.Builder
	images, err := f.fetch(t.Context(), &notes, openedImages{seeding: s})
	if err != nil || len(images) != 2 || !images[0].Bare || images[1].Image != "team/tool:1.2" || images[1].Tags != nil || len(images[1].Platforms) != 1 {
		t.Errorf("%+v, %v", images, err)
	}
	if len(s.job.Wants) != 2 || !strings.Contains(notes.String(), "team/tool:1.2 is as it was stored") {
		t.Errorf("%+v, %s", s.job, notes.String())
	}
	s.report.Images[0] = seed.SeededImage{Image: "team/app:v1", State: seed.Failed, Error: "no such tag"}
	if _, err := f.fetch(t.Context(), io.Discard, openedImages{seeding: s}); err == nil || !strings.Contains(err.Error(), "team/app:v1: no such tag") {
		t.Error(err)
	}
}

// An image has the place that clients find it at, whatever its registry is called.
func TestBundlePlaces(t *testing.T) {
	remotes, routes := threeRemotes()
	s, err := newServedRemotes(nil, remotes, routes, false)
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[[2]string]cache.Place{
		{"docker.io", "library/nginx"}:       {Host: hubHost, Repo: "library/nginx"},
		{"registry-1.docker.io", "team/app"}: {Host: hubHost, Repo: "team/app"},
		{"mcr.test", "team/app"}:             {Host: "mcr.test", Repo: "team/app"},
		{"quay.test", "team/app"}:            {Host: "ours.test:5000", Repo: "quay.test/team/app"},
		{"ours.test:5000", "quay.test/x"}:    {Host: "ours.test:5000", Repo: "quay.test/x"},
	} {
		if p, err := s.place(bundle.Image{Remote: image[0], Repository: image[1]}); err != nil || p != want {
			t.Errorf("%v: %v, %v", image, p, err)
		}
	}
	for _, tt := range []struct{ host, repository, says string }{
		{"elsewhere.test", "a", "REGISTRY_PROXY_REMOTEURL_N=https://elsewhere.test"},
		{"mcr.test", "denied", "REGISTRY_PROXY_DENY"},
	} {
		err := s.check([]bundle.Image{{Remote: tt.host, Repository: tt.repository, Tag: "v1"}})
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.host, err)
		}
	}
	mirror, err := newServedRemotes(nil, []cache.Remote{{Host: ""}}, []router.Remote{{Default: true}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.check([]bundle.Image{{Remote: "mcr.test", Repository: "a"}}); err == nil || !strings.Contains(err.Error(), "nobody knows") {
		t.Error(err)
	}
}

// Where loading was interrupted, it is said how many images there are in all.
func TestBundleReceiptOfSome(t *testing.T) {
	var out strings.Builder
	r := bundle.Receipt{Images: []bundle.LoadedImage{{Image: "registry.test/team/app:v1"}}}
	if err := printReceipt(&out, r, 3); err != nil || !strings.Contains(out.String(), "1 image of 3,") {
		t.Errorf("%v, printed\n%s", err, out.String())
	}
}
