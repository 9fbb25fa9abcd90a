package seed

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
)

// A manifest of two bytes a part is not decoded, and of one that is, only what its blobs are
// fetched by is kept, each once.
func TestManifestBounds(t *testing.T) {
	var before, after runtime.MemStats
	p := []byte(`{"layers":[` + strings.Repeat("{},", 1<<20) + `{}]}`)
	runtime.ReadMemStats(&before)
	_, err := parseDocument(p)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "parts") || after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("error %v, %d bytes allocated", err, after.TotalAlloc-before.TotalAlloc)
	}
	layer := `{"mediaType":"a/b","digest":"` + digest.FromString("a").String() + `","size":1,"annotations":{"x":"y"},"data":"AAAA"}`
	doc, err := parseDocument([]byte(`{"config":` + layer + `,"layers":[` + layer + `,` + layer + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := doc.blobs(); len(got) != 1 || got[0].Data != nil || got[0].Annotations != nil || got[0].MediaType != "a/b" {
		t.Errorf("%+v", got)
	}
}

// placeOnly is a repository that is asked for nothing but its key.
type placeOnly struct {
	Repository
	asked int
}

func (*placeOnly) Key() string { return "app" }

func (p *placeOnly) Peek(context.Context, string) (cache.Tagged, error) {
	p.asked++
	return cache.Tagged{}, cache.ErrNotFound
}

// While something that is wanted could not be brought, no pin is taken back: what was seeded
// before may be all that there is.
func TestPruneAfterFailure(t *testing.T) {
	r := &run{Seeder: New(Options{}), prunes: true, pinned: map[string]bool{"app:0": true}}
	lost := v1.Descriptor{Digest: digest.FromString("a"), Size: 1}
	i := &image{repo: &placeOnly{}, tag: "1", planned: PlannedImage{Image: "app:1"}, blobs: []v1.Descriptor{lost}}
	r.images = []*image{i}
	if patterns, _ := r.unwanted(); len(patterns) != 1 {
		t.Errorf("planned are %q", patterns)
	}
	r.contents = map[digest.Digest]*content{lost.Digest: {
		slot: make(chan struct{}, 1), places: map[string]*place{"app": {err: errors.New("gone")}},
	}}
	if done := r.bring(context.Background(), i, newTracker(r, Plan{}, nil)); done.State != Failed {
		t.Errorf("%+v", done)
	}
	if patterns, why := r.unwanted(); len(patterns) > 0 || !strings.Contains(why, "app:1: ") {
		t.Errorf("%q, %q", patterns, why)
	}
}

// Where an image has as many manifests as it may, no more are asked for.
func TestNoMoreManifests(t *testing.T) {
	repo := new(placeOnly)
	i := &image{repo: repo}
	w := walker{run: newRun(New(Options{}), Job{}), i: i, manifests: maxManifests}
	if _, err := w.child(context.Background(), v1.Descriptor{Digest: digest.FromString("a")}, 0, nil); !errors.Is(err, errTooMany) || repo.asked > 0 {
		t.Errorf("error %v, %d asked", err, repo.asked)
	}
	if w.takes(maxAllBlobs) != nil || w.takes(1) == nil {
		t.Error("blobs are not counted")
	}
}

// A midnight that the clock skips is when it is skipped, although the clock shows the day
// before up to then.
func TestSkippedMidnight(t *testing.T) {
	at, err := time.LoadLocation("America/Sao_Paulo")
	if err != nil {
		t.Fatal(err)
	}
	got := schedule{"0 0 * * *"}.next(time.Date(2018, 11, 3, 12, 0, 0, 0, at))
	if want := time.Date(2018, 11, 4, 1, 0, 0, 0, at); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
