package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/cache"
)

func TestCollectionOutput(t *testing.T) {
	victims := []cache.Victim{
		{Images: []string{"team/app:1", "team/app:2", "team/app:3", "team/app:4"}, Why: "room", Blobs: 5, Bytes: 1 << 30, Used: now.Add(-48 * time.Hour)},
		{Images: []string{"a:\x1b"}, Why: "expired", Blobs: 1},
		{Digest: sum("1"), Why: "unused", Blobs: 1, Bytes: 1 << 20},
	}
	for name, tt := range map[string]struct {
		c    cache.Collection
		o    cache.CollectOptions
		want string
	}{
		"done": {cache.Collection{Victims: victims, Freed: 1<<30 + 1<<20, Used: 3 << 30, Limit: 4 << 30, Kept: 5 << 20, Busy: 6 << 20}, cache.CollectOptions{}, `
IMAGE WHY BLOBS FREES LAST USED
team/app:1,team/app:2,team/app:3,+1 room 5 1.0 GiB 2 days ago
"a:\x1b" expired 1 0 B unknown
sha256:111111111111 unused 1 1.0 MiB unknown
1.0 GiB freed; 3.0 GiB used of the limit of 4.0 GiB; 5.0 MiB pinned, 6.0 MiB of running pulls
`},
		"plan, too little": {cache.Collection{Victims: victims[2:], Freed: 1 << 20, Used: 1 << 30}, cache.CollectOptions{DryRun: true, Free: 2 << 20}, `
IMAGE WHY BLOBS FREES LAST USED
sha256:111111111111 unused 1 1.0 MiB unknown
1.0 MiB would be freed; 1.0 GiB used then, without a limit; 0 B pinned, 0 B of running pulls
2.0 MiB cannot be freed: the rest is pinned, of running pulls or unfinished downloads, or the index; ` + "`registry-module pin --list`" + ` shows what is pinned
`},
		"nothing": {cache.Collection{Used: 1 << 30, Limit: 2 << 30}, cache.CollectOptions{DryRun: true}, `
nothing to remove; 1.0 GiB used of the limit of 2.0 GiB; 0 B pinned, 0 B of running pulls
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := printCollection(&out, tt.c, tt.o, now); err != nil {
				t.Fatal(err)
			}
			if got := spaced(out.String()); got != strings.TrimPrefix(tt.want, "\n") {
				t.Errorf("got\n%s\nwant%s", out.String(), tt.want)
			}
		})
	}
}

func TestCollectCommand(t *testing.T) {
	store := &fakeStore{collection: cache.Collection{Used: 5}}
	controlledImages(t, store, fakeBindings{})
	out, _, err := command(t, "gc", "--dry-run", "--free", "2GiB", "-o", "json")
	var c cache.Collection
	if err != nil || json.Unmarshal([]byte(out), &c) != nil || c.Used != 5 || c.Victims == nil {
		t.Errorf("%s, %v", out, err)
	}
	if out, _, err = command(t, "gc"); err != nil || !strings.Contains(out, "nothing to remove; 5 B used") {
		t.Errorf("%s, %v", out, err)
	}
	want := []cache.CollectOptions{{Free: 2 << 30, DryRun: true}, {}}
	if !slices.Equal(store.collected, want) {
		t.Errorf("collected with %+v", store.collected)
	}
}

// Who asks for room is told by the exit status whether there is that much.
func TestCollectTooLittle(t *testing.T) {
	victims := []cache.Victim{{Digest: sum("1"), Why: "room", Blobs: 1, Bytes: 2 << 20}}
	for name, tt := range map[string]struct {
		c      cache.Collection
		args   []string
		says   string
		partly bool
	}{
		"enough":                 {cache.Collection{Victims: victims, Freed: 2 << 20}, []string{"--free", "2MiB"}, "", false},
		"as much as is too much": {cache.Collection{Victims: victims, Freed: 2 << 20}, nil, "", false},
		"less":                   {cache.Collection{Victims: victims, Freed: 2 << 20}, []string{"--free", "3MiB"}, "3.0 MiB could not be freed, only 2.0 MiB", true},
		"nothing":                {cache.Collection{}, []string{"--free", "3MiB"}, "3.0 MiB could not be freed, only 0 B", false},
		"a plan":                 {cache.Collection{Victims: victims, Freed: 2 << 20}, []string{"--free", "3MiB", "--dry-run"}, "", false},
		"removal fails":          {cache.Collection{Victims: victims}, nil, "only 0 B of 2.0 MiB could be freed", false},
		"JSON":                   {cache.Collection{}, []string{"--free", "3MiB", "-o", "json"}, "3.0 MiB could not be freed", false},
	} {
		t.Run(name, func(t *testing.T) {
			controlledImages(t, &fakeStore{collection: tt.c}, fakeBindings{})
			_, _, err := command(t, append([]string{"gc"}, tt.args...)...)
			if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
			if _, partly := errors.AsType[partlyError](err); partly != tt.partly {
				t.Errorf("%v is partly: %v", err, partly)
			}
		})
	}
}
