package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// interrupted is a command that is killed at random moments, and run again.
type interrupted struct {
	args   []string
	up     *lab.Origin
	images []lab.Image // what is to be there in the end
	// byServer is set where a server runs on the data directory.
	byServer bool
	// bundle is what is loaded: nothing may come from the remote. Empty is a command that
	// fetches all.
	bundle string
	// made is a file that the command makes beside the data directory, always the same.
	made string
	sum  string // of made, as it is where nobody disturbs
}

// TestSeedKills ends what fills a cache ahead of time at random moments, as a loss of power
// does, and runs it again. What was fetched before is not fetched again, no tag ever stands
// for half an image, and in the end all is served without a link, to the byte.
func TestSeedKills(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, c *interrupted){
		"seed": func(_ *testing.T, c *interrupted) { c.args = append([]string{"seed"}, c.args...) },
		"seed by a server": func(_ *testing.T, c *interrupted) {
			c.args, c.byServer = append([]string{"seed"}, c.args...), true
		},
		"bundle create": func(_ *testing.T, c *interrupted) {
			c.made = "made/site.tar"
			c.args = append([]string{"bundle", "create", c.made}, c.args...)
		},
		"bundle load":             func(t *testing.T, c *interrupted) { c.load(t) },
		"bundle load by a server": func(t *testing.T, c *interrupted) { c.load(t); c.byServer = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := must(lab.NoiseLayer(701, sized[int64](10, 24)*mib))(t)
			multi := sample(t, lab.OCIIndex).In("kills/multi", "1.0")
			asked := []lab.Image{
				must(lab.LayeredImage("kills/one", "1.0", base, must(lab.NoiseLayer(702, 7*mib))(t)))(t),
				must(lab.LayeredImage("kills/two", "2.0", must(lab.NoiseLayer(703, 5*mib))(t), base))(t),
				multi,
			}
			c := &interrupted{args: atRemote(asked...), images: append(asked, must(lab.CosignTags(multi.Repo, multi.Root()))(t)...)}
			// So slow that moments come in the middle.
			c.up = origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 40e6}}, c.images...)
			prepare(t, c)
			c.run(t, sized(6, 20))
		})
	}
}

// load makes it a command that loads a bundle while there is no link.
func (c *interrupted) load(t *testing.T) {
	t.Helper()
	maker := newDepot(t, c.up)
	c.bundle = maker.file("carried.tar")
	maker.good(t, append([]string{"bundle", "create", c.bundle}, c.args...)...)
	takeDown(t, c.up)
	c.args = []string{"bundle", "load", c.bundle}
}

// run kills it so often.
func (c *interrupted) run(t *testing.T, times int) {
	took := c.undisturbed(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var moments []time.Duration
	for i := range times {
		// One in each part of the time that it takes.
		moments = append(moments, time.Duration((float64(i)+random.Float64())/float64(times)*float64(took)))
	}
	random.Shuffle(times, func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
	t.Logf("undisturbed, it takes %v; with the seed %d it is killed after %v", took, seed, moments)
	rounds := 0
	for len(moments) > 0 && !t.Failed() {
		rounds++
		moments = c.round(t, rounds, random, moments)
	}
	t.Logf("%d ends in %d runs", times, rounds)
}

// undisturbed runs it to its end once, and returns how long that takes.
func (c *interrupted) undisturbed(t *testing.T) time.Duration {
	t.Helper()
	d := c.depot(t)
	if c.byServer {
		s := d.serve(t)
		defer stop(t, s)
	}
	c.up.Reset()
	o := d.good(t, c.args...)
	if got, want := c.up.Counts().BlobBytes, c.needed(); got != want {
		t.Errorf("undisturbed: upstream sent %d bytes of blobs, want %d\n%v", got, want, o)
	}
	if c.made != "" {
		c.sum = c.sumOf(t, d)
	}
	return o.Took
}

// depot makes an empty one.
func (c *interrupted) depot(t *testing.T) *depot {
	t.Helper()
	d := newDepot(t, c.up)
	if c.made != "" {
		if err := os.Mkdir(filepath.Dir(d.file(c.made)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (c *interrupted) sumOf(t *testing.T, d *depot) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256(must(os.ReadFile(d.file(c.made)))(t)))
}

// needed is what has to come from upstream.
func (c *interrupted) needed() int64 {
	if c.bundle != "" {
		return 0
	}
	return unique(c.images...)
}

// round starts with nothing, kills the command at one moment or some, and then lets it come
// to its end. It returns the moments that are left.
func (c *interrupted) round(t *testing.T, n int, random *rand.Rand, moments []time.Duration) []time.Duration {
	t.Helper()
	d := c.depot(t)
	var s *lab.Server
	if c.byServer {
		s = d.serve(t)
	}
	c.up.Reset()
	kills := 0
	for kills == 0 || len(moments) > 0 && random.IntN(2) == 0 {
		if !c.kill(t, d, s, random, moments[0]) {
			if kills > 0 {
				break // what was left to do was done before the moment
			}
			moments[0] -= moments[0] / 8
			return moments
		}
		kills++
		moments = moments[1:]
		d.noHalves(t)
		if c.made != "" {
			if _, err := os.Stat(d.file(c.made)); err == nil && c.sumOf(t, d) != c.sum {
				t.Errorf("round %d: %s is there, and it is not all", n, c.made)
			}
		}
	}

	d.good(t, c.args...)
	sent, most := c.up.Counts().BlobBytes, c.needed()+int64(kills)*perKill
	if c.bundle != "" {
		most = 0
	}
	t.Logf("round %d: %d ends: %d bytes needed, %d sent", n, kills, c.needed(), sent)
	if sent > most || sent < c.needed() {
		t.Errorf("round %d: upstream sent %d bytes of blobs, want %d at least and %d at the most", n, sent, c.needed(), most)
	}
	c.up.Reset()
	d.good(t, c.args...) // it does nothing then
	if again := c.up.Counts().BlobBytes; again != 0 {
		t.Errorf("round %d: upstream sent %d bytes of blobs for what is there", n, again)
	}
	if s != nil {
		stop(t, s)
	}
	c.complete(t, d, n)
	return moments
}

// kill starts the command and kills it after a while, or the server for which it waits, or
// both. It returns false if it has come to its end before.
func (c *interrupted) kill(t *testing.T, d *depot, s *lab.Server, random *rand.Rand, after time.Duration) bool {
	t.Helper()
	victims := 0
	if c.byServer {
		victims = random.IntN(3)
	}
	moment := time.NewTimer(after)
	defer moment.Stop()
	p := d.begin(t, c.args...)
	select {
	case <-p.Done():
		if status := must(p.Wait(t.Context()))(t); status != 0 {
			t.Errorf("it has failed before it was killed: status %d\n%s", status, p.Tail(20))
		}
		return false
	case <-moment.C:
	}
	if victims != 1 {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
	if victims != 0 {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	}
	if victims == 1 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		// It may have come to its end right before.
		status, err := p.Wait(ctx)
		if err != nil {
			t.Fatalf("the server is gone, and the command is not: %v\n%s", err, p.Tail(20))
		}
		if status == 0 {
			t.Log("it was done when the server was killed")
		}
	}
	if victims != 0 {
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return true
}

// complete expects that all is there, and serves it without a link.
func (c *interrupted) complete(t *testing.T, d *depot, n int) {
	t.Helper()
	site := d
	if c.made != "" {
		if got := c.sumOf(t, d); got != c.sum {
			t.Errorf("round %d: %s has other bytes than where nobody disturbs", n, c.made)
		}
		for _, f := range must(os.ReadDir(filepath.Dir(d.file(c.made))))(t) {
			if base := filepath.Base(c.made); f.Name() != base && f.Name() != base+".sums" {
				t.Errorf("round %d: %s is left beside %s", n, f.Name(), c.made)
			}
		}
		site = newDepot(t, c.up)
		site.good(t, "bundle", "load", d.file(c.made))
	}
	takeDown(t, c.up)
	site.servesAlone(t, c.images...)
	if c.bundle == "" {
		bringUp(t, c.up)
	}
}
