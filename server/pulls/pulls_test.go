package pulls_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"registry-module/cache"
	"registry-module/server"
	"registry-module/server/pulls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines are those of a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (*lines) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (l *lines) Fire(e *logrus.Entry) error {
	text := e.Level.String() + " " + e.Message
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		text += fmt.Sprintf(" %s=%v", k, e.Data[k])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, text)
	return nil
}

// take returns what is new.
func (l *lines) take() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// client is somebody who pulls, in a bubble.
type client struct {
	*testing.T
	p   *pulls.Pulls
	log *lines
	as  server.Answer // what all of its requests have
}

func newClient(t *testing.T, opts pulls.Options) *client {
	log := new(lines)
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.AddHook(log)
	opts.Log = l
	c := &client{T: t, p: pulls.New(opts), log: log, as: server.Answer{
		Method: "GET", Name: "team/app", Client: "10.0.0.1", User: "ann", Agent: "containerd/2", Status: 200, Result: server.Hit, Age: -1,
	}}
	return c
}

// ask is a request that takes a while.
func (c *client) ask(took time.Duration, changes ...func(*server.Answer)) { c.begin(changes...)(took) }

// begin begins a request, and returns how it ends.
func (c *client) begin(changes ...func(*server.Answer)) (end func(took time.Duration)) {
	a := c.as
	a.Begun = time.Now()
	for _, change := range changes {
		change(&a)
	}
	began := server.Answer{Begun: a.Begun, Method: a.Method, Kind: a.Kind, Name: a.Name, Reference: a.Reference, Client: a.Client, Agent: a.Agent}
	c.p.Began(began)
	return func(took time.Duration) {
		time.Sleep(took)
		a.Took = time.Since(a.Begun)
		c.p.Answered(a)
	}
}

var (
	index    = digest.FromString("index")
	child    = digest.FromString("child")
	layer    = digest.FromString("layer")
	config   = digest.FromString("config")
	elseware = digest.FromString("another image")
)

func manifest(reference string, id digest.Digest, mediaType string) func(*server.Answer) {
	return func(a *server.Answer) {
		a.Kind, a.Reference, a.Bytes = server.ManifestContent, reference, 500
		a.Manifest = cache.Descriptor{MediaType: mediaType, Digest: id, Size: 500}
	}
}

func tag(name string) func(*server.Answer) { return manifest(name, index, v1.MediaTypeImageIndex) }

func byDigest(id digest.Digest, mediaType string) func(*server.Answer) {
	return manifest(id.String(), id, mediaType)
}

func blob(id digest.Digest, bytes int64) func(*server.Answer) {
	return func(a *server.Answer) { a.Kind, a.Reference, a.Bytes = server.BlobContent, id.String(), bytes }
}

func head(a *server.Answer) { a.Method, a.Bytes = "HEAD", 0 }

func fetched(a *server.Answer) { a.Fetched, a.Result = true, server.Miss }

func result(r server.Result, status int, err error) func(*server.Answer) {
	return func(a *server.Answer) { a.Result, a.Status, a.Err = r, status, err }
}

// inBubble runs test with a client.
func inBubble(t *testing.T, opts pulls.Options, test func(*client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, opts)
		test(c)
		if err := c.p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// want compares the lines that are new. Each begins with one of those wanted, and has all
// of the words that follow.
func (c *client) want(wanted ...string) {
	c.Helper()
	got := c.log.take()
	ok := len(got) == len(wanted)
	for i := 0; ok && i < len(got); i++ {
		head, words, _ := strings.Cut(wanted[i], " | ")
		ok = strings.HasPrefix(got[i], head+" ")
		for _, w := range strings.Fields(words) {
			ok = ok && strings.Contains(got[i]+" ", " "+w+" ")
		}
	}
	if !ok {
		c.Errorf("lines\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

// What clients ask for one after the other makes one line.
func TestPulls(t *testing.T) {
	image := byDigest(child, v1.MediaTypeImageManifest)
	for _, tt := range []struct {
		name string
		do   func(*client)
		want []string
	}{
		{"tag, index, blobs", func(c *client) {
			c.ask(time.Millisecond, tag("v1"))
			c.ask(time.Millisecond, image)
			c.ask(time.Second, blob(config, 1000))
			c.ask(time.Second, blob(layer, 1<<20))
		}, []string{"info pulled | image=team/app:v1 digest=" + index.String() + " client=10.0.0.1 user=ann agent=containerd/2 bytes=1050576 from_cache=1050576 fetched=0 source=cache requests=4 ms=2002"}},
		{"HEAD of the tag, then by digest", func(c *client) {
			c.ask(0, tag("v1"), head)
			c.ask(0, byDigest(index, v1.MediaTypeImageIndex))
			c.ask(0, image, fetched)
			c.ask(0, blob(layer, 1000), fetched)
		}, []string{"info pulled | image=team/app:v1 source=remote requests=4 bytes=2000 from_cache=500 fetched=1500"}},
		{"by digest", func(c *client) {
			c.ask(0, image)
			c.ask(0, blob(layer, 1000), fetched)
			c.ask(0, blob(config, 1000))
		}, []string{"info pulled | image=team/app@" + child.String() + " digest=" + child.String() + " source=mixed"}},
		{"stale", func(c *client) { c.ask(0, tag("v1"), result(server.Stale, 200, nil)); c.ask(0, blob(layer, 1000)) },
			[]string{"info pulled | source=stale"}},
		{"a stale HEAD, then by digest", func(c *client) {
			c.ask(0, tag("v1"), head, result(server.Stale, 200, nil))
			c.ask(0, byDigest(index, v1.MediaTypeImageIndex))
		}, []string{"info pulled | image=team/app:v1 source=stale"}},
		{"a blob alone goes on with a pull", func(c *client) { c.ask(0, blob(layer, 1000)) },
			[]string{"info pulled | image=team/app requests=1 bytes=1000"}},
		{"only HEAD", func(c *client) {
			for range 3 {
				c.ask(0, tag("v1"), head)
				c.ask(0, image, head)
				c.ask(0, blob(layer, 0), head)
			}
		}, nil},
		{"other kinds", func(c *client) {
			c.ask(0, func(a *server.Answer) { a.Kind = server.TagsContent })
			c.ask(0, func(a *server.Answer) { a.Kind = server.OtherContent })
		}, nil},
		{"refused first", func(c *client) {
			c.ask(0, tag("v1"), result(server.Refused, 401, nil), func(a *server.Answer) { a.User = "" })
			c.ask(0, tag("v1"))
		}, []string{"info pulled | image=team/app:v1 requests=1"}},
		{"refused only", func(c *client) { c.ask(0, tag("v1"), result(server.Refused, 403, nil)) }, nil},
		{"absent", func(c *client) { c.ask(0, tag("v1"), result(server.Absent, 404, cache.ErrNotFound)) }, nil},
		{"absent signature", func(c *client) {
			c.ask(0, tag("v1"))
			c.ask(0, tag("sha256-x.sig"), result(server.Absent, 404, cache.ErrNotFound))
		}, []string{"info pulled | image=team/app:v1"}},
		{"absent layer", func(c *client) { c.ask(0, tag("v1")); c.ask(0, blob(layer, 0), result(server.Absent, 404, nil)) },
			[]string{"warning pull failed | image=team/app:v1 errors=1"}},
		{"a remote that is away", func(c *client) { c.ask(0, tag("v1"), result(server.Failed, 503, errors.New("a\nb"))) },
			[]string{"warning pull failed | image=team/app:v1 errors=1 error=a?b bytes=0"}},
		{"failed, and tried again", func(c *client) {
			c.ask(0, tag("v1"), result(server.Failed, 503, errors.New("away")))
			c.ask(0, tag("v1"))
			c.ask(0, blob(layer, 300), fetched, result(server.Failed, 200, errors.New("broken")))
			c.ask(0, blob(layer, 700), fetched)
		}, []string{"info pulled | image=team/app:v1 digest=" + index.String() + " fetched=1000 requests=4"}},
		{"failed for good", func(c *client) {
			c.ask(0, tag("v1"))
			c.ask(0, blob(layer, 300), fetched, result(server.Failed, 200, errors.New("broken")))
			c.ask(0, blob(config, 700), fetched)
		}, []string{"warning pull failed | image=team/app:v1 errors=1 error=broken fetched=1000"}},
		{"the client leaves", func(c *client) {
			c.ask(0, tag("v1"))
			c.ask(0, blob(layer, 300), fetched, result(server.Left, 200, nil))
		},
			[]string{"info pull broken off by the client | image=team/app:v1 fetched=300"}},
		{"two tags, one after the other", func(c *client) {
			c.ask(0, tag("v1"))
			c.ask(0, blob(layer, 1))
			c.ask(0, manifest("v2", elseware, v1.MediaTypeImageManifest))
			c.ask(0, blob(config, 2))
		}, []string{"info pulled | image=team/app:v1 requests=2", "info pulled | image=team/app:v2 requests=2"}},
		{"two tags of one image", func(c *client) { c.ask(0, tag("v1")); c.ask(0, tag("latest")) },
			[]string{"info pulled | image=team/app:v1", "info pulled | image=team/app:latest"}},
		{"two images by digest", func(c *client) { c.ask(0, image); c.ask(0, byDigest(elseware, v1.MediaTypeImageManifest)) },
			[]string{"info pulled | image=team/app@" + child.String(), "info pulled | image=team/app@" + elseware.String()}},
		{"two tags at once", func(c *client) {
			c.ask(0, tag("v1"))
			end := c.begin(blob(layer, 10))
			c.ask(0, manifest("v2", elseware, v1.MediaTypeImageManifest))
			end(0)
		}, []string{"info pulled | image=team/app:v1 also=v2 requests=3"}},
		{"one after the other has failed", func(c *client) {
			c.ask(0, tag("v1"), result(server.Failed, 503, errors.New("away")))
			c.ask(0, tag("v2"))
		}, []string{"warning pull failed | image=team/app:v1", "info pulled | image=team/app:v2"}},
		{"two users", func(c *client) { c.ask(0, tag("v1")); c.ask(0, tag("v1"), func(a *server.Answer) { a.User = "bob" }) },
			[]string{"info pulled | user=ann", "info pulled | user=bob"}},
		{"two agents", func(c *client) {
			c.ask(0, tag("v1"))
			c.ask(0, tag("v1"), func(a *server.Answer) { a.Agent = "docker" })
		},
			[]string{"info pulled | agent=containerd/2", "info pulled | agent=docker"}},
		{"two repositories", func(c *client) { c.ask(0, tag("v1")); c.ask(0, tag("v1"), func(a *server.Answer) { a.Name = "b" }) },
			[]string{"info pulled | image=team/app:v1", "info pulled | image=b:v1"}},
		{"two with a pause", func(c *client) { c.ask(0, tag("v1")); time.Sleep(6 * time.Second); c.ask(0, tag("v1")) },
			[]string{"info pulled | requests=1", "info pulled | requests=1"}},
		{"a pause that is short enough", func(c *client) { c.ask(0, tag("v1")); time.Sleep(4 * time.Second); c.ask(0, blob(layer, 1)) },
			[]string{"info pulled | requests=2 ms=4000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, pulls.Options{}, func(c *client) {
				tt.do(c)
				time.Sleep(11 * time.Second)
				c.want(tt.want...)
			})
		})
	}
}

// A pull is not over while one of its blobs is under way, however long.
func TestLongBlob(t *testing.T) {
	inBubble(t, pulls.Options{}, func(c *client) {
		c.ask(0, tag("v1"))
		end := c.begin(blob(layer, 1<<30), fetched)
		other := c.begin(blob(config, 1<<30), fetched)
		other(time.Hour)
		c.want()
		end(time.Hour)
		time.Sleep(4900 * time.Millisecond)
		c.want()
		time.Sleep(5100 * time.Millisecond)
		c.want("info pulled | image=team/app:v1 requests=3 ms=7200000 fetched=2147483648")
	})
}

// A tag that takes long is not forgotten while the manifest is under way, and a refusal at
// the end does not leave a pull open.
func TestLongManifest(t *testing.T) {
	inBubble(t, pulls.Options{}, func(c *client) {
		c.ask(0, tag("v1"), head)
		c.begin(byDigest(index, v1.MediaTypeImageIndex), fetched)(40 * time.Second)
		end := c.begin(blob(layer, 10))
		refused := c.begin(blob(config, 10), result(server.Refused, 403, nil))
		end(0)
		refused(time.Minute)
		time.Sleep(11 * time.Second)
		c.want("info pulled | image=team/app:v1 requests=3 ms=40000")
	})
}

// There are not more pulls open than may be, and Close reports those that are.
func TestMaxAndClose(t *testing.T) {
	inBubble(t, pulls.Options{Max: 3, Idle: time.Hour}, func(c *client) {
		name := func(n int) func(*server.Answer) {
			return func(a *server.Answer) { a.Name = fmt.Sprint("app", n) }
		}
		for i := range 5 {
			c.ask(time.Second, tag("v1"), name(i))
			if i == 2 {
				c.ask(time.Second, blob(layer, 1), name(0)) // it is not the oldest any more
			}
		}
		c.want("info pulled | image=app1:v1", "info pulled | image=app2:v1")
		end := c.begin(blob(layer, 1), name(0))
		if err := c.p.Close(); err != nil {
			t.Error(err)
		}
		c.want("info pulled | image=app0:v1 requests=2", "info pulled | image=app3:v1", "info pulled | image=app4:v1")
		end(0)
		c.ask(0, tag("v1"))
		time.Sleep(3 * time.Hour)
		c.want()
	})
}

// A pull that has brought nothing has come from nowhere.
func TestNoSource(t *testing.T) {
	var out strings.Builder
	l := logrus.New()
	l.SetOutput(&out)
	p := pulls.New(pulls.Options{Log: l})
	a := server.Answer{
		Begun: time.Now(), Method: "GET", Kind: server.ManifestContent, Name: "team/app", Reference: "v1",
		Status: 503, Result: server.Failed, Err: errors.New("away"),
	}
	p.Began(a)
	p.Answered(a)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := out.String(); !strings.Contains(got, "pull failed") || strings.Contains(got, "source=") {
		t.Errorf("got %s", got)
	}
}

// What clients send stays within its field, and is not kept at length.
func TestHostileText(t *testing.T) {
	var out strings.Builder
	l := logrus.New()
	l.SetOutput(&out)
	l.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableQuote: true})
	long := strings.Repeat("x", 8000)
	evil := "a\nlevel=error msg=\"owned\"\r\x1b[31m\u202e\x00\xff" + long
	p := pulls.New(pulls.Options{Log: l})
	a := server.Answer{
		Begun: time.Now(), Method: "GET", Kind: server.ManifestContent, Name: evil, Reference: evil, Client: evil, User: evil, Agent: evil,
		Status: 200, Result: server.Failed, Err: errors.New(evil),
		Manifest: cache.Descriptor{MediaType: evil, Digest: digest.Digest(evil), Size: -1},
	}
	p.Began(a)
	p.Answered(a)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\r\x1b\x00\u202e") || strings.Contains(got, "\xff") || len(got) > 3000 {
		t.Errorf("%d bytes: %.500q", len(got), got)
	}
}

// Nothing is kept of who has gone, whatever has come in whatever order.
func TestManyAtOnce(t *testing.T) {
	inBubble(t, pulls.Options{Max: 20}, func(c *client) {
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				name := func(a *server.Answer) { a.Name, a.User = fmt.Sprint("app", i%30), fmt.Sprint("user", i%3) }
				for range 20 {
					c.ask(time.Millisecond, tag("v1"), name)
					c.ask(time.Second, blob(layer, 10), name, fetched)
				}
			})
		}
		all.Wait()
		time.Sleep(time.Minute)
		if n := len(c.log.take()); n < 30 {
			t.Errorf("%d lines", n)
		}
		if pulls, callers, runs := pulls.Held(c.p); pulls != 0 || callers != 0 || runs {
			t.Errorf("%d pulls and %d callers are kept, timer runs: %v", pulls, callers, runs)
		}
	})
}

// BenchmarkPulls is what it costs each request.
func BenchmarkPulls(b *testing.B) {
	p := pulls.New(pulls.Options{})
	a := server.Answer{
		Begun: time.Now(), Method: "GET", Kind: server.ManifestContent, Name: "team/app", Reference: "v1", Client: "10.0.0.1", Agent: "containerd/v2.1.0",
		Status: 200, Bytes: 500, Result: server.Hit, Manifest: cache.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: index, Size: 500},
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Began(a)
		p.Answered(a)
	}
	_ = p.Close() // never fails
}
