package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/seed"
)

func TestPlanOutput(t *testing.T) {
	plan := seed.Plan{
		Images: []seed.PlannedImage{
			{Image: "team/app:1", Platforms: []string{"linux/arm64"}, Layers: 3, Attached: 1, Size: 3 << 20, Fetch: 1 << 20, Warning: "the remote\nis away"},
			{Image: "team/\x1b:1", From: "list, line 2", Error: "not\x1bfound"},
			{Image: "team/there:1", Layers: 1, Size: 1024},
		},
		Blobs: 5, Size: 4 << 20, Present: 3 << 20, Fetch: 1 << 20, Disk: 2 << 20, Pinned: 5 << 20, Limit: 4 << 20,
		Why: "1 MiB is missing", Prune: []string{"team/old:1"},
	}
	var out bytes.Buffer
	if err := printPlan(&out, plan); err != nil {
		t.Fatal(err)
	}
	want := `IMAGE          PLATFORMS    LAYERS  ATTACHED  SIZE     TO FETCH  STATE
team/app:1     linux/arm64  3       1         3.0 MiB  1.0 MiB   partly there; the remote is away
"team/\x1b:1"  -            0       0         0 B      0 B       "error: not\x1bfound"
team/there:1   -            1       0         1.0 KiB  0 B       there

4.0 MiB in 5 blobs and manifests; 3.0 MiB are there, 1.0 MiB are to be fetched
2.0 MiB more of the disk, and what is pinned takes 5.0 MiB of 4.0 MiB then: it does not fit; 1 MiB is missing
unpinned would be team/old:1
`
	if aligned(out.String()) != aligned(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	wantExit(t, planError(plan), exitFailed)
	plan.Fits = true
	wantExit(t, planError(plan), exitPartly)
	plan.Images = plan.Images[1:2]
	err := planError(plan)
	if wantExit(t, err, exitFailed); !strings.Contains(err.Error(), `"team/\x1b:1" (list, line 2): "not\x1bfound"`) {
		t.Errorf("%v", err)
	}
	plan.Images = nil
	wantExit(t, planError(plan), 0)
}

func TestReportOutput(t *testing.T) {
	image := func(s seed.State, reason string) seed.SeededImage {
		return seed.SeededImage{Image: "team/" + string(s), State: s, Error: reason, Digest: sum("a"), Size: 2048, Pinned: s == seed.Seeded}
	}
	r := seed.Report{Images: []seed.SeededImage{image(seed.Seeded, ""), image(seed.Present, ""), image(seed.Failed, "gone"), image(seed.Unconfirmed, "")},
		Fetched: 1024, Size: 4096, Pruned: []string{"team/old:1"}, Took: 1500 * time.Millisecond, Warning: "careful"}
	var out bytes.Buffer
	if err := printSeeded(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4 images: 1 seeded, 1 present, 1 unconfirmed, 1 failed; 1.0 KiB fetched of 4.0 KiB, in 1.5s\nunpinned team/old:1\nwarning: careful\n", "sha256:aaaaaaaaaaaa"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	for name, tt := range map[string]struct {
		images []seed.SeededImage
		err    error
		want   int
		says   string
	}{
		"all there":          {r.Images[:2], nil, 0, ""},
		"some":               {r.Images, nil, exitPartly, "team/failed: gone"},
		"none":               {r.Images[2:3], nil, exitFailed, "1 of 1 images have failed"},
		"unconfirmed":        {r.Images[3:], nil, exitPartly, "could not be confirmed"},
		"ended, with some":   {r.Images[:1], errors.New("disk on fire"), exitPartly, "disk on fire; 1 of 1 images are there"},
		"ended, with none":   {r.Images[2:3], errors.New("disk on fire"), exitFailed, "disk on fire"},
		"nothing was wanted": {nil, nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := reportError(seed.Report{Images: tt.images}, tt.err)
			if wantExit(t, err, tt.want); !strings.Contains(errorString(err), tt.says) {
				t.Errorf("%v, want %s", err, tt.says)
			}
		})
	}
}

// Elsewhere than on a terminal there are few lines, and on one there are bars.
func TestSeedDisplay(t *testing.T) {
	steps := func(d *seedDisplay, pass func(time.Duration)) {
		p := seed.Progress{TotalImages: 2, TotalBytes: 100 << 20}
		for i := range 100 {
			p.Bytes, p.Fetched, p.Active = int64(i)<<20, int64(i)<<20, nil
			for j := range 20 {
				p.Active = append(p.Active, seed.ActiveBlob{Image: "team/\x1bapp", Digest: digest.FromString(string(rune('a' + j + i/10))), Bytes: int64(i), Size: 100})
			}
			d.show(p)
			pass(time.Second)
		}
		p.Images, p.Done = 1, &seed.SeededImage{Image: "team/\x1bapp", State: seed.Failed, Error: "gone\x1b"}
		d.show(p)
	}
	var out bytes.Buffer
	at := now
	d := newSeedDisplay(&out, func() time.Time { return at })
	steps(d, func(by time.Duration) { at = at.Add(by) })
	d.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 10 && len(lines) != 11 || lines[0] != "0 of 2 images, 10 MiB of 100 MiB, 10 MiB fetched" || !strings.HasPrefix(lines[9], `failed "team/\x1bapp": "gone\x1b"`) {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}

	var screen bytes.Buffer
	d = &seedDisplay{out: &screen, now: time.Now}
	d.draw(100)
	steps(d, func(time.Duration) {})
	if len(d.layers) > maxBars {
		t.Errorf("%d bars", len(d.layers))
	}
	var log io.Writer
	back := d.takeLog(func(out io.Writer) { log = out })
	if log != io.Writer(d) {
		t.Error("what is logged is written into the bars")
	}
	_, _ = io.WriteString(log, "a line of the log\n")
	if back(); log != io.Writer(&screen) {
		t.Error("what is logged is not given back")
	}
	d.close()
	if strings.Contains(screen.String(), "done!") {
		t.Error("it is done, and an image has failed")
	}
	for _, want := range []string{"all together", "99 MiB", `failed "team/\x1bapp"`, "a line of the log"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("%q is not in\n%q", want, screen.String())
		}
	}
	// Bars that have not begun to be drawn end, too.
	d = &seedDisplay{out: &screen, now: time.Now}
	d.draw(20)
	d.close()
}
