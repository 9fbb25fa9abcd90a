package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"registry-module/e2e/lab"
)

// TestReload has the configuration of a module replaced 1,000 times, by good ones, which
// change nearly all there is, and by bad ones, while 16 clients pull what is stored and what
// is not: no pull fails, each byte is fetched once, and nothing is left behind.
func TestReload(t *testing.T) {
	t.Parallel()
	const clients = 16
	reloads := sized(150, 1000)
	warm, cold := noise(t, "reload/warm", 2*mib), []lab.Image{}
	for i := range 4 * clients {
		cold = append(cold, noise(t, fmt.Sprintf("reload/cold%d", i), mib/2, mib))
	}
	up := origin(t, lab.OriginOptions{}, append(cold, warm)...)
	other := origin(t, lab.OriginOptions{}, noise(t, "other/image", mib))

	dir := tempDir(t)
	config, password := filepath.Join(dir, "config.yml"), filepath.Join(dir, "password")
	put := func(path, text string) {
		// As editors and Kubernetes do it.
		next := path + ".next"
		write(t, next, text)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	put(password, "one\n")
	configuration := func(i int) (text string, good bool) {
		tagTTL, bad := "1h", ""
		switch i % 10 {
		case 3:
			return "version: 0.1\nproxy: [", false
		case 5:
			bad = "cache: {maxsize: much, minfree: some}\n"
		case 7:
			bad = "access: {policy: /nowhere}\n"
		case 9:
			tagTTL = "sometimes"
		}
		text = "version: 0.1\nstorage: {filesystem: {}}\n" + bad
		if bad == "" {
			text += fmt.Sprintf("cache: {maxsize: %dGiB, minfree: 0%%, pins: ['reload/warm:%d', 'reload/*'], prefetch: %v, scrubinterval: %dh}\n", 2+i%3, i, i%2 == 0, 1+i%5)
		}
		text += fmt.Sprintf("http: {headers: {X-Version: ['%d']}}\nlog: {level: %s}\n", i, []string{"warn", "error", "info"}[i%3])
		text += fmt.Sprintf("proxy:\n  remoteurl: %s\n  alias: up%d\n  username: user\n  password: secret%d\n  tagttl: %s\n  connections: %d\n  bandwidth: %dMiB/s\n",
			up.URL(), i%4, i%6, tagTTL, 1+i%4, 500+i%3)
		if i%4 < 2 {
			text += fmt.Sprintf("  remotes:\n  - remoteurl: %s\n    alias: other%d\n    default: %v\n", other.URL(), i%3, i%8 == 0)
		}
		return text, bad == "" && tagTTL == "1h"
	}
	first, _ := configuration(0)
	put(config, first)
	m := module(t, lab.Env{"REGISTRY_CONFIGURATION_PATH": config, "REGISTRY_PROXY_REMOTEURL_5": "http://127.0.0.1:1", "REGISTRY_PROXY_PASSWORD_5_FILE": password, "REGISTRY_PROXY_USERNAME_5": "user"})
	if err := pull(t.Context(), m, warm); err != nil {
		t.Fatal(err)
	}
	idle := resourcesOf(t, m)
	up.Reset()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var pulls, failures atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				img := warm
				if n%8 == 4 { // some of them together with another client
					img = cold[(n/8*clients/2+i)%len(cold)]
				}
				err := pull(t.Context(), m, img)
				pulls.Add(1)
				if err != nil && failures.Add(1) < 10 {
					t.Errorf("pull %d of client %d: %v", n, i, err)
				}
			}
		})
	}
	for i := range reloads {
		text, _ := configuration(i + 1)
		put(config, text)
		if i%25 == 0 {
			put(password, fmt.Sprintf("%d\n", i))
		}
		if err := m.Reload(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is read", func() bool {
			done, err := m.MetricSum(t.Context(), "registry_module_config_reloads_total")
			return err == nil && done > float64(i)
		})
	}
	stop()
	wg.Wait()
	for _, img := range cold {
		if err := pull(t.Context(), m, img); err != nil {
			t.Error(err)
		}
	}

	text := must(m.Metrics(t.Context()))(t)
	t.Logf("%d reloads while there were %d pulls, of which %d failed", reloads, pulls.Load(), failures.Load())
	for result, of := range map[string]bool{"ok": true, "failed": false} {
		if n := strings.Count(text, `registry_module_config_reloads_total{result="`+result+`"} 0`); n > 0 {
			t.Errorf("none of them is %v", of)
		}
	}
	var needed int64
	for _, img := range cold {
		needed += img.Size()
	}
	amplification(t, up, needed, 1)
	last, good := configuration(reloads)
	if !good {
		t.Fatalf("the last one is to be a good one:\n%s", last)
	}
	if got := get(t, m.URL()+"/v2/").Header.Get("X-Version"); got != fmt.Sprint(reloads) {
		t.Errorf("in force is %q, want %d", got, reloads)
	}
	var now resources
	eventually(t, "what earlier configurations have used is given back", func() bool {
		now = resourcesOf(t, m)
		now.files = nil
		return now.atMost(idle)
	})
	t.Logf("idle before: %v\nidle after: %v", idle, now)
}
