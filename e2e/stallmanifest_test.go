package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestManifestStallsAgainAndAgain has a registry that says at once which manifest is
// new, and then stops in the middle of it. Who has the old one stored waits for that
// once, and not again each time that the registry is tried.
func TestManifestStallsAgainAndAgain(t *testing.T) {
	t.Parallel()
	const slow = time.Second // a busy machine takes its time, and who waits in vain 1.5 s
	img := noise(t, "stalls", 5000).In("team/app", "1.0")
	p := newPlace(t, lab.Env{"REGISTRY_PROXY_TAGTTL": "0", "REGISTRY_PROXY_STALLTIMEOUT": "3s"}, img)
	wholeImage(t, p.m, way{}, img)
	half(t, p)
	if a, took := timed(t, p.client, manifestURL(p.m, img.Repo, img.Tag)); a.Status != http.StatusOK {
		t.Fatalf("status %d after %v", a.Status, took)
	}
	var waits []time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(sized(14*time.Second, time.Minute)); time.Now().Before(end); <-tick.C {
		a, took := timed(t, p.client, manifestURL(p.m, img.Repo, img.Tag))
		if a.Status != http.StatusOK || string(a.Body) != string(img.Root().Bytes) {
			t.Fatalf("status %d, want 200 and what is stored", a.Status)
		}
		if took > slow {
			waits = append(waits, took.Round(time.Millisecond))
		}
	}
	changes := must(p.m.MetricSum(t.Context(), "registry_module_remote_state_changes_total"))(t)
	t.Logf("%d answers took longer than %v: %v; the state has changed %v times", len(waits), slow, waits, changes)
	if len(waits) > 0 {
		t.Errorf("%d answers took longer than %v, up to %v, want none after the first", len(waits), slow, slices.Max(waits))
	}
}
