package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// connectLimit is what a connect to a remote may take, and some more on a machine that
// does a lot.
const connectLimit = 5*time.Second + time.Second

// TestBlackHole has a registry that does not answer to connects any more, and 100
// clients that ask for what is not stored. Nobody waits longer than a connect may take,
// and no more than one at a time connects, once it was found out that the registry is
// away.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for name, distinct := range map[string]bool{"one name": false, "100 names": true} {
		tests[name] = func(t *testing.T) { blackHole(t, name, distinct) }
	}
	together(t, tests)
}

func blackHole(t *testing.T, name string, distinct bool) {
	img := noise(t, "black hole "+name, 5000).In("team/app", "1.0")
	p := newPlace(t, nil, img)
	// It has answered, so that nothing says that it does not any more.
	wholeImage(t, p.m, way{}, img)
	before := goroutines(t, p)
	url := func(i int) string {
		if !distinct {
			i = 0
		}
		return manifestURL(p.m, fmt.Sprintf("team/unknown-%d", i), "1.0")
	}

	p.drop(t, true)
	first := p.crowd(t, name+", it has answered before", url)
	if !distinct && first != 1 {
		t.Errorf("%d connects at once for one name, want 1", first)
	}
	most := p.crowd(t, name+", right after the first failure", url)
	for i := range sized(1, 4) {
		// In time for who finds out whether it is back.
		<-time.After(2500 * time.Millisecond)
		most = max(most, p.crowd(t, fmt.Sprintf("%s, wave %d after it", name, i+1), url))
	}
	if most != 1 {
		t.Errorf("at most %d connects at once after the first failure, want 1", most)
	}

	p.client.CloseIdleConnections()
	within(t, 20*time.Second, "goroutines are as before", func() bool { return goroutines(t, p) <= before+5 })
	t.Logf("%s: goroutines: %v before, %v after", name, before, goroutines(t, p))
}

// goroutines are those of the module.
func goroutines(t *testing.T, p *place) float64 {
	t.Helper()
	return must(p.m.Metric(t.Context(), "go_goroutines"))(t)
}

// crowd has 100 clients ask at once for what is not stored, and returns how many
// connects to the registry there were at once, at the most.
func (p *place) crowd(t *testing.T, what string, url func(int) string) (most int) {
	t.Helper()
	const clients = 100
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan int)
	go func() {
		most := 0
		every(ctx, 10*time.Millisecond, func() bool {
			n, err := p.ns.Connecting(443)
			if err != nil {
				t.Error(err)
			}
			most = max(most, n)
			return true
		})
		watched <- most
	}()
	took := make([]time.Duration, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			a, d, err := tryTimed(t, p.client, url(i))
			if err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				t.Errorf("%s: status %d, Retry-After %q, %v, want 503 with one", what, a.Status, a.Header.Get("Retry-After"), err)
			}
			took[i] = d
		})
	}
	wg.Wait()
	cancel()
	most = <-watched
	t.Logf("%s: %d answers after p50 %v, max %v; at most %d connects at once", what, clients,
		quantile(took, 0.5).Round(time.Millisecond), slices.Max(took).Round(time.Millisecond), most)
	if slices.Max(took) > connectLimit {
		t.Errorf("%s: the last answer came after %v, want at most %v", what, slices.Max(took), connectLimit)
	}
	return most
}

// TestBackFromBlackHole has the registry come back, while clients try again and again.
func TestBackFromBlackHole(t *testing.T) {
	t.Parallel()
	const limit = 5 * time.Second
	back := make([]time.Duration, sized(3, 10))
	tests := map[string]func(*testing.T){}
	for i := range back {
		// It comes back at any time between two tries, or during one, after few failures
		// or many.
		away := 6*time.Second + time.Duration(i)*6700*time.Millisecond
		tests[away.String()] = func(t *testing.T) { back[i] = comeBack(t, away) }
	}
	together(t, tests)
	t.Logf("pulls succeed again after at most %v (%v)", slices.Max(back), back)
	if slices.Max(back) > limit {
		t.Errorf("a pull has succeeded after %v, want at most %v", slices.Max(back), limit)
	}
}

// comeBack has four clients pull in a loop while the registry is a black hole, and
// returns how long it is back before one succeeds.
func comeBack(t *testing.T, away time.Duration) time.Duration {
	img := noise(t, "back", 5000).In("team/app", "1.0")
	p := newPlace(t, nil, img)
	p.drop(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), away+30*time.Second)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	good := make(chan time.Time, 4)
	for range cap(good) {
		clients.Go(func() {
			every(ctx, 100*time.Millisecond, func() bool {
				a, _, err := tryTimed(t, p.client, manifestURL(p.m, img.Repo, img.Tag))
				switch {
				case err == nil && a.Status == http.StatusOK:
					good <- time.Now()
					return false
				case err != nil && ctx.Err() == nil, err == nil && a.Status != http.StatusServiceUnavailable:
					t.Errorf("status %d, %v, want 503", a.Status, err)
				}
				return true
			})
		})
	}
	<-time.After(away)
	p.drop(t, false)
	begun := time.Now()
	select {
	case at := <-good:
		wholeImage(t, p.m, way{}, img)
		return at.Sub(begun).Round(time.Millisecond)
	case <-ctx.Done():
		t.Fatal("no pull succeeds")
		return 0
	}
}

// TestWarmAsksNothing asks 10,000 times for what is stored and whose tag is fresh.
func TestWarmAsksNothing(t *testing.T) {
	t.Parallel()
	const requests, clients = 10_000, 16
	img := noise(t, "warm", 5000).In("team/app", "1.0")
	up := origin(t, lab.OriginOptions{}, img)
	m := module(t, up.Env(), lab.Env{"REGISTRY_LOG_LEVEL": "warn"})
	wholeImage(t, m, way{}, img)
	up.Reset()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	t.Cleanup(c.CloseIdleConnections)
	ways := []struct{ method, url string }{
		{http.MethodGet, manifestURL(m, img.Repo, img.Tag)},
		{http.MethodGet, manifestURL(m, img.Repo, img.Root().Digest.String())},
		{http.MethodHead, blobURL(m, img.Repo, img.Blobs[0].Digest)},
	}
	var next, good atomic.Int64
	begun := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= requests; i = next.Add(1) {
				w := ways[i%int64(len(ways))]
				req, err := request(t.Context(), w.method, w.url)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				if a := read(resp); a.Status == http.StatusOK && a.Err == nil {
					good.Add(1)
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("%d requests in %v; upstream: %v", requests, time.Since(begun).Round(time.Millisecond), up.Counts())
	if good.Load() != requests {
		t.Errorf("%d of %d answers are good", good.Load(), requests)
	}
	if n := up.Counts().Requests; n != 0 {
		t.Errorf("%d upstream requests, want 0\n%v", n, &up.Ledger)
	}
}
