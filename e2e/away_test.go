package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// away is a way for a remote not to be there.
type away struct {
	begin func(t *testing.T, p *place)
	// state is what is known of the remote then.
	state string
}

// answering has the registry answer all that is asked.
func answering(with http.HandlerFunc) func(*testing.T, *place) {
	return func(t *testing.T, p *place) { p.serve(t, lab.Answer(anything, with)) }
}

func anything(*http.Request) bool { return true }

// html is what is no answer of a registry.
func html(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, "<html>please log in</html>")
}

// toLogin redirects to a page for people.
func toLogin(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/login") {
		html(w, r)
		return
	}
	http.Redirect(w, r, "https://"+remoteHost+"/login?from="+r.URL.Path, http.StatusFound)
}

// half sends a manifest that is new, and stops in the middle of it.
func half(t *testing.T, p *place) {
	img := noise(t, "moved "+t.Name(), 1000).In("team/app", "1.0")
	p.Add(img)
	body := func() int64 { return int64(len(img.Root().Bytes) / 2) }
	p.serve(t, lab.Stall(func(r *http.Request) bool { return lab.KindOf(r.URL.Path) == lab.Manifest }, body))
}

// withCertificate has the registry show another certificate.
func withCertificate(host string, from time.Duration) func(*testing.T, *place) {
	return func(t *testing.T, p *place) { p.serveAs(t, p.certificate(t, host, time.Now().Add(from))) }
}

// naming has the name server do something, and connections that there are cut.
func naming(n lab.Names) func(*testing.T, *place) {
	return func(t *testing.T, p *place) {
		p.names.Use(n)
		p.serve(t)
	}
}

// ways are the ways to be away.
func ways() map[string]away {
	const day = 24 * time.Hour
	return map[string]away{
		"connection refused": {func(t *testing.T, p *place) {
			if err := p.front.Down(); err != nil {
				t.Fatal(err)
			}
		}, "offline"},
		"black hole in connect": {func(t *testing.T, p *place) { p.drop(t, true) }, "offline"},
		"black hole in TLS": {func(t *testing.T, p *place) {
			if err := p.front.Silence(); err != nil {
				t.Fatal(err)
			}
		}, "offline"},
		"hangs after headers":    {func(t *testing.T, p *place) { p.serve(t, lab.Hang(anything)) }, "offline"},
		"hangs in manifest":      {half, "failing"}, // it has answered
		"DNS slow":               {naming(lab.Unheard), "offline"},
		"NXDOMAIN":               {naming(lab.NXDomain), "offline"},
		"500":                    {answering(refuse(http.StatusInternalServerError)), "failing"},
		"502":                    {answering(refuse(http.StatusBadGateway)), "failing"},
		"503":                    {answering(refuse(http.StatusServiceUnavailable)), "failing"},
		"429":                    {answering(refuse(http.StatusTooManyRequests)), "failing"},
		"429 with Retry-After":   {answering(refuse(http.StatusTooManyRequests, "Retry-After", "30")), "limited"},
		"401":                    {func(_ *testing.T, p *place) { p.password = "another" }, "online"},
		"403":                    {answering(refuse(http.StatusForbidden)), "online"},
		"captive portal":         {answering(html), "failing"},
		"redirect to login":      {answering(toLogin), "failing"},
		"certificate of another": {withCertificate("portal.example.test", -time.Hour), "offline"},
		"certificate to come":    {withCertificate(remoteHost, day), "offline"},
		"certificate of old":     {withCertificate(remoteHost, -2*day), "offline"},
	}
}

// stay is what was seen in a way to be away.
type stay struct {
	name                       string
	p                          *place
	img                        lab.Image
	first, docker              time.Duration
	rest                       []time.Duration
	connections, asked, lookup int
	blobOnline, blobAway       time.Duration
	state, reason              string
	logged                     []string
}

// each calls a function for all at once, as tests of their own.
func each(t *testing.T, what string, all []*stay, call func(*testing.T, *stay)) {
	t.Helper()
	tests := map[string]func(*testing.T){}
	for _, o := range all {
		tests[o.name+"/"+what] = func(t *testing.T) { call(t, o) }
	}
	together(t, tests)
}

// TestAway makes a registry be away in each way, with an image stored whose tag has to
// be asked for, and looks at what clients get, and how fast.
func TestAway(t *testing.T) {
	const (
		firstLimit = 2 * time.Second
		restLimit  = 4 * 50 * time.Millisecond // 50 ms on a machine that does nothing else
		count      = 200
		apart      = 15 * time.Millisecond
	)
	docker := must(lab.StartDocker(t.Context(), tempDir(t)))(t)
	end(t, docker)
	all := ways()
	var stays []*stay
	for name := range all {
		img := noise(t, "away "+name, 4<<20, 5000).In("team/app", "1.0")
		p := newPlace(t, lab.Env{
			// A stall lasts longer than what is measured takes.
			"REGISTRY_PROXY_TAGTTL": "0", "REGISTRY_PROXY_STALLTIMEOUT": "12s",
			"REGISTRY_PROXY_USERNAME": "user", "REGISTRY_PROXY_PASSWORD": "password",
		}, img)
		p.user, p.password = "user", "password"
		p.serve(t)
		wholeImage(t, p.m, way{}, img)
		stays = append(stays, &stay{name: name, p: p, img: img})
	}
	slices.SortFunc(stays, func(a, b *stay) int { return strings.Compare(a.name, b.name) })
	sizes, changed := map[*stay]int{}, map[*stay]int{}
	for _, o := range stays {
		o.blobOnline = blobTime(t, o)
		_, sizes[o] = o.p.logLines(t, 0)
		changed[o] = int(must(o.p.m.MetricSum(t.Context(), "registry_module_remote_state_changes_total"))(t))
		o.connections, o.lookup = -o.p.front.Connections(), -o.p.names.Asked()
		o.p.Reset()
	}
	each(t, "first", stays, func(t *testing.T, o *stay) {
		all[o.name].begin(t, o.p)
		a, took := timed(t, o.p.client, manifestURL(o.p.m, o.img.Repo, o.img.Tag))
		staleAnswer(t, o.img, a)
		if o.first = took; took > firstLimit {
			t.Errorf("the first answer took %v, want at most %v", took, firstLimit)
		}
	})
	each(t, "rest", stays, func(t *testing.T, o *stay) {
		tick := time.NewTicker(apart)
		defer tick.Stop()
		for range count {
			<-tick.C
			a, took := timed(t, o.p.client, manifestURL(o.p.m, o.img.Repo, o.img.Tag))
			if staleAnswer(t, o.img, a); t.Failed() {
				return
			}
			o.rest = append(o.rest, took)
		}
		if p99 := quantile(o.rest, 0.99); p99 > restLimit {
			t.Errorf("p99 of %d answers: %v, want at most %v", count, p99, restLimit)
		}
		o.connections += o.p.front.Connections() + must(o.p.ns.Dropped(t.Context()))(t)
		o.asked = len(o.p.Requests())
		o.lookup += o.p.names.Asked()
	})
	for _, o := range stays {
		t.Run(o.name+"/docker", func(t *testing.T) {
			begun := time.Now()
			digests, err := docker.Pull(t.Context(), o.img.ByTag(o.p.m.Addr), "linux/amd64")
			if err != nil || !slices.Contains(digests, o.img.Root().Digest.String()) {
				t.Errorf("docker pull: %v, %v, want %s", digests, err, o.img.Root().Digest)
			}
			o.docker = time.Since(begun)
			o.blobAway = blobTime(t, o)
			if most := 4*o.blobOnline + 50*time.Millisecond; o.blobAway > most {
				t.Errorf("a blob took %v, want at most %v: online it was %v", o.blobAway, most, o.blobOnline)
			}
		})
	}
	each(t, "state", stays, func(t *testing.T, o *stay) {
		want := all[o.name].state
		// Where nothing is answered, that it fails is known when the limit is over.
		within(t, 20*time.Second, "/healthz and the metrics have the remote as "+want, func() bool {
			o.state, o.reason = o.p.stateOf(t)
			return o.state == want && o.p.metricOf(t) == want
		})
		if (o.reason != "") != (want != "online") {
			t.Errorf("the state is %s, and the reason %q", o.state, o.reason)
		}
		// One line for each change, and none for a request.
		changes := 0
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			o.logged, _ = o.p.logLines(t, sizes[o])
			changes = int(must(o.p.m.MetricSum(t.Context(), "registry_module_remote_state_changes_total"))(t)) - changed[o]
			if len(o.logged) == changes {
				break // otherwise one may have come in between
			}
		}
		if len(o.logged) != changes || changes > 6 {
			t.Errorf("%d changes of the state, and %d lines in the log beside those about requests:\n%.2000s", changes, len(o.logged), strings.Join(o.logged, "\n"))
		}
	})
	t.Log("\n" + table(stays))
}

// table is the figures.
func table(stays []*stay) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "away\tfirst\tp50\tp99\tmax\tconnections\trequests\tlookups\tdocker pull\tblob online\tblob away\tstate\tlog lines\treason")
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	for _, o := range stays {
		if len(o.rest) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%.110s\n", o.name, ms(o.first), ms(quantile(o.rest, 0.5)),
			ms(quantile(o.rest, 0.99)), ms(slices.Max(o.rest)), o.connections, o.asked, o.lookup, ms(o.docker), ms(o.blobOnline), ms(o.blobAway),
			o.state, len(o.logged), o.reason)
	}
	_ = w.Flush() // into memory
	return b.String()
}

// staleAnswer expects the stored manifest, and that the answer says that it is stale.
func staleAnswer(t *testing.T, img lab.Image, a answer) {
	t.Helper()
	if a.Status != http.StatusOK || string(a.Body) != string(img.Root().Bytes) {
		t.Errorf("status %d, want 200 and the manifest\n%.300s", a.Status, a.Body)
	}
	if w := a.Header.Values("Warning"); !slices.ContainsFunc(w, func(w string) bool { return strings.HasPrefix(w, "110 ") }) {
		t.Errorf("Warning %q, want one that begins with 110", w)
	}
	if a.Header.Get("Age") == "" {
		t.Error("no Age")
	}
}

// blobTime returns how long the largest blob of an image takes, the best of three.
func blobTime(t *testing.T, o *stay) (best time.Duration) {
	t.Helper()
	blob := slices.MaxFunc(o.img.Blobs, func(a, b lab.RawBlob) int { return int(a.Size - b.Size) })
	for i := range 3 {
		a, took := timed(t, o.p.client, blobURL(o.p.m, o.img.Repo, blob.Digest))
		if a.Status != http.StatusOK || digest.FromBytes(a.Body) != blob.Digest {
			t.Errorf("a blob: status %d, %d bytes", a.Status, len(a.Body))
		}
		if i == 0 || took < best {
			best = took
		}
	}
	return best
}
