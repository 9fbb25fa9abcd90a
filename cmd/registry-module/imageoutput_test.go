package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"team/app:1": "team/app:1", "grün": "grün", "": "",
		"a\x1b[31mb": `"a\x1b[31mb"`, "a\nb": `"a\nb"`, "a\tb": `"a\tb"`, "a\u202eb": `"a\u202eb"`, "a\xff": `"a\xff"`, "a\u200bb": `"a\u200bb"`,
	} {
		if got := printable(s); got != want {
			t.Errorf("%q is %s, want %s", s, got, want)
		}
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute,
		"": 0, "30": 0, "0d": 0, "-1d": 0, "-1h": 0, "d": 0, "1.5d": 0, "99999999d": 0, "1 d": 0,
	} {
		if got, err := parseAge(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
}

// now is when all of these tests are.
var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// listed are images of all sorts, in the order in which they come.
func listed() []cache.Image {
	operator := cache.Pin{Pattern: "team/**", Reason: cache.PinnedByOperator, Since: now}
	policy := cache.Pin{Pattern: "team/app", Reason: cache.PinnedByPolicy}
	return []cache.Image{
		{Repository: "team/app", Remote: "r.test", Tag: "1", Digest: sum("a"), Platforms: []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/s390x"},
			Size: 3 << 30, Unique: 1 << 20, Complete: true, Used: now.Add(-72 * time.Hour), Confirmed: now.Add(-time.Hour), Pins: []cache.Pin{operator, policy, operator}},
		{Repository: "team/evil", Remote: "r.test", Tag: "\x1b[31m", Digest: sum("b"), Platforms: []string{"linux/\namd64"}, Size: 100, Unique: 100, Missing: 3},
		{Repository: "zoo", Remote: "r.test", Digest: sum("c"), Size: 2048, Used: now.Add(-40 * 24 * time.Hour)},
	}
}

func TestListOutput(t *testing.T) {
	for name, tt := range map[string]struct {
		o    listOptions
		want string
	}{
		"table": {listOptions{}, `
IMAGE                   DIGEST               PLATFORMS                                SIZE     UNIQUE   LAST USED    PINNED           STATE
team/app:1              sha256:aaaaaaaaaaaa  linux/amd64,linux/arm64,linux/arm/v7,+2  3.0 GiB  1.0 MiB  3 days ago   operator,policy  complete
"team/evil:\x1b[31m"    sha256:bbbbbbbbbbbb  "linux/\namd64"                          100 B    100 B    unknown      -                partial: 3 missing
zoo@sha256:cccccccccccc  sha256:cccccccccccc  -                                        2.0 KiB  0 B      1 month ago  -                partial
3 images, 3.0 GiB, 1.0 MiB of that unique; what images share counts for each of them
`},
		"wide": {listOptions{imageFlags: imageFlags{output: "wide"}, patterns: []string{"team/*:1"}}, `
IMAGE       DIGEST                                                                   PLATFORMS                                                   SIZE     UNIQUE   LAST USED             CONFIRMED             PINNED                                                STATE     REMOTE
team/app:1  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  linux/amd64,linux/arm64,linux/arm/v7,linux/386,linux/s390x  3.0 GiB  1.0 MiB  2026-11-24T12:00:00Z  2026-11-27T11:00:00Z  operator(team/**),policy(team/app),operator(team/**)  complete  r.test
1 image, 3.0 GiB, 1.0 MiB of that unique; what images share counts for each of them
`},
		"nothing": {listOptions{patterns: []string{"none"}}, `
IMAGE  DIGEST  PLATFORMS  SIZE  UNIQUE  LAST USED  PINNED  STATE
no stored image is like that; ` + "`registry-module ls`" + ` lists all
`},
		"no JSON": {listOptions{imageFlags: imageFlags{output: "json"}, patterns: []string{"none"}}, "\n[]\n"},
		"JSON": {listOptions{imageFlags: imageFlags{output: "json"}, untagged: true}, `
[
  {
    "repository": "zoo",
    "remote": "r.test",
    "digest": "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
    "mediaType": "",
    "size": 2048,
    "unique": 0,
    "complete": false,
    "missing": 0,
    "used": "2026-10-18T12:00:00Z"
  }
]
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := tt.o.list(t.Context(), &out, &out, named(t, &fakeStore{images: listed()}, nil), now); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); aligned(got) != aligned(strings.TrimPrefix(tt.want, "\n")) {
				t.Errorf("got\n%s\nwant%s", got, tt.want)
			}
		})
	}
}

// aligned is text with all columns two spaces apart.
func aligned(text string) string {
	for strings.Contains(text, "   ") {
		text = strings.ReplaceAll(text, "   ", "  ")
	}
	return text
}

func TestListChoice(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string // repositories, in order
	}{
		"all":             {nil, "team/app team/evil zoo"},
		"repository":      {[]string{"zoo"}, "zoo"},
		"pattern":         {[]string{"team/*"}, "team/app team/evil"},
		"pattern for all": {[]string{"**"}, "team/app team/evil zoo"},
		"several":         {[]string{"zoo", "team/a*"}, "team/app zoo"},
		"tag":             {[]string{"**:1"}, "team/app"},
		"digest":          {[]string{"**@sha256:ccc"}, "zoo"},
		"tags":            {[]string{"team/*:[0-9]", "zoo:*"}, "team/app"},
		"pinned":          {[]string{"--pinned"}, "team/app"},
		"partial":         {[]string{"--partial"}, "team/evil zoo"},
		"untagged":        {[]string{"--untagged"}, "zoo"},
		"long unused":     {[]string{"--unused-for", "30d"}, "zoo"},
		"unused":          {[]string{"--unused-for", "1h"}, "team/app zoo"},
		"partial below":   {[]string{"--partial", "team/**"}, "team/evil"},
		"by size":         {[]string{"--sort", "size"}, "team/app zoo team/evil"},
		"by unique":       {[]string{"--sort", "unique", "--reverse"}, "zoo team/evil team/app"},
		"by use":          {[]string{"--sort", "used"}, "team/app zoo team/evil"},
		"by confirmation": {[]string{"--sort", "confirmed"}, "team/app team/evil zoo"},
		"reverse":         {[]string{"--reverse"}, "zoo team/evil team/app"},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fakeStore{images: listed()}
			for i := range store.images { // the command knows what time it is
				if !store.images[i].Used.IsZero() {
					store.images[i].Used = store.images[i].Used.Add(time.Since(now))
				}
			}
			controlledImages(t, store, fakeBindings{})
			out, notes, err := command(t, append([]string{"ls", "-o", "json"}, tt.args...)...)
			var all []cache.Image
			if err == nil {
				err = json.Unmarshal([]byte(out), &all)
			}
			var got []string
			for _, i := range all {
				got = append(got, i.Repository)
			}
			if err != nil || strings.Join(got, " ") != tt.want || notes != "" {
				t.Errorf("%q, %v, %q, want %q", got, err, notes, tt.want)
			}
		})
	}
}

// Columns are aligned in parts, so that a long list is not held.
func TestLongTable(t *testing.T) {
	var out bytes.Buffer
	table := newImageTable(&out, false, now)
	for range alignedLines {
		if err := table.add(cache.Image{Repository: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != alignedLines+1 {
		t.Errorf("%d lines are printed", n)
	}
}

func TestWriteArrayFails(t *testing.T) {
	var out bytes.Buffer
	all := iter.Seq2[int, error](func(yield func(int, error) bool) { _ = yield(1, nil) && yield(0, errors.New("broken")) })
	if err := writeArray(&out, all); err == nil || json.Valid(out.Bytes()) {
		t.Errorf("%v, %s", err, out.String())
	}
}

func TestDetailOutput(t *testing.T) {
	d := cache.ImageDetail{
		Image: listed()[0],
		Manifests: []cache.ManifestDetail{
			{Digest: sum("a"), MediaType: "application/vnd.oci.image.index.v1+json", Stored: true, Size: 900, Used: now.Add(-time.Hour)},
			{Digest: sum("d"), MediaType: "m", Platform: "linux/amd64", Stored: true, Size: 2048, Parts: []cache.PartInfo{
				{Digest: sum("1"), MediaType: "config", Size: 10, Stored: true, Shared: 1},
				{Digest: sum("2"), MediaType: "layer", Size: 5 << 20, Shared: 3, Kept: 1 << 20},
				{Digest: sum("3"), MediaType: "\x1blayer", Size: 1, Shared: 1},
			}},
			{Digest: sum("e"), MediaType: "m", Platform: "linux/arm64", Size: 2048},
		},
		Tags: []string{"1", "latest"}, Repositories: []string{"team/app", "quay.io/app"},
		Attached: []digest.Digest{sum("f")}, Fresh: now.Add(time.Hour),
	}
	var out bytes.Buffer
	if err := printDetail(&out, d, "", now); err != nil {
		t.Fatal(err)
	}
	long := func(digit string) string { return sum(digit).String() }
	want := `Image: team/app:1
Remote: r.test
Digest: ` + long("a") + `
Media type:
State: complete
Size: 3.0 GiB, 1.0 MiB of that unique
Last used: 2026-11-24T12:00:00Z (3 days ago)
Confirmed: 2026-11-27T11:00:00Z (1 hour ago)
Fresh: until 2026-11-27T13:00:00Z (1 hour from now)
Pinned: team/** (operator, since 2026-11-27T12:00:00Z)
team/app (policy: cache.pins, REGISTRY_CACHE_PINS)
team/** (operator, since 2026-11-27T12:00:00Z)
Tags: 1
latest
Stored in: team/app
quay.io/app
Attached: ` + long("f") + `

` + long("a") + ` 900 B application/vnd.oci.image.index.v1+json last used 1 hour ago

` + long("d") + ` linux/amd64 2.0 KiB m
` + long("1") + ` 10 B stored of this alone config
` + long("2") + ` 5.0 MiB not stored, 1.0 MiB are kept of 3 manifests layer
` + long("3") + ` 1 B not stored of this alone "\x1blayer"

` + long("e") + ` linux/arm64 2.0 KiB m not stored
`
	if got := spaced(out.String()); got != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	for text, i := range map[string]cache.ImageDetail{
		"no, the remote is asked at the next pull":   {Stale: true},
		"for ever, the remote is not asked again":    {},
		"until 2026-11-27T12:01:00Z (1 minute from ": {Fresh: now.Add(time.Minute)},
	} {
		if got := freshText(i, now); !strings.HasPrefix(got, text) {
			t.Errorf("%q, want %q", got, text)
		}
	}
}

// spaced is text with one space between words, and none around lines.
func spaced(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

func TestVerifyOutput(t *testing.T) {
	damaged := cache.Problem{Digest: sum("1"), Image: "team/app:1", What: "other bytes", Hint: "pull it again"}
	mendable := cache.Problem{What: "gone", Hint: "run `registry-module verify --repair`"}
	repaired := cache.Problem{What: "a file \x1b", Repaired: true, Hint: "not shown"}
	for name, tt := range map[string]struct {
		problems []cache.Problem
		args     []string
		want     string
		partly   bool
	}{
		"all is right": {nil, nil, "3 blobs read, 5.0 MiB, in 1.5s: all is right\n", false},
		"repaired":     {[]cache.Problem{repaired}, []string{"--repair"}, "repaired \"a file \\x1b\"\n3 blobs read, 5.0 MiB, in 1.5s: 1 problem is repaired\n", false},
		"some remain": {[]cache.Problem{damaged, repaired}, []string{"--repair"},
			"damaged " + sum("1").String() + " of team/app:1: other bytes\npull it again\nrepaired \"a file \\x1b\"\n3 blobs read, 5.0 MiB, in 1.5s: 2 problems, 1 repaired\n", true},
		"what to do, once": {[]cache.Problem{mendable, mendable}, nil,
			"damaged gone\ndamaged gone\n3 blobs read, 5.0 MiB, in 1.5s: 2 problems, 0 repaired\n" +
				"`registry-module verify --repair` takes away what is damaged, and fetches it again\n", true},
		"without repair": {[]cache.Problem{damaged}, nil,
			"damaged " + sum("1").String() + " of team/app:1: other bytes\npull it again\n3 blobs read, 5.0 MiB, in 1.5s: 1 problem, 0 repaired\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked cache.VerifyOptions
			report := cache.VerifyReport{Blobs: 3, Bytes: 5 << 20, Problems: tt.problems, Took: 1500 * time.Millisecond}
			controlledImages(t, &fakeStore{verify: func(_ context.Context, o cache.VerifyOptions) (cache.VerifyReport, error) {
				asked = o
				o.Progress(cache.VerifyProgress{Blobs: 3, TotalBlobs: 3})
				return report, nil
			}}, fakeBindings{})
			out, notes, err := command(t, append([]string{"verify", "--rate", "1MiB/s"}, tt.args...)...)
			if got := spaced(out); got != tt.want || notes != "" {
				t.Errorf("got\n%s%s\nwant\n%s", out, notes, tt.want)
			}
			if _, partly := errors.AsType[partlyError](err); partly != tt.partly || partly != (err != nil) {
				t.Errorf("error %v", err)
			}
			if asked.Rate != 1<<20 || asked.Repair != slices.Contains(tt.args, "--repair") {
				t.Errorf("asked for %+v", asked)
			}
			out, notes, again := command(t, append([]string{"verify", "-o", "json"}, tt.args...)...)
			var got cache.VerifyReport
			if json.Unmarshal([]byte(out), &got) != nil || got.Took != report.Took || len(got.Problems) != len(tt.problems) || got.Problems == nil || notes != "" {
				t.Errorf("%s%s", out, notes)
			}
			if (again == nil) != (err == nil) {
				t.Errorf("error %v with JSON, and %v without", again, err)
			}
		})
	}
}

func TestVerifyProgress(t *testing.T) {
	var out bytes.Buffer
	at := now
	d := newVerifyDisplay(&out, func() time.Time { return at })
	for range 25 {
		at = at.Add(time.Second)
		d.show(cache.VerifyProgress{Blobs: 1, TotalBlobs: 20, Bytes: 1 << 20, TotalBytes: 2 << 20, Damaged: 3})
	}
	d.close()
	const line = "read 1 of 20 blobs, 1.0 MiB of 2.0 MiB, 3 damaged\n"
	if out.String() != line+line {
		t.Errorf("%q", out.String())
	}
	for _, total := range []int64{0, 100} {
		out.Reset()
		d = newVerifyDisplay(&out, time.Now)
		d.live = true
		for _, bytes := range []int64{0, 50, 120} {
			d.show(cache.VerifyProgress{Blobs: 1, TotalBlobs: 2, Bytes: bytes, TotalBytes: total})
		}
		d.close()
		if got := out.String(); !strings.Contains(got, "1/2 blobs, 0 damaged") || !strings.HasSuffix(got, "\n") {
			t.Errorf("of %d: %q", total, got)
		}
	}
}

func TestPinCommands(t *testing.T) {
	store := &fakeStore{images: listed(), pins: []cache.Pin{{Pattern: "kept/**", Reason: cache.PinnedByPolicy}}}
	controlledImages(t, store, fakeBindings{})
	for _, step := range []struct {
		args      []string
		out, says string // what is printed, and what the error says
		partly    bool
	}{
		{[]string{"pin", "--list"}, "PATTERN REASON SINCE\nkept/** policy (cache.pins, REGISTRY_CACHE_PINS) -\n", "", false},
		{[]string{"pin", "mcr.test/team/app:1"}, "pinned team/app:1, which is 1 stored image\n", "", false},
		{[]string{"pin", "ours/later:*", "mcr.test/team/app"}, "pinned ours.test:5000/later:*, which nothing stored matches yet\npinned team/app, which is 1 stored image\n", "", false},
		{[]string{"unpin", "kept/**"}, "", "REGISTRY_CACHE_PINS", false},
		{[]string{"unpin", "none"}, "", "pin --list", false},
		{[]string{"unpin", "team/app", "none"}, "unpinned team/app\n", "none is not pinned", true},
		{[]string{"unpin", "team/app:1", "ours/later:*"}, "unpinned team/app:1\nunpinned ours.test:5000/later:*\n", "", false},
		{[]string{"pin", "ours/a", "-o", "json"}, "[\n{\n\"pattern\": \"ours.test:5000/a\",\n\"matches\": 0\n}\n]\n", "", false},
		{[]string{"unpin", "none", "-o", "json"}, "[]\n", "none is not pinned", false},
	} {
		out, _, err := command(t, step.args...)
		if got := spaced(out); got != step.out {
			t.Errorf("%q printed\n%s\nwant\n%s", step.args, out, step.out)
		}
		if (err != nil) != (step.says != "") || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%q: %v, want %q", step.args, err, step.says)
		}
		if _, partly := errors.AsType[partlyError](err); partly != step.partly {
			t.Errorf("%q: %v is partly: %v", step.args, err, partly)
		}
	}
	if len(store.pins) != 2 {
		t.Errorf("left: %v", store.pins)
	}
}

func TestRemoveCommand(t *testing.T) {
	store := &fakeStore{images: listed(), pins: []cache.Pin{{Pattern: "team/app:1", Reason: cache.PinnedByOperator}}}
	store.images[0].Pins = slices.Clone(store.pins)
	controlledImages(t, store, fakeBindings{})
	out, _, err := command(t, "rm", "zoo@sha256:cccccccc", "team/app:1")
	const removed = ": 1 tag, 1 manifest and 2 blobs, 3.0 MiB given back\n  its content is also team/app:other, and kept\n"
	if want := "removed zoo@" + sum("c").String() + removed; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	if _, partly := errors.AsType[partlyError](err); !partly || !strings.Contains(err.Error(), "team/app:1 is pinned") {
		t.Error(err)
	}
	out, _, err = command(t, "rm", "--force", "team/app:1")
	if want := "unpinned team/app:1\nremoved team/app:1" + removed; err != nil || out != want {
		t.Errorf("%q, %v", out, err)
	}
	out, _, err = command(t, "rm", "none:1", "-o", "json")
	if _, partly := errors.AsType[partlyError](err); err == nil || partly || strings.TrimSpace(out) != "[]" {
		t.Errorf("%q, %v", out, err)
	}
	out, _, err = command(t, "rm", "--all", "zoo", "-o", "json")
	var all []removal
	if err != nil || json.Unmarshal([]byte(out), &all) != nil || len(all) != 1 || all[0].Image != "zoo" || all[0].Bytes != 3<<20 {
		t.Errorf("%s, %v", out, err)
	}
}

// An empty store says so, and what to do is told once.
func TestListOfNothing(t *testing.T) {
	controlledImages(t, &fakeStore{}, fakeBindings{})
	for _, tt := range []struct{ args, want string }{
		{"ls", "nothing is stored yet"},
		{"ls --pinned", "no stored image is like that"},
	} {
		_, notes, err := command(t, strings.Fields(tt.args)...)
		if err != nil || !strings.Contains(notes, tt.want) {
			t.Errorf("%s: %q, %v", tt.args, notes, err)
		}
	}
}

func TestImageUsage(t *testing.T) {
	controlledImages(t, &fakeStore{images: listed()}, fakeBindings{})
	for _, args := range [][]string{
		{"ls", "-o", "xml"}, {"ls", "--sort", "color"}, {"ls", "--unused-for", "soon"}, {"ls", "{a"}, {"ls", ""},
		{"inspect"}, {"inspect", "a", "b"}, {"inspect", "a", "-o", "table"}, {"inspect", "A"}, {"inspect", "a@sha256:1"},
		{"pin"}, {"pin", "--list", "a"}, {"pin", "{a"}, {"pin", "a", "-o", "xml"}, {"unpin"}, {"unpin", "A"}, {"unpin", "a", "-o", "xml"},
		{"rm"}, {"rm", "a"}, {"rm", "a:1", "b"}, {"rm", "--all", "a:1"}, {"rm", "A:1"}, {"rm", "a:1", "-o", "xml"},
		{"gc", "a"}, {"gc", "--free", "0"}, {"gc", "--free", "much"}, {"gc", "--free", ""}, {"gc", "-o", "xml"},
		{"verify", "a"}, {"verify", "--rate", "20"}, {"verify", "-o", "xml"},
	} {
		_, _, err := command(t, args...)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, name := range []string{"ls", "inspect", "pin", "unpin", "rm", "gc", "verify"} {
		out, _, err := command(t, name, "--help")
		if err != nil || !strings.Contains(out, fmt.Sprintf("registry-module %s", name)) || !strings.Contains(out, "Examples:") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
