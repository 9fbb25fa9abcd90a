package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestSeedRate seeds images that share layers in groups over a link that is the slowest part
// of the way: at its full size 50 images of 100 MiB over 100 MB/s. Each byte comes once, and
// the link is hardly ever idle. The rate is that of the whole command, from its start to its
// end.
func TestSeedRate(t *testing.T) {
	images, groups := sized(20, 50), sized(4, 5)
	shared, own := sized[int64](3, 60)*mib, sized[int64](2, 40)*mib
	rate := sized[int64](20e6, 100e6)
	least := sized(0.5, 0.95) // what takes seconds only is a figure

	var bases, all []lab.RawBlob
	for g := range groups {
		bases = append(bases, must(lab.NoiseLayer(uint64(900+g), shared))(t))
	}
	var content []lab.Image
	for i := range images {
		layer := must(lab.NoiseLayer(uint64(1000+i), own))(t)
		content = append(content, must(lab.LayeredImage(fmt.Sprintf("rate/%d", i), "1.0", bases[i%groups], layer))(t))
		all = append(all, layer)
	}
	all = append(all, bases...)
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: rate}}, content...)
	var busy span
	up.Use(busy.middleware)
	d := newDepot(t, up)
	list := d.write(t, "images.txt", []byte("# seeded over a link\n"+strings.Join(atRemote(content...), "\n")+"\n"))

	start := time.Now()
	o := d.good(t, "seed", "-f", list)
	need, got := unique(content...), up.Counts()
	part := float64(need) / o.Took.Seconds() / float64(rate)
	t.Logf("%d images, %d MB, in %.2f s: %.3f of the link's %d MB/s; %.1f MiB of memory; at most %d at once; %v",
		images, need/1e6, o.Took.Seconds(), part, rate/1e6, float64(o.PeakRSS)/mib, up.Parallel(), got)
	t.Logf("blobs were sent from %v on, for %v: %.3f of the link's rate meanwhile", busy.first.Sub(start), busy.last.Sub(busy.first),
		float64(need)/busy.last.Sub(busy.first).Seconds()/float64(rate))
	if part < least {
		t.Errorf("%.3f of the link's rate, want %.2f at least", part, least)
	}
	if got.BlobBytes != need {
		t.Errorf("upstream sent %d bytes of blobs, want %d", got.BlobBytes, need)
	}
	for _, b := range all {
		if n := sentOf(up, b); n > b.Size {
			t.Errorf("blob %s: %d bytes were sent, it has %d", b.Digest, n, b.Size)
		}
	}

	up.Reset()
	o = d.good(t, "seed", "-f", list)
	if again := up.Counts(); again.BlobGET != 0 {
		t.Errorf("a second run has fetched blobs: %v\n%v", again, o)
	}
	takeDown(t, up)
	d.servesAlone(t, content...)
}

// span is when blobs were sent.
type span struct {
	mu          sync.Mutex
	first, last time.Time // guarded by mu
}

func (s *span) middleware(next http.Handler) http.Handler {
	note := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = time.Now()
		if s.first.IsZero() {
			s.first = s.last
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && lab.Blobs(r) {
			note()
			defer note()
		}
		next.ServeHTTP(w, r)
	})
}

// sentOf is how many bytes were sent of a blob.
func sentOf(up *lab.Origin, b lab.RawBlob) (sent int64) {
	for _, r := range up.Requests() {
		if strings.HasSuffix(r.URI, "/blobs/"+b.Digest.String()) && r.Status < 300 {
			sent += r.Bytes
		}
	}
	return sent
}
