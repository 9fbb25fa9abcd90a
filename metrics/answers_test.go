package metrics_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"registry-module/cache"
	"registry-module/metrics"
	"registry-module/server"
)

// tell has an observer told of a request.
func tell(o interface {
	server.Observer
	server.Beginner
}, a server.Answer) {
	o.Began(a)
	o.Answered(a)
}

func TestAnswers(t *testing.T) {
	a := metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"one.test", "two.test"}})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(a)
	one, two := cache.Place{Host: "one.test", Repo: "a"}, cache.Place{Host: "two.test", Repo: "b"}
	tag := server.Answer{
		Method: "GET", Kind: server.ManifestContent, Place: one, Status: 200, Bytes: 500, Result: server.Hit,
		Age: 10 * time.Minute, Took: 2 * time.Millisecond, Waited: time.Millisecond,
	}
	tell(a, tag)
	tell(a, tag)
	stale := tag
	stale.Result, stale.Age, stale.Place = server.Stale, 48*time.Hour, two
	tell(a, stale)
	blob := server.Answer{
		Method: "GET", Kind: server.BlobContent, Place: two, Status: 200, Bytes: 1 << 20, Fetched: true, Result: server.Miss,
		Age: -1, Took: 40 * time.Minute, Waited: 2 * time.Second,
	}
	tell(a, blob)
	broken := blob
	broken.Result, broken.Bytes = server.Failed, 1000
	tell(a, broken)
	tell(a, server.Answer{Method: "GET", Kind: server.BlobContent, Place: two, Status: 404, Bytes: 120, Result: server.Absent, Age: -1})
	tell(a, server.Answer{Method: "GET", Kind: server.OtherContent, Status: 200, Bytes: 2, Result: server.Hit, Age: -1})
	a.Began(blob)

	want := `
# HELP registry_module_requests_in_flight Requests of clients that are being answered.
# TYPE registry_module_requests_in_flight gauge
registry_module_requests_in_flight 1
# HELP registry_module_requests_total Requests of clients, by remote (empty where none is meant or known), kind of content, and result.
# TYPE registry_module_requests_total counter
registry_module_requests_total{kind="blob",remote="two.test",result="absent"} 1
registry_module_requests_total{kind="blob",remote="two.test",result="failed"} 1
registry_module_requests_total{kind="blob",remote="two.test",result="miss"} 1
registry_module_requests_total{kind="manifest",remote="one.test",result="hit"} 2
registry_module_requests_total{kind="manifest",remote="two.test",result="stale"} 1
registry_module_requests_total{kind="other",remote="",result="hit"} 1
# HELP registry_module_served_bytes_total Bytes of content that went to clients, by remote, kind, and source: cache, or remote for what was fetched for the request or one under way.
# TYPE registry_module_served_bytes_total counter
registry_module_served_bytes_total{kind="blob",remote="two.test",source="cache"} 0
registry_module_served_bytes_total{kind="blob",remote="two.test",source="remote"} 1.049576e+06
registry_module_served_bytes_total{kind="manifest",remote="one.test",source="cache"} 1000
registry_module_served_bytes_total{kind="manifest",remote="one.test",source="remote"} 0
registry_module_served_bytes_total{kind="manifest",remote="two.test",source="cache"} 500
registry_module_served_bytes_total{kind="manifest",remote="two.test",source="remote"} 0
registry_module_served_bytes_total{kind="other",remote="",source="cache"} 2
registry_module_served_bytes_total{kind="other",remote="",source="remote"} 0
# HELP registry_module_tag_age_seconds How long ago the remote had confirmed the tags that were answered.
# TYPE registry_module_tag_age_seconds histogram
registry_module_tag_age_seconds_bucket{le="1"} 0
registry_module_tag_age_seconds_bucket{le="60"} 0
registry_module_tag_age_seconds_bucket{le="300"} 0
registry_module_tag_age_seconds_bucket{le="900"} 2
registry_module_tag_age_seconds_bucket{le="3600"} 2
registry_module_tag_age_seconds_bucket{le="21600"} 2
registry_module_tag_age_seconds_bucket{le="86400"} 2
registry_module_tag_age_seconds_bucket{le="604800"} 3
registry_module_tag_age_seconds_bucket{le="2.592e+06"} 3
registry_module_tag_age_seconds_bucket{le="+Inf"} 3
registry_module_tag_age_seconds_sum 174000
registry_module_tag_age_seconds_count 3
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "registry_module_requests_total", "registry_module_served_bytes_total",
		"registry_module_tag_age_seconds", "registry_module_requests_in_flight"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(r, "registry_module_request_duration_seconds", "registry_module_request_wait_seconds"); n != 12 || err != nil {
		t.Errorf("%d series of times, %v", n, err)
	}
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Whatever clients ask for, by many at once, makes no series of its own.
func TestAnswersAreBounded(t *testing.T) {
	a := metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"one.test"}, Stock: true})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(a)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				text := fmt.Sprintf("\xff\n%d %d", i, j)
				tell(a, server.Answer{
					Method: text, Kind: text, Route: []string{"manifest", text}[j%2], Name: text, Reference: text, Place: cache.Place{Host: text, Repo: text},
					Status: 200, Bytes: 1, Result: server.Result(text), Client: text, User: text, Agent: text,
				})
			}
		})
	}
	all.Wait()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), "\xff") {
					t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
			series++
		}
	}
	if series > 60 {
		t.Errorf("%d series", series)
	}
}

// BenchmarkAnswers is what counting costs each request.
func BenchmarkAnswers(b *testing.B) {
	for _, stock := range []bool{false, true} {
		b.Run(fmt.Sprintf("stock=%v", stock), func(b *testing.B) {
			a := metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"one.test", "two.test"}, Stock: stock})
			x := server.Answer{
				Method: "GET", Kind: server.ManifestContent, Route: "manifest", Place: cache.Place{Host: "one.test", Repo: "a"},
				Status: 200, Bytes: 500, Result: server.Hit, Age: time.Minute, Took: time.Millisecond, Waited: time.Millisecond,
			}
			b.ReportAllocs()
			for b.Loop() {
				tell(a, x)
			}
		})
	}
}

// Remotes that come later are told apart from then on, and those that were there stay.
func TestAddRemotes(t *testing.T) {
	a := metrics.NewAnswers(metrics.AnswersOptions{Remotes: []string{"one.test"}})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(a)
	answer := server.Answer{Method: "GET", Kind: server.BlobContent, Status: 200, Result: server.Hit, Age: -1}
	ask := func() {
		for _, host := range []string{"one.test", "two.test", "three.test"} {
			answer.Place = cache.Place{Host: host, Repo: "a"}
			tell(a, answer)
		}
	}
	ask()
	a.AddRemotes("two.test", "one.test")
	ask()
	want := `
# HELP registry_module_requests_total Requests of clients, by remote (empty where none is meant or known), kind of content, and result.
# TYPE registry_module_requests_total counter
registry_module_requests_total{kind="blob",remote="",result="hit"} 3
registry_module_requests_total{kind="blob",remote="one.test",result="hit"} 2
registry_module_requests_total{kind="blob",remote="two.test",result="hit"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "registry_module_requests_total"); err != nil {
		t.Error(err)
	}
}
