package dashboard

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/server/admin"
)

// noon is when all states here are.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// fake is a source that always tells the same.
type fake struct {
	state admin.State
	page  admin.ImagePage
	said  admin.Said
	err   error
	asked admin.ImageQuery
}

func (f *fake) State(context.Context) admin.State { return f.state }

func (f *fake) Images(_ context.Context, q admin.ImageQuery) (admin.ImagePage, error) {
	f.asked = q
	return f.page, f.err
}

func (f *fake) Said(id string) (admin.Said, bool) { return f.said, id == "7" }

// full is a module of which everything can be told; text is in all that others have written.
func full(text string) *fake {
	dgst := digest.FromString(text)
	before := func(d time.Duration) time.Time { return noon.Add(-d) }
	f := &fake{}
	f.state = admin.State{
		Version: "1.2.3", Host: "gateway-7" + text, Started: before(50 * time.Hour), Now: noon,
		Ready: false, NotReady: []string{"storage is not writable" + text}, Warnings: []string{"careful" + text},
		Offline: admin.Offline{On: true, Mode: "auto", Reason: "a schedule" + text, Until: noon.Add(90 * time.Minute)},
		Remotes: []admin.Remote{
			{Host: "registry-1.docker.io", State: "online", Good: true, Since: before(time.Hour), Fetched: 5 << 30, Served: 90 << 30, Requests: 12345},
			{Host: "ghcr.io" + text, State: "offline", Since: before(time.Minute), Reason: "no such host" + text, NextTry: noon.Add(20 * time.Second)},
			{Host: "quay.io", State: "limited", Since: before(time.Minute), Reason: "429", NextTry: noon.Add(20 * time.Minute)},
			{Host: "new.example.com", State: "unknown", Good: true},
			{Host: "odd.example.com", State: "odd" + text},
		},
		Downloads: []admin.Download{
			{Image: "library/alpine" + text, Digest: string(dgst), Remote: "registry-1.docker.io", Size: 100 << 20, Have: 45 << 20, Rate: 5 << 20, Begun: before(9 * time.Second), LastByte: before(0), Clients: 3},
			{Image: "a", Digest: "odd" + text, Remote: "x", Size: -1, Have: 1000, Begun: before(time.Minute), LastByte: before(40 * time.Second), Ahead: true},
			{Image: "b", Digest: string(digest.FromString("b")), Remote: "x", Size: 10, Have: 5, Failure: "connection reset" + text, Clients: 1},
			{Image: "c", Digest: string(digest.FromString("c")), Remote: "x", Size: 10, Waiting: true},
		},
		AllDownloads: 120,
		Disk:         admin.Disk{Used: 12 << 30, Limit: 20 << 30, Free: 3 << 30, MinFree: 2 << 30, Total: 64 << 30, Kept: 77 << 20, Known: true, Short: "limit" + text, Evicted: 9 << 30},
		Traffic:      admin.Traffic{Hits: 9000, Misses: 300, Stale: 20, Failed: 3, Served: 95 << 30, Fetched: 6 << 30},
		Problems: []admin.Problem{
			{At: before(time.Minute), First: before(time.Hour), Times: 7, Text: "ghcr.io does not answer" + text, Hint: "look at the firewall" + text},
			{At: before(2 * time.Hour), First: before(2 * time.Hour), Times: 1, Text: "once"},
		},
		Config: admin.Config{Source: "/etc/config.yml" + text, Loaded: before(50 * time.Hour), Error: "line 3" + text, Restart: []string{"http.addr" + text}},
		Seed:   &admin.Seed{File: "/etc/seed.yml" + text, Last: before(10 * time.Hour), Next: noon.Add(14 * time.Hour), Images: 12, Failed: 2, Error: "no space" + text},
		Images: 10000, Generation: 4, Actions: true,
	}
	for i := range 120 {
		f.state.History = append(f.state.History, admin.Sample{
			At: before(time.Duration(120-i) * 15 * time.Minute), Seconds: 900,
			Traffic: admin.Traffic{Hits: int64(i), Misses: int64(i % 7), Served: int64(i) << 25, Fetched: int64(i%7) << 25},
		})
	}
	for i := range 50 {
		name := fmt.Sprintf("docker.io/library/app-%d:1.%d", i, i) + text
		f.page.Images = append(f.page.Images, admin.Image{Asked: name, Pinned: i%5 == 0, Image: cache.Image{
			Repository: name, Remote: "registry-1.docker.io", Tag: "1", Digest: digest.FromString(name),
			Platforms: []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/s390x" + text}, Size: int64(i) << 22,
			Unique: int64(i) << 20, Complete: i%3 == 0, Missing: i % 4, Used: before(time.Duration(i) * time.Hour),
		}})
		if i%5 == 0 {
			f.page.Images[i].Pins = []cache.Pin{{Pattern: name, Reason: cache.PinnedByOperator}, {Pattern: "**", Reason: cache.PinnedByPolicy}}
		}
	}
	f.page.All, f.page.Total, f.page.Generation, f.page.Truncated = 10000, 10000, 4, true
	return f
}

// empty is a module that has just been started, with nothing.
func empty() *fake {
	return &fake{state: admin.State{Ready: true, Now: noon, Started: noon, Offline: admin.Offline{Mode: "off"}, Images: -1}}
}

// hostile is text that tries to be something else.
var hostile = `"><script>alert(1)</script><img src=x onerror=alert(2) style="x">' onclick='x' {{.}} ${x} javascript:x ` +
	"\u202egnp.exe\u2066\u200f\x00\x1b[31m\xff" + strings.Repeat("W", 255) + "`</template></textarea>\r\n\r\n]]>&lt;b&gt;"
