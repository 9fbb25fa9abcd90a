package server_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"registry-module/upstream/upstreamtest"
)

// A hundred clients who want what is not stored, of a remote that can be connected to and
// says nothing, are told so soon after the limit for headers, and few are asked at once.
func TestNoHeaders(t *testing.T) {
	for name, tt := range map[string]struct {
		path string
		most time.Duration
	}{
		"tags":  {"/v2/a/b/manifests/v%d", headers + 6*time.Second},
		"blobs": {"/v2/a/b/blobs/sha256:%064d", 2 * headers}, // two questions
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.AddRandomImage("a/b", "v", 1, 100)
				l.setDial(func(context.Context) (net.Conn, error) { return l.network.connect() }) // and count
				l.Script(upstreamtest.Fault{Hang: true})
				for range 3 {
					var all sync.WaitGroup
					before := l.attempts()
					for i := range 100 {
						all.Go(func() {
							if a := l.see(fmt.Sprintf(tt.path, i)); a.status != 503 || a.retry == "" || a.took > tt.most {
								t.Errorf("%+v", a)
							}
						})
					}
					all.Wait()
					if n := l.attempts() - before; n > 12 {
						t.Errorf("%d connections and requests", n)
					}
				}
				l.Heal()
				if a := l.see("/v2/a/b/manifests/v"); a.status != 200 || a.took != 0 {
					t.Errorf("when it is back: %+v", a)
				}
			})
		})
	}
}

// A repository that hangs makes nobody wait who wants another one.
func TestHangingRepository(t *testing.T) {
	inLab(t, func(l *lab) {
		l.AddRandomImage("good/a", "v1", 1, 100)
		hangs := func(r upstreamtest.Request) bool { return r.Repo == "bad/a" }
		l.Script(upstreamtest.Fault{Match: hangs, Hang: true})
		ctx, stop := context.WithCancel(l.Context())
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				for ctx.Err() == nil {
					if a := l.see(fmt.Sprintf("/v2/bad/a/manifests/v%d", i)); a.status != http.StatusServiceUnavailable {
						t.Errorf("%+v", a)
					}
					time.Sleep(time.Second)
				}
			})
		}
		time.Sleep(time.Second)
		for i := range 30 {
			tag := fmt.Sprint("t", i)
			l.AddRandomImage("good/a", tag, 1, 100)
			if a := l.see("/v2/good/a/manifests/" + tag); a.status != 200 || a.took > 6*time.Second {
				t.Errorf("%+v", a)
			}
			time.Sleep(20 * time.Second)
		}
		stop()
		all.Wait()
	})
}
