package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/upstream/upstreamtest"
)

// get asks for a blob over a connection of its own and reads what comes with the
// header. The response's body closes the connection.
func get(t *testing.T, addr, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			// The kernel must not take the whole blob in the client's place.
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: dial}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() }) // may be cut off
	return resp
}

// A signal to stop lets those who read on have their blob, and cuts off those
// who do not.
func TestStopping(t *testing.T) {
	quiet(t)
	up := upstreamtest.New(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	dgst := up.AddBlob("team/app", content)
	blob := "/v2/team/app/blobs/" + dgst.String()

	for _, state := range []string{"cold", "stored"} {
		t.Run(state, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir(), up.Host())
			cfg.Stock.HTTP.DrainTimeout = time.Minute
			stop := serving(t, cfg)
			if state == "stored" {
				if _, err := io.Copy(io.Discard, get(t, cfg.Addr, blob).Body); err != nil {
					t.Fatal(err)
				}
			}
			resp := get(t, cfg.Addr, blob)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				stop()
			}()
			waitUntilRefused(t, cfg.Addr)
			if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			<-stopped
		})
	}

	t.Run("stalled", func(t *testing.T) {
		cfg := testConfig(t, t.TempDir(), up.Host())
		cfg.Stock.HTTP.DrainTimeout = 300 * time.Millisecond
		stop := serving(t, cfg)
		resp := get(t, cfg.Addr, blob)
		begin := time.Now()
		stop() // reports an error of serve
		if d := time.Since(begin); d < cfg.Stock.HTTP.DrainTimeout || d > 5*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("a client that has stalled gets %d bytes and a proper end", n)
		}
	})
}

// waitUntilRefused tries to connect until nobody listens.
func waitUntilRefused(t *testing.T, addr string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		_ = c.Close() // nothing was sent
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it still listens")
		}
	}
}

// Handlers have returned when run returns, so that what they use can be closed.
func TestRunWaitsForHandlers(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := make(chan struct{})
	var returned atomic.Bool
	ts := httptest.NewUnstartedServer(nil) // for its listener
	server := newHTTPServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done() // ends with the connection
		for range 1000 {
			_ = logrus.New() // takes its time
		}
		returned.Store(true)
	}), log)
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, log, func() time.Duration { return time.Millisecond }, served{server, ts.Listener})
	}()
	c, err := net.Dial("tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-began
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !returned.Load() {
		t.Error("a handler is still running")
	}
}
