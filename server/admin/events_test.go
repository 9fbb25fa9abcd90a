package admin

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/server"
)

// An event comes at once, and then at most one a second, where something has changed.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := NewRecorder(RecorderOptions{})
		s := New(Options{Recorder: rec})
		defer s.Close()
		to := newStream()
		leave, done := watch(t, s, to)
		synctest.Wait()
		if states, _ := to.events(t); len(states) != 1 || states[0].History == nil {
			t.Fatalf("%+v", states)
		}
		if got := to.Header().Get("Content-Type"); got != "text/event-stream" {
			t.Error(got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if states, comments := to.events(t); len(states) != 1 || comments != 0 {
			t.Errorf("nothing has changed: %d events, %d comments", len(states), comments)
		}
		// A hundred requests a second, for ten seconds.
		for range 1000 {
			rec.Answered(server.Answer{Kind: "blob", Result: server.Hit, Bytes: 1000})
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		states, _ := to.events(t)
		if len(states) < 10 || len(states) > 13 {
			t.Errorf("%d events", len(states))
		}
		last := states[len(states)-1]
		if last.Traffic.Hits != 1000 || last.Traffic.Served != 1_000_000 {
			t.Errorf("%+v", last.Traffic)
		}
		if last.History != nil {
			t.Error("history comes each second")
		}
		// It is there again when there is another sample.
		time.Sleep(time.Minute)
		rec.Answered(server.Answer{Kind: "blob", Result: server.Hit})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		states, comments := to.events(t)
		if last := states[len(states)-1]; len(last.History) != 2 {
			t.Errorf("%+v", last)
		}
		if comments < 3 || comments > 5 {
			t.Errorf("%d comments in a minute", comments)
		}
		leave()
		<-done
		synctest.Wait()
		if s.hub.stop != nil || len(s.hub.viewers) != 0 {
			t.Error("somebody still looks")
		}
	})
}

// There are MaxViewers, no more, one State for all of them, and nothing when they have left.
func TestViewersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		s := New(Options{Remotes: func() []Remote { looks.Add(1); return nil }})
		defer s.Close()
		var leave []func()
		var done []chan struct{}
		for range MaxViewers {
			l, d := watch(t, s, newStream())
			leave, done = append(leave, l), append(done, d)
		}
		synctest.Wait()
		w := get(t, s, "/events")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "too many") {
			t.Errorf("status %d, %v, %s", w.Code, w.Header(), w.Body)
		}
		if looks.Load() != 1 {
			t.Errorf("%d looks", looks.Load())
		}
		time.Sleep(10500 * time.Millisecond)
		if n := looks.Load(); n > 12 {
			t.Errorf("%d looks in 10 seconds", n)
		}
		leave[0]() // makes room for one
		<-done[0]
		to := newStream()
		leave[0], done[0] = watch(t, s, to)
		synctest.Wait()
		if states, _ := to.events(t); len(states) != 1 {
			t.Errorf("%d events", len(states))
		}
		for i := range leave {
			leave[i]()
			<-done[i]
		}
		synctest.Wait()
		before := looks.Load()
		time.Sleep(time.Hour)
		if looks.Load() != before {
			t.Error("it looks while nobody does")
		}
		// That no goroutine is left is what the end of the bubble waits for.
	})
}

// Who takes nothing is dropped, and holds up nobody.
func TestStuckViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := NewRecorder(RecorderOptions{})
		s := New(Options{Recorder: rec})
		defer s.Close()
		stuck, other := newStream(), newStream()
		_, dropped := watch(t, s, stuck)
		leave, done := watch(t, s, other)
		synctest.Wait()
		stuck.stuck.Store(true)
		begun := time.Now()
		time.Sleep(lookEvery / 2) // not when it is looked
		for range 8 {
			rec.Answered(server.Answer{Kind: "blob", Result: server.Hit})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if states, _ := other.events(t); len(states) < 8 {
			t.Errorf("the other one has %d events", len(states))
		}
		<-dropped
		if took := time.Since(begun); took > viewerPatience+2*time.Second {
			t.Errorf("dropped after %v", took)
		}
		leave()
		<-done
	})
}

// Streams end at shutdown, and none begins any more.
func TestEventsEndAtShutdown(t *testing.T) {
	s := New(Options{})
	srv := httptest.NewUnstartedServer(s)
	srv.Config.RegisterOnShutdown(s.Close)
	srv.Start()
	defer srv.Close()
	var ended sync.WaitGroup
	for range 3 {
		resp, err := srv.Client().Get(srv.URL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: {") {
		}
		ended.Go(func() {
			for lines.Scan() {
			}
			_ = resp.Body.Close() // it was only read
		})
	}
	if err := srv.Config.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	ended.Wait()
	if w := get(t, s, "/events"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.Code)
	}
	s.Close() // again
}

// Who connects and disconnects all the time leaves nothing; goleak looks.
func TestViewersComeAndGo(t *testing.T) {
	s := New(Options{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	defer s.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				resp, err := srv.Client().Get(srv.URL + "/events")
				if err != nil {
					t.Error(err)
					return
				}
				if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("status %d", resp.StatusCode)
				}
				_ = resp.Body.Close() // it leaves
			}
		})
	}
	all.Wait()
}
