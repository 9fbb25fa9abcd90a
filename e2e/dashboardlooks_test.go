package e2e

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/e2e/browser"
	"registry-module/server/admin"
)

// updateScreenshots has the pictures in docs/screenshots be made anew.
var updateScreenshots = flag.Bool("update-screenshots", false, "make the screenshots of the dashboard in docs/screenshots anew")

// busy is a module that has much to tell; text is in all that others have written.
func busy(text string) still {
	now := time.Date(2026, 3, 2, 14, 25, 0, 0, time.UTC)
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	sum := func(s string) string { return string(digest.FromString(s + text)) }
	s := still{state: admin.State{
		Version: "1.4.0", Host: "gateway-07" + text, Started: before(19 * 24 * time.Hour), Now: now, Ready: true,
		Offline: admin.Offline{Mode: "auto"},
		Remotes: []admin.Remote{
			{Host: "registry-1.docker.io", State: "online", Good: true, Since: before(3 * time.Hour), Fetched: 41 << 30, Served: 906 << 30, Requests: 12410},
			{Host: "mcr.microsoft.com", State: "online", Good: true, Since: before(19 * 24 * time.Hour), Fetched: 17 << 30, Served: 388 << 30, Requests: 5230},
			{Host: "ghcr.io", State: "offline", Since: before(4 * time.Minute), Reason: "no connection: i/o timeout after 5 s" + text, NextTry: now.Add(40 * time.Second), Fetched: 5 << 30, Served: 61 << 30, Requests: 911},
			{Host: "registry.plant.example", State: "unknown", Good: true},
		},
		Downloads: []admin.Download{
			{Image: "library/postgres" + text, Digest: sum("p"), Remote: "registry-1.docker.io", Size: 164 << 20, Have: 98 << 20, Rate: 2300 << 10, Begun: before(43 * time.Second), LastByte: now, Clients: 3},
			{Image: "azureiotedge-agent", Digest: sum("a"), Remote: "mcr.microsoft.com", Size: 58 << 20, Have: 11 << 20, Rate: 900 << 10, Begun: before(12 * time.Second), LastByte: now, Ahead: true},
			{Image: "team/vision", Digest: sum("v"), Remote: "ghcr.io", Size: 812 << 20, Have: 301 << 20, Begun: before(9 * time.Minute), LastByte: before(4 * time.Minute), Clients: 1, Failure: "i/o timeout, goes on when ghcr.io answers" + text},
		},
		AllDownloads: 3,
		Disk:         admin.Disk{Used: 14<<30 + 300<<20, Limit: 20 << 30, Free: 31 << 30, MinFree: 3 << 30, Total: 58 << 30, Kept: 301 << 20, Known: true, Evicted: 212 << 30},
		Traffic:      admin.Traffic{Hits: 81240, Misses: 1460, Stale: 212, Failed: 9, Served: 1355 << 30, Fetched: 63 << 30},
		Problems: []admin.Problem{
			{At: before(40 * time.Second), First: before(4 * time.Minute), Times: 6, Text: "ghcr.io cannot be reached: i/o timeout after 5 s" + text, Hint: "Run registry-module doctor ghcr.io: it goes the way to the registry step by step." + text},
			{At: before(5 * time.Hour), First: before(5 * time.Hour), Times: 1, Text: "registry-1.docker.io: 429, too many requests, asks us to wait for 15 min", Hint: "Set REGISTRY_PROXY_USERNAME and REGISTRY_PROXY_PASSWORD: the limit is higher for who has logged in."},
		},
		Config: admin.Config{Source: "/etc/registry/config.yml" + text, Loaded: before(26 * time.Hour), Restart: []string{"http.addr" + text}},
		Seed:   &admin.Seed{File: "/etc/registry/seed.yml" + text, Last: before(11 * time.Hour), Next: now.Add(13 * time.Hour), Images: 24},
		Images: 10_000, Generation: 4, Actions: true,
	}}
	for i := range 48 {
		work := int64(24 - max(i-24, 24-i)) // most of it in the middle
		s.state.History = append(s.state.History, admin.Sample{
			At: now.Truncate(time.Hour).Add(time.Duration(i-47) * time.Hour), Seconds: 3600,
			Traffic: admin.Traffic{Hits: 40 + work*9, Misses: int64(i*5%11) + 1, Served: (work*11 + int64(i*7%23)) << 26, Fetched: int64(i*5%11) << 26},
		})
	}
	names := []string{"library/postgres:16", "library/nginx:1.27", "azureiotedge-hub:1.5", "azureiotedge-agent:1.5", "team/vision:2026.02", "team/collector:4.2", "library/redis:7", "library/alpine:3.20", "grafana/grafana:11.5", "prom/prometheus:v3.1"}
	for i := range 50 {
		repo, tag, _ := strings.Cut(names[i%len(names)], ":")
		if i >= len(names) {
			tag += fmt.Sprintf("-%d", i/len(names))
		}
		stored := admin.Image{Asked: repo + ":" + tag + text, Image: cache.Image{
			Repository: repo, Remote: "registry-1.docker.io", Tag: tag + text, Digest: digest.FromString(repo + tag), Platforms: []string{"linux/amd64", "linux/arm64"},
			Size: int64(37+i*61%400) << 20, Unique: int64(12+i*17%36) << 20, Complete: true, Used: before(time.Duration(i*i*7) * time.Minute),
		}}
		if i%4 == 0 {
			stored.Pinned, stored.Pins = true, []cache.Pin{{Pattern: repo, Reason: []cache.PinReason{cache.PinnedByOperator, cache.PinnedBySeed}[i/4%2]}}
		}
		if i == 4 {
			stored.Complete, stored.Missing = false, 2
		}
		s.page.Images = append(s.page.Images, stored)
	}
	s.page.All, s.page.Total, s.page.Generation = 10_000, 10_000, 4
	return s
}

// contrasts are the texts of the page whose contrast is below 4.5:1, as they are shown.
const contrasts = `(() => {
	const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m.length > 3 ? m[3] : 1 }; };
	const light = rgb => { const [r, g, b] = rgb.map(c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = el => {
		const layers = [];
		for (; el; el = el.parentElement) { const c = parse(getComputedStyle(el).backgroundColor); layers.unshift(c); if (c.a === 1) break; }
		return layers.reduce((under, c) => under.map((u, i) => u + (c.rgb[i] - u) * c.a), [255, 255, 255]);
	};
	const bad = [];
	let seen = 0;
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walk.nextNode());) {
		const el = n.parentElement;
		if (!n.data.trim() || !el.checkVisibility()) continue;
		seen++;
		const a = light(parse(getComputedStyle(el).color).rgb), b = light(behind(el));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) bad.push(n.data.trim().slice(0, 40) + ' ' + ratio.toFixed(2));
	}
	return seen < 100 ? ['only ' + seen + ' texts'] : bad;
})()`

// wide are the elements that stick out of the viewport.
const wide = `(() => {
	const out = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1 && !e.matches('.skip') && !e.closest('table:not(.plain) thead'))
		.map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40) + ' ' + Math.round(e.getBoundingClientRect().right));
	if (document.documentElement.scrollWidth > innerWidth) out.push('the page is ' + document.documentElement.scrollWidth + ' wide, the window ' + innerWidth);
	return out;
})()`

func dark(page *browser.Tab) error  { return page.Dark(true) }
func light(page *browser.Tab) error { return page.Dark(false) }
func phone(page *browser.Tab) error { return page.Size(390, 844, true) }

func dashboardContrast(t *testing.T, b *browser.Browser) {
	s := busy("")
	s.state.Ready, s.state.NotReady, s.state.Warnings = false, []string{"it stops"}, []string{"a warning"}
	s.state.Offline.On, s.state.Disk.Short = true, "the limit"
	url := s.serve(t)
	backgrounds := map[string]string{}
	for name, theme := range map[string]func(*browser.Tab) error{"light": light, "dark": dark} {
		page := scripted(t, b, url, theme)
		js[any](t, page, `document.querySelector('details').open = true; document.getElementById('say').textContent = 'said'`)
		for _, bad := range js[[]string](t, page, contrasts) {
			t.Errorf("%s: %s", name, bad)
		}
		backgrounds[name] = js[string](t, page, `getComputedStyle(document.body).backgroundColor`)
	}
	if backgrounds["light"] == backgrounds["dark"] {
		t.Error("the themes do not differ")
	}
}

// canonical is what a page shows, in a form that can be compared: what the script writes
// down in another order is the same.
const canonical = `(doc => {
	const write = n => {
		if (n.nodeType === Node.TEXT_NODE) return n.data.trim() ? JSON.stringify(n.data) + '\n' : '';
		if (n.nodeType !== Node.ELEMENT_NODE || n.id === 'live') return '';
		const attributes = [...n.attributes].filter(a => a.name !== 'aria-busy').map(a => ' ' + a.name + '=' + (a.name === 'href' ? decodeURIComponent(a.value.replaceAll('+', ' ')) : a.value)).sort().join('');
		return '<' + n.localName + attributes + '>\n' + [...n.childNodes].map(write).join('') + '</' + n.localName + '>\n';
	};
	return doc.title + '\n' + write(doc.querySelector('header')) + write(doc.querySelector('main'));
})`

// dashboardIsTheSame compares what the script makes of an empty page with what the server
// does: it is worked out twice.
func dashboardIsTheSame(t *testing.T, b *browser.Browser) {
	for name, s := range map[string]still{"busy": busy(""), "hostile": busy(hostileText), "just started": {state: admin.State{Now: time.Unix(1e9, 0), Actions: true, Remotes: []admin.Remote{{Host: "a"}}}}} {
		url := s.serve(t)
		page := tab(t, b, url)
		ok(t, page.Open(url+"/empty/"))
		ok(t, page.Until(`document.getElementById('live').textContent === 'Live'`))
		if len(s.page.Images) > 0 {
			// As if what is shown was old.
			js[any](t, page, `document.getElementById('search').requestSubmit()`)
			ok(t, page.Until(`document.querySelector('#list tbody').children.length > 0`))
		}
		script := strings.Split(js[string](t, page, canonical+`(document)`), "\n")
		without := strings.Split(js[string](t, page, `fetch('../').then(r => r.text()).then(text => `+canonical+`(new DOMParser().parseFromString(text, 'text/html')))`), "\n")
		differences := 0
		for i := range min(len(script), len(without)) {
			if script[i] != without[i] {
				t.Errorf("%s, line %d: the script shows\n%.300s\nthe server\n%.300s", name, i, script[i], without[i])
				if differences++; differences == 5 {
					break
				}
			}
		}
		if len(script) != len(without) {
			t.Errorf("%s: the script shows %d lines, the server %d", name, len(script), len(without))
		}
	}
}

// hostileText tries to be something else than text.
var hostileText = `"><script>window.hit=1</script><img src=x onerror="window.hit=1"><style>*{display:none}</style>' onmouseover='window.hit=1' {{.}} ` +
	"\u202egnp.exe\u2066\u200f\x1b[31m" + strings.Repeat("W", 255) + "`</template></textarea>]]>&lt;b&gt;"

func dashboardOfHostileNames(t *testing.T, b *browser.Browser) {
	url := busy(hostileText).serve(t)
	normal := scripted(t, b, busy("").serve(t))
	count := `Object.entries(Object.groupBy(document.querySelectorAll('body *'), e => e.localName)).map(([name, all]) => name + ' ' + all.length).sort().join()`
	want := js[string](t, normal, count)
	for name, prepare := range map[string]func(*browser.Tab) error{"desktop": light, "phone": phone} {
		page := scripted(t, b, url, prepare)
		if got := js[string](t, page, count); got != want {
			t.Errorf("%s: the page consists of %s, want %s", name, got, want)
		}
		js[any](t, page, `document.querySelector('details').open = true`)
		for _, bad := range js[[]string](t, page, wide) {
			t.Errorf("%s: %s", name, bad)
		}
		if js[bool](t, page, `'hit' in window || /[\u202e\u2066\u200f\x1b]/.test(document.body.textContent)`) {
			t.Errorf("%s: hostile text is more than text", name)
		}
		ok(t, page.Click(`#list tbody [data-remove]`))
		if got := js[string](t, page, `document.getElementById('confirm-name').textContent`); !strings.Contains(got, "<script>window.hit=1</script>") {
			t.Errorf("%s: the question names %q", name, got)
		}
		for _, bad := range js[[]string](t, page, wide) {
			t.Errorf("%s, asked: %s", name, bad)
		}
	}
}

// smaller is a picture in its 256 most frequent colours, which are all but the edges of
// letters.
func smaller(picture []byte) ([]byte, error) {
	from, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	times := map[color.Color]int{}
	for y := range from.Bounds().Dy() {
		for x := range from.Bounds().Dx() {
			times[from.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(times), func(a, b color.Color) int {
		return cmp.Or(times[b]-times[a], strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	to := image.NewPaletted(from.Bounds(), colors[:min(len(colors), 256)])
	draw.Draw(to, to.Bounds(), from, image.Point{}, draw.Src)
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&b, to)
	return b.Bytes(), err
}

// dashboardScreenshots makes the pictures that docs/dashboard.md shows, or looks whether
// they are there.
func dashboardScreenshots(t *testing.T, b *browser.Browser) {
	url := busy("").serve(t)
	for name, p := range map[string]struct {
		width, height int
		prepare       func(*browser.Tab) error
	}{
		"light": {1280, 1900, func(page *browser.Tab) error { return page.Size(1280, 1900, false) }},
		"dark": {1280, 1900, func(page *browser.Tab) error {
			if err := page.Dark(true); err != nil {
				return err
			}
			return page.Size(1280, 1900, false)
		}},
		"phone": {390, 844, phone},
	} {
		page := scripted(t, b, url, p.prepare)
		for _, bad := range js[[]string](t, page, wide) {
			t.Errorf("%s: %s", name, bad)
		}
		file := filepath.Join("..", "docs", "screenshots", "dashboard-"+name+".png")
		if *updateScreenshots {
			picture := must(smaller(must(page.Screenshot())(t)))(t)
			ok(t, os.MkdirAll(filepath.Dir(file), 0o755))
			ok(t, os.WriteFile(file, picture, 0o644))
		}
		picture := must(os.ReadFile(file))(t)
		is, err := png.DecodeConfig(bytes.NewReader(picture))
		if err != nil || is.Width != p.width || is.Height != p.height || len(picture) >= 200<<10 {
			t.Errorf("%s is not a picture of %d x %d below 200 KiB (run the test with -update-screenshots): %d x %d, %d bytes, %v",
				file, p.width, p.height, is.Width, is.Height, len(picture), err)
		}
	}
}
