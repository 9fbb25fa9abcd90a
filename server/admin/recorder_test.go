package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
	"registry-module/server"
)

// Each answer is counted as what it was.
func TestTrafficIsCounted(t *testing.T) {
	place := cache.Place{Host: "a.example.com", Repo: "x"}
	all := []struct {
		answer server.Answer
		want   Traffic
	}{
		{server.Answer{Kind: "manifest", Result: server.Hit, Bytes: 5}, Traffic{Hits: 1, Served: 5}},
		{server.Answer{Kind: "manifest", Result: server.Revalidated, Bytes: 5}, Traffic{Hits: 1, Served: 5}},
		{server.Answer{Kind: "blob", Result: server.Miss, Bytes: 7, Fetched: true}, Traffic{Misses: 1, Served: 7}},
		{server.Answer{Kind: "tags", Result: server.Stale}, Traffic{Stale: 1}},
		{server.Answer{Kind: "blob", Result: server.Failed, Bytes: 1}, Traffic{Failed: 1, Served: 1}},
		{server.Answer{Kind: "blob", Result: server.Left, Bytes: 2}, Traffic{Served: 2}},
		{server.Answer{Kind: "manifest", Result: server.Absent}, Traffic{}},
		{server.Answer{Kind: "manifest", Result: server.Refused}, Traffic{}},
		{server.Answer{Kind: "catalog", Result: server.Hit, Bytes: 9}, Traffic{}},
		{server.Answer{Kind: "other", Result: server.Hit, Bytes: 9}, Traffic{}},
	}
	for _, tt := range all {
		r := NewRecorder(RecorderOptions{})
		tt.answer.Place = place
		r.Answered(tt.answer)
		traffic, history, problems := r.snapshot(time.Now())
		if traffic != tt.want || r.servedOf(place.Host) != tt.want.Served || len(problems) != 0 {
			t.Errorf("%+v: %+v, %v", tt.answer, traffic, problems)
		}
		if sum(history) != tt.want {
			t.Errorf("%+v: history %+v", tt.answer, history)
		}
	}
}

func sum(samples []Sample) (all Traffic) {
	for _, s := range samples {
		for _, counter := range []func(*Traffic) *int64{hits, misses, stale, failures, served, fetched} {
			*counter(&all) += *counter(&s.Traffic)
		}
	}
	return all
}

// Minutes become quarters of an hour, and are forgotten after two days; nothing is lost or
// counted twice on the way.
func TestHistory(t *testing.T) {
	var h history
	start := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	const perMinute, days = 3, 4
	for m := range days * 24 * 60 {
		now := start.Add(time.Duration(m) * time.Minute)
		h.add(now, now, perMinute, hits)
		if m%97 != 0 && m < days*24*60-1 {
			continue
		}
		samples := h.samples(now)
		var earliest time.Time
		for i, s := range samples {
			if i == 0 {
				earliest = s.At.Add(-time.Duration(s.Seconds) * time.Second)
			} else if gap := s.At.Add(-time.Duration(s.Seconds) * time.Second).Sub(samples[i-1].At); gap != 0 {
				t.Fatalf("minute %d: a gap of %v before %v", m, gap, s.At)
			}
			if s.Seconds == 60 && s.Hits != perMinute || s.Seconds != 60 && s.Seconds != 900 {
				t.Fatalf("minute %d: %+v", m, s)
			}
		}
		if got, want := sum(samples).Hits, int64(now.Truncate(time.Minute).Sub(maxTime(earliest, start.Truncate(time.Minute)))/time.Minute+1)*perMinute; got != want {
			t.Fatalf("minute %d: %d hits, want %d", m, got, want)
		}
		if span := now.Sub(earliest); m > 3000 && (span < 47*time.Hour || span > 49*time.Hour) {
			t.Fatalf("minute %d: a history of %v", m, span)
		}
		if len(samples) > quartersMax+minutesKept {
			t.Fatalf("%d samples", len(samples))
		}
	}
	// After a week of nothing there is nothing.
	if samples := h.samples(start.Add((7 + days) * 24 * time.Hour)); len(samples) != 0 {
		t.Errorf("%+v", samples)
	}
	// And the clock can be set back, to before 1970 even, and by a week.
	for _, now := range []time.Time{time.Unix(-1e6, 0), time.Unix(0, 0), start.Add(-7 * 24 * time.Hour)} {
		h.add(now, now, 1, hits)
		if samples := h.samples(now); len(samples) > 1 {
			t.Errorf("%v: %+v", now, samples)
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// What has taken long is spread over the time that it has taken.
func TestHistoryIsSpread(t *testing.T) {
	end := time.Date(2026, 2, 3, 4, 30, 30, 0, time.UTC)
	tests := []struct {
		took    time.Duration
		n       int64
		samples int
		each    int64 // of those in the middle
	}{
		{0, 100, 1, 0},
		{-time.Hour, 100, 1, 0},
		{30 * time.Second, 100, 1, 0},
		{10 * time.Minute, 1000, 11, 100},
		{2 * time.Hour, 1_200_000, 121, 10_000},
		{1000 * time.Hour, 1_200_000, 121, 10_000},
		{10 * time.Minute, 3, 0, 0}, // however it is rounded
	}
	for _, tt := range tests {
		var h history
		h.add(end.Add(-tt.took), end, tt.n, fetched)
		samples := h.samples(end)
		if got := sum(samples).Fetched; got != tt.n {
			t.Errorf("%+v: %d in all", tt, got)
		}
		if tt.samples == 0 {
			continue
		}
		if len(samples) != tt.samples {
			t.Errorf("%+v: %d samples", tt, len(samples))
		}
		for _, s := range samples[min(1, len(samples)):max(1, len(samples)-1)] {
			if tt.each != 0 && (s.Fetched < tt.each-1 || s.Fetched > tt.each+1) {
				t.Errorf("%+v: %+v", tt, s)
			}
		}
	}
}

// What is fetched is asked for once a second at most, and only when something happens or
// somebody looks.
func TestFetchedIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var total, calls atomic.Int64
		r := NewRecorder(RecorderOptions{Fetched: func() int64 { calls.Add(1); return total.Load() }})
		time.Sleep(time.Hour)
		if calls.Load() != 0 {
			t.Error("nobody has looked")
		}
		for range 1000 {
			total.Add(10)
			r.Answered(server.Answer{Kind: "blob", Result: server.Miss, Fetched: true})
			time.Sleep(10 * time.Millisecond)
		}
		if n := calls.Load(); n > 11 {
			t.Errorf("looked %d times in 10 s", n)
		}
		time.Sleep(time.Second)
		traffic, history, _ := r.snapshot(time.Now())
		if traffic.Fetched != 10_000 || sum(history).Fetched != 10_000 {
			t.Errorf("%+v, %+v", traffic, history)
		}
		// A download of ten minutes, after an hour of nothing.
		time.Sleep(time.Hour)
		total.Add(600_000)
		r.FillEnded(cache.FillEnd{Took: 10 * time.Minute})
		_, history, _ = r.snapshot(time.Now())
		if last := history[len(history)-1]; len(history) < 11 || last.Fetched > 60_000 {
			t.Errorf("%d samples, last %+v", len(history), last)
		}
		total.Store(5) // a counter that begins anew
		time.Sleep(time.Second)
		if traffic, _, _ := r.snapshot(time.Now()); traffic.Fetched != 610_000 {
			t.Errorf("%+v", traffic)
		}
	})
}

func upstreamError(kind error, status int, cause error) error {
	return fmt.Errorf("x: %w", &cache.UpstreamError{Kind: kind, Remote: "a.example.com", Op: "fetching manifest a/b:1", Status: status, Err: cause})
}

// The same problem is counted, whatever it was that was wanted, and not repeated.
func TestProblemsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := NewRecorder(RecorderOptions{}), time.Now()
		for i := range 100 {
			r.Answered(server.Answer{Kind: "manifest", Result: server.Failed, Err: &cache.UpstreamError{
				Kind: cache.ErrUnavailable, Remote: "a.example.com", Op: fmt.Sprintf("fetching manifest a/b:%d", i),
				Err: fmt.Errorf("read tcp 10.0.0.%d:%d->192.0.2.1:443: connection reset by peer", i, 1000+i),
			}})
			time.Sleep(time.Second)
		}
		r.Answered(server.Answer{Kind: "manifest", Result: server.Failed, Err: upstreamError(cache.ErrUnavailable, 503, nil)})
		_, _, all := r.snapshot(time.Now())
		if len(all) != 2 || all[1].Times != 100 || !all[1].First.Equal(begun) || !all[1].At.Equal(begun.Add(99*time.Second)) {
			t.Fatalf("%+v", all)
		}
		if !strings.Contains(all[1].Text, "a/b:99") || all[1].Hint == "" {
			t.Errorf("%+v", all[1])
		}
		// Another remote is another problem.
		other := &cache.UpstreamError{Kind: cache.ErrUnavailable, Remote: "b.example.com", Status: 503}
		r.FillEnded(cache.FillEnd{Err: other})
		if _, _, all := r.snapshot(time.Now()); len(all) != 3 {
			t.Errorf("%+v", all)
		}
	})
}

// Who asks for many images that do not exist makes one problem.
func TestManyAbsentImages(t *testing.T) {
	r := NewRecorder(RecorderOptions{})
	for i := range 200 {
		name := strings.Repeat("x", i+1)
		r.Answered(server.Answer{Kind: "manifest", Result: server.Absent, Reference: "1", Err: upstreamError(cache.ErrNotFound, 404, errors.New("no "+name))})
		r.Answered(server.Answer{Kind: "manifest", Result: server.Failed, Reference: "1", Err: upstreamError(cache.ErrDenied, 401, errors.New("no "+name))})
	}
	if _, _, all := r.snapshot(time.Now()); len(all) != 2 {
		t.Errorf("%+v", all)
	}
}

// The last ones are remembered, and no more than that.
func TestProblemsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRecorder(RecorderOptions{})
		for i := range 10 * MaxProblems {
			r.Problem(strings.Repeat("x", i+1), "")
			time.Sleep(time.Second)
		}
		_, _, all := r.snapshot(time.Now())
		if len(all) != MaxProblems || len(all[0].Text) != maxText+3 {
			t.Fatalf("%d problems, the newest of %d bytes", len(all), len(all[0].Text))
		}
		for i, p := range all[1:] {
			if p.At.After(all[i].At) {
				t.Error("the order is wrong")
			}
		}
	})
}

// What is nobody's fault, or the client's own, is no problem.
func TestWhatIsNoProblem(t *testing.T) {
	failed := func(kind string, result server.Result, reference string, err error) server.Answer {
		return server.Answer{Kind: kind, Result: result, Reference: reference, Err: err}
	}
	tests := []struct {
		answer server.Answer
		want   int
	}{
		{failed("manifest", server.Failed, "1", upstreamError(cache.ErrUnavailable, 0, io.EOF)), 1},
		{failed("manifest", server.Failed, "1", nil), 0},
		{failed("blob", server.Failed, "", context.Canceled), 0},
		{failed("blob", server.Failed, "", cache.ErrClosed), 0},
		{failed("blob", server.Left, "", errors.New("gone")), 0},
		{failed("manifest", server.Hit, "1", errors.New("x")), 0},
		{failed("manifest", server.Stale, "1", upstreamError(cache.ErrUnavailable, 0, io.EOF)), 0}, // it was answered
		{failed("manifest", server.Refused, "1", errors.New("log in")), 0},
		{failed("manifest", server.Refused, "1", upstreamError(cache.ErrDenied, 403, nil)), 1},
		{failed("manifest", server.Absent, "1", upstreamError(cache.ErrNotFound, 404, nil)), 1},
		{failed("manifest", server.Absent, "sha256-abc.sig", upstreamError(cache.ErrNotFound, 404, nil)), 0},
		{failed("blob", server.Absent, "", upstreamError(cache.ErrNotFound, 404, nil)), 0},
	}
	for _, tt := range tests {
		r := NewRecorder(RecorderOptions{})
		r.Answered(tt.answer)
		if _, _, all := r.snapshot(time.Now()); len(all) != tt.want {
			t.Errorf("%+v: %+v", tt.answer, all)
		}
	}
}

// The cache and its remotes tell what becomes of them.
func TestOtherProblems(t *testing.T) {
	r := NewRecorder(RecorderOptions{})
	before := r.changes()
	r.Evicted(cache.Eviction{})
	r.FillEnded(cache.FillEnd{})
	r.Answered(server.Answer{Kind: "manifest", Result: server.Miss, Fetched: true})
	r.FillEnded(cache.FillEnd{Err: cache.ErrClosed})
	r.RoomChanged(cache.Room{})
	r.RemoteChanged(Remote{Host: "a", State: "online", Good: true})
	r.RemoteChanged(Remote{Host: "a", State: "held", Reason: "offline mode is on"})
	if _, _, all := r.snapshot(time.Now()); len(all) != 0 || r.changes() != before+3 {
		t.Errorf("%+v, %d changes", all, r.changes()-before)
	}
	r.RoomChanged(cache.Room{Short: true, Reason: "cache.maxsize is reached"})
	r.RemoteChanged(Remote{Host: "a", State: "offline", Reason: "dial tcp: connection refused"})
	r.RemoteChanged(Remote{Host: "a", State: "offline", Reason: "dial tcp: lookup a: no such host"})
	r.FillEnded(cache.FillEnd{Unstored: cache.ErrNoSpace})
	r.Problem("seeding has failed\nhere", "look there")
	_, _, all := r.snapshot(time.Now())
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	for _, p := range all {
		if p.Hint == "" || strings.Contains(p.Text, "\n") || p.Times != 1 && !strings.HasPrefix(p.Text, "a is offline") {
			t.Errorf("%+v", p)
		}
	}
}

// What was found damaged is a problem, once for each time that there is more of it.
func TestDamageIsAProblem(t *testing.T) {
	r := NewRecorder(RecorderOptions{})
	for _, damaged := range []int64{0, 1, 1, 1, 3, 3} {
		r.health(cache.Health{Damaged: damaged, Healed: 1})
	}
	_, _, all := r.snapshot(time.Now())
	if len(all) != 1 || all[0].Times != 2 || !strings.Contains(all[0].Text, "3 blobs") || all[0].Hint == "" {
		t.Errorf("%+v", all)
	}
}

// All of it can be used at the same time; the race detector looks.
func TestRecorderConcurrently(t *testing.T) {
	r := NewRecorder(RecorderOptions{Fetched: func() int64 { return 1 }})
	s := New(Options{Recorder: r, Images: images(100, nil), Actions: &fakeActions{}, Token: token})
	defer s.Close()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 10 {
				r.Answered(server.Answer{Kind: "manifest", Result: server.Failed, Fetched: true, Bytes: 3, Err: upstreamError(cache.ErrUnavailable, 500+i, io.EOF)})
				r.FillEnded(cache.FillEnd{Err: cache.ErrNoSpace})
				r.Evicted(cache.Eviction{})
				r.Problem(fmt.Sprint("problem ", i, j), "")
				s.State(t.Context())
				get(t, s, "/images?sort="+sorts[j%len(sorts)])
				send(t, s, "POST", "/actions/reload", "", "Authorization", "Bearer "+goodToken)
			}
		})
	}
	all.Wait()
	if traffic, _, _ := r.snapshot(time.Now()); traffic.Failed != 80 || traffic.Served != 240 {
		t.Errorf("%+v", traffic)
	}
}

func BenchmarkAnswered(b *testing.B) {
	r := NewRecorder(RecorderOptions{Fetched: func() int64 { return 1 }})
	a := server.Answer{Kind: "blob", Result: server.Hit, Bytes: 1 << 20, Took: time.Millisecond, Place: cache.Place{Host: "a.example.com"}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Answered(a)
		}
	})
}

func BenchmarkState(b *testing.B) {
	s := New(Options{Stats: func(context.Context) (cache.Stats, error) {
		return cache.Stats{Fills: make([]cache.FillStats, 20)}, nil
	}})
	defer s.Close()
	r := s.opts.Recorder
	for m := range 48 * 60 {
		now := time.Now().Add(time.Duration(-m) * time.Minute)
		r.history.add(now, now, 1, hits)
	}
	for i := range MaxProblems {
		r.Problem(strings.Repeat("x", i+1), "y")
	}
	b.ReportAllocs()
	var size int
	for b.Loop() {
		s.looker.forget()
		size = len(s.looker.look(b.Context()).whole())
	}
	b.ReportMetric(float64(size), "bytes")
	b.ReportMetric(float64(len(s.looker.look(b.Context()).brief)), "brief-bytes")
}
