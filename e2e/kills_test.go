package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// perKill is how many bytes may come twice for a process that ends in the middle of
// a pull, however it ends.
const perKill = 4 * mib

// TestKills ends the module at random moments of cold pulls of five layers, and
// starts it again, while clients go on trying. What was downloaded before is not
// downloaded again, no client ever takes something else for a layer, and no file
// has a name that is not its content's.
func TestKills(t *testing.T) {
	for name, tt := range map[string]struct {
		times int
		stop  func(*lab.Server) error
	}{
		"kill -9": {sized(15, 50), func(m *lab.Server) error { return m.Kill() }},
		"SIGTERM": {sized(5, 50), func(m *lab.Server) error { return m.Stop() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// So slow that each end comes in the middle.
			up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 60e6}})
			m := module(t, up.Env(), lab.Env{"REGISTRY_HTTP_DRAINTIMEOUT": "100ms"})

			var images []lab.Image
			kills := 0
			for kills < tt.times {
				img := noise(t, fmt.Sprintf("kills/%d", len(images)), 5*mib, 12*mib, 20*mib, 40*mib, 60*mib)
				images = append(images, img)
				up.Add(img)
				kills += endWhilePulling(t, up, m, img, tt.times-kills, tt.stop)
			}

			// What a client has had the last byte of may not have been on the disk when
			// the end came. Now it is.
			unique := int64(0)
			for _, img := range images {
				unique += img.Size()
				if err := pullUntilWhole(t.Context(), m.URL(), img); err != nil {
					t.Fatal(err)
				}
			}
			servesAlone(t, up, m, images...)
			sent := up.Counts().BlobBytes
			t.Logf("%d ends in the pulls of %d images: %d bytes needed, %d sent, %.2f MiB more for each end",
				kills, len(images), unique, sent, float64(sent-unique)/float64(kills)/mib)
			if most := unique + int64(kills)*perKill; sent > most || sent < unique {
				t.Errorf("upstream sent %d bytes of blobs, want %d at least and %d at the most", sent, unique, most)
			}
		})
	}
}

// endWhilePulling ends a server again and again, up to a number of times, while a
// client pulls an image from it until it has all. It returns how often.
func endWhilePulling(t *testing.T, up *lab.Origin, m *lab.Server, img lab.Image, most int, stop func(*lab.Server) error) (times int) {
	t.Helper()
	pulled := make(chan error, 1)
	url := m.URL() // it stays the same
	go func() { pulled <- pullUntilWhole(t.Context(), url, img) }()
	for times < most && reached(up, up.Counts().BlobBytes+rand.Int64N(18*mib), pulled) {
		if err := stop(m); err != nil {
			t.Error(err)
		}
		times++
		if _, _, err := lab.CheckStore(m.Data); err != nil {
			t.Errorf("after %d ends: %v", times, err)
		}
		if err := m.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		honestHeads(t, m, img)
	}
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	return times
}

// servesAlone takes upstream down and expects the module to have images, and
// nothing else.
func servesAlone(t *testing.T, up *lab.Origin, m *lab.Server, images ...lab.Image) {
	t.Helper()
	if err := up.Down(); err != nil {
		t.Fatal(err)
	}
	// Clients do not wait for the disk.
	for _, img := range images {
		eventually(t, img.Repo+" is served without upstream", func() bool { return pull(t.Context(), m, img) == nil })
	}
	checkStore(t, m)
	if left := partials(t, m); len(left) != 0 {
		t.Errorf("what is left of downloads that are complete: %v", left)
	}
}

// reached waits until upstream has sent that many bytes. It returns false, and
// leaves the outcome to be received again, if the pull ends before.
func reached(up *lab.Origin, bytes int64, pulled chan error) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for up.Counts().BlobBytes < bytes {
		select {
		case err := <-pulled:
			pulled <- err
			return false
		case <-tick.C:
		}
	}
	return true
}

// pullUntilWhole pulls an image from a server that comes and goes. It asks again
// and again for what it does not have. An error is something that was complete,
// and wrong.
func pullUntilWhole(ctx context.Context, url string, img lab.Image) error {
	root := img.Root()
	want := map[string]lab.RawBlob{"/manifests/" + img.Tag: {Digest: root.Digest, Size: int64(len(root.Bytes))}}
	for _, b := range img.Blobs {
		want["/blobs/"+b.Digest.String()] = b
	}
	errs := make(chan error, len(want))
	for path, b := range want {
		go func() { errs <- fetchUntilWhole(ctx, url+"/v2/"+img.Repo+path, b) }()
	}
	for range want {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// fetchUntilWhole does so for one URL.
func fetchUntilWhole(ctx context.Context, url string, want lab.RawBlob) error {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		f, err := fetch(ctx, url)
		if err == nil && f.Status == http.StatusOK && f.Err == nil {
			return f.whole(want)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; the last answer: %+v, %w", url, ctx.Err(), f, err)
		case <-again.C:
		}
	}
}

// honestHeads compares what HEAD says of layers with what they are.
func honestHeads(t *testing.T, m *lab.Server, img lab.Image) {
	t.Helper()
	for _, b := range img.Blobs {
		a := do(t, http.MethodHead, blobURL(m, img.Repo, b.Digest))
		if a.Status == http.StatusOK && (a.Header.Get("Content-Length") != fmt.Sprint(b.Size) ||
			a.Header.Get("Docker-Content-Digest") != b.Digest.String()) {
			t.Errorf("HEAD of %s: %v, want %d bytes", b.Digest, a.Header, b.Size)
		}
		if a.Status != http.StatusOK && stored(m, b.Digest) {
			t.Errorf("HEAD of %s, which is stored: status %d", b.Digest, a.Status)
		}
	}
}

// TestResumeAfterStart shows that with REGISTRY_CACHE_RESUME a start alone goes on
// with what a kill has ended: no client asks for it again.
func TestResumeAfterStart(t *testing.T) {
	t.Parallel()
	img := noise(t, "resume/image", 48*mib, 8*mib)
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 40e6}}, img)
	m := module(t, up.Env(), lab.Env{"REGISTRY_CACHE_RESUME": "true"})
	ctx, leave := context.WithCancel(t.Context())
	pulled := make(chan error, 1)
	go func() { pulled <- pull(ctx, m, img) }()
	if !reached(up, img.Size()/2, pulled) {
		t.Fatalf("the pull has ended too early: %v", <-pulled)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	leave()
	<-pulled // it has failed, with the server
	kept := up.Counts().BlobBytes

	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all layers are stored", func() bool { return allStored(m, img) })
	sent := up.Counts().BlobBytes
	t.Logf("killed after %d bytes of %d; %d more came without a client", kept, img.Size(), sent-kept)
	if sent > img.Size()+perKill {
		t.Errorf("upstream sent %d bytes of blobs, want %d and at most %d more", sent, img.Size(), perKill)
	}
	servesAlone(t, up, m, img)
}

// TestKeptUntilAsked shows that without it, what was downloaded waits for a client,
// over a kill, and is not downloaded again when there is one.
func TestKeptUntilAsked(t *testing.T) {
	t.Parallel()
	img := noise(t, "kept/image", 48*mib)
	layer := img.Blobs[0]
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 40e6}}, img)
	m := module(t, up.Env())
	knowSize(t, m, img)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	fetched := make(chan error, 1)
	go func() { _, err := fetch(ctx, blobURL(m, img.Repo, layer.Digest)); fetched <- err }()
	if !reached(up, layer.Size/2, fetched) {
		t.Fatalf("the pull has ended too early: %v", <-fetched)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	<-fetched
	asked := up.Counts().BlobGET
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stored(m, layer.Digest) {
		t.Error("a blob of which half was downloaded is stored")
	}
	if got := up.Counts().BlobGET; got != asked {
		t.Errorf("upstream was asked %d times before a client was there", got-asked)
	}
	wholeBlob(t, m, img.Repo, layer)
	amplification(t, up, layer.Size, 1+float64(perKill)/float64(layer.Size))
	checkStore(t, m)
}
