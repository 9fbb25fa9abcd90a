package accept_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"registry-module/server/accept"
)

const request = "GET / HTTP/1.1\r\nHost: registry.test\r\n\r\n"

// ask sends a request over a connection that stays open, and reads the answer.
func ask(c net.Conn, path string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: registry.test\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// askIdle is ask, and waits until the server knows that there is nothing more.
func askIdle(t *testing.T, s *site, c net.Conn) {
	t.Helper()
	before := s.idled.Load()
	if err := ask(c, "/"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is idle", func() bool { return s.idled.Load() > before })
}

// closed waits for the server to close c, or returns false if it does not soon.
func closed(c net.Conn, wait time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	_, err := c.Read(make([]byte, 1))
	_ = c.SetReadDeadline(time.Time{})
	return err != nil && !timedOut(err)
}

// Who has been idle for longest goes first, however it is idle.
func TestLongestIdleGoes(t *testing.T) {
	secured, client := plainTLS(t)
	for name, tt := range map[string]struct {
		opts  accept.Options
		idles func(t *testing.T, s *site) net.Conn
	}{
		"silent": {accept.Options{}, func(t *testing.T, s *site) net.Conn { return s.dial(t) }},
		"silent, with TLS configured": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			return s.dial(t)
		}},
		"half a request": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			c := s.dial(t)
			if _, err := io.WriteString(c, request[:20]); err != nil {
				t.Error(err)
			}
			return c
		}},
		"half a handshake": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			c := s.dial(t)
			if _, err := io.WriteString(c, "\x16\x03\x01\x01"); err != nil {
				t.Error(err)
			}
			return c
		}},
		"after a request": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			c := s.dial(t)
			askIdle(t, s, c)
			return c
		}},
		"TLS, after a request": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			c := tls.Client(s.dial(t), client)
			askIdle(t, s, c)
			return c
		}},
		"TLS, after a handshake": {accept.Options{TLS: secured}, func(t *testing.T, s *site) net.Conn {
			c := tls.Client(s.dial(t), client)
			if err := c.Handshake(); err != nil {
				t.Error(err)
			}
			return c
		}},
	} {
		t.Run(name, func(t *testing.T) {
			const most = 4
			tt.opts.MaxConns = most
			s := serve(t, "tcp", tt.opts, text("ok"))
			var idle []net.Conn
			for range most {
				idle = append(idle, tt.idles(t, s))
			}
			for i, c := range idle {
				fresh := s.dial(t) // stays
				askIdle(t, s, fresh)
				if !closed(c, 30*time.Second) {
					t.Errorf("%d is still open", i)
				}
				for _, c := range idle[i+1:] {
					if closed(c, time.Millisecond) {
						t.Errorf("one after %d is closed", i)
					}
				}
			}
			if !strings.Contains(s.log.String(), "was closed to make room") {
				t.Errorf("log: %s", s.log)
			}
		})
	}
}

// A request that has come in on an idle connection, and that the server has not got round
// to reading, is not lost to make room, unless it gets to none of them.
func TestRequestIsNotLost(t *testing.T) {
	for name, tt := range map[string]struct {
		asks []bool // which of the connections have a request, the longest idle first
		goes int
	}{
		"the longest idle": {[]bool{true, false, false}, 1},
		"two of them":      {[]bool{true, true, false}, 2},
		"the last one":     {[]bool{false, false, true}, 0},
		"all of them":      {[]bool{true, true, true}, 0},
		"nobody":           {[]bool{false, false, false}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := accept.New(inner, accept.Options{MaxConns: len(tt.asks)})
			defer func() { _ = l.Close() }() // nobody listens
			next := func() (client, server net.Conn) {
				t.Helper()
				client, err := net.Dial("tcp", inner.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				if server, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _, _ = client.Close(), server.Close() }) // some are closed already
				l.ConnState(server, http.StateNew)
				return client, server
			}
			var servers []net.Conn
			for _, asks := range tt.asks {
				client, server := next()
				l.ConnState(server, http.StateActive)
				l.ConnState(server, http.StateIdle)
				if asks {
					if _, err := io.WriteString(client, request); err != nil {
						t.Fatal(err)
					}
				}
				servers = append(servers, server)
			}
			next()
			for i, server := range servers {
				err := server.SetReadDeadline(time.Now().Add(time.Minute))
				if gone := errors.Is(err, net.ErrClosed); gone != (i == tt.goes) {
					t.Errorf("%d is closed: %v", i, gone)
				}
			}
		})
	}
}

// Who is being answered is never closed: others wait, and get their turn.
func TestBusyStays(t *testing.T) {
	const most = 3
	proceed := make(chan struct{})
	var busy atomic.Int32
	s := serve(t, "tcp", accept.Options{MaxConns: most}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			busy.Add(1)
			<-proceed
		}
		_, _ = io.WriteString(w, "ok")
	}))
	done := make(chan error, most)
	for range most {
		go func() {
			c, err := net.Dial("tcp", s.addr)
			if err == nil {
				err = ask(c, "/slow")
				_ = c.Close() // it was read
			}
			done <- err
		}()
	}
	eventually(t, "all are busy", func() bool { return busy.Load() == most })
	others := make(chan error, 10)
	for range cap(others) {
		go func() {
			c, err := net.Dial("tcp", s.addr)
			if err == nil {
				err = ask(c, "/")
				_ = c.Close() // it was read
			}
			others <- err
		}()
	}
	eventually(t, "a line", func() bool { return strings.Contains(s.log.String(), "new ones have to wait") })
	select {
	case err := <-others:
		t.Errorf("one more is served: %v", err)
	default:
	}
	close(proceed)
	for range most {
		if err := <-done; err != nil {
			t.Errorf("a response was cut off: %v", err)
		}
	}
	for range cap(others) {
		if err := <-others; err != nil {
			t.Error(err)
		}
	}
}

// Ten thousand who say nothing and a thousand who say half of it keep nobody from pulling,
// and take no more memory than as many connections as there may be.
func TestCrowd(t *testing.T) {
	const most = 1000
	silent, halves := 10_000, 1_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if room := int(min(limit.Cur, 1<<20)) - most - 200; room < silent+halves {
		silent, halves = room*10/11, room/11 // all are in this process
	}
	secured, client := plainTLS(t)
	large := strings.Repeat("x", 1<<20)
	began, proceed := make(chan struct{}), make(chan struct{})
	s := serve(t, "tcp", accept.Options{TLS: secured, MaxConns: most}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			close(began)
			<-proceed
		}
		_, _ = io.WriteString(w, large)
	}))
	// One pull is under way all the time.
	slow := make(chan error, 1)
	go func() {
		resp, err := s.client(t, client).Get("https://registry.test/slow")
		if err == nil {
			var n int64
			if n, err = io.Copy(io.Discard, resp.Body); err == nil && n != int64(len(large)) {
				err = fmt.Errorf("%d bytes", n)
			}
			_ = resp.Body.Close() // it was read
		}
		slow <- err
	}()
	<-began

	before, goroutines := memory(), runtime.NumGoroutine()
	// As long as a header may be.
	half := []byte(request[:len(request)-2] + "X-Long: " + strings.Repeat("x", 14<<10))
	for i := range silent + halves {
		c := s.dial(t)
		if i%11 == 0 && i/11 < halves {
			if _, err := c.Write(half); err != nil {
				t.Fatal(err)
			}
		}
		if i%1000 == 0 {
			s.want(t, nil, large)
			s.want(t, client, large)
		}
	}
	s.want(t, client, large)
	grown, more := memory()-before, runtime.NumGoroutine()-goroutines
	t.Logf("%d KiB and %d goroutines for %d connections", grown>>10, more, most)
	// One to read or serve each; a second where a request is being served.
	if more > most+50 {
		t.Errorf("%d goroutines", more)
	}
	// Those of the test are small: 1 KiB a connection is enough.
	if bound := int64(most*64<<10 + (silent+halves)<<10); grown > bound {
		t.Errorf("%d bytes, want at most %d", grown, bound)
	}
	close(proceed)
	if err := <-slow; err != nil {
		t.Errorf("the pull that was under way: %v", err)
	}
}

// memory returns what is in use, without garbage.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func TestMaxConns(t *testing.T) {
	const plenty = ^uint64(0)
	for _, tt := range []struct {
		files, memory uint64
		want          int
	}{
		{0, plenty, 1}, {1, plenty, 1}, {64, plenty, 16}, {1024, plenty, 384}, {4096, plenty, 1920}, {1 << 20, plenty, 4096}, {plenty, plenty, 4096},
		{plenty, 0, 1}, {plenty, 256 << 20, 256}, {plenty, 1 << 30, 1024}, {1024, 1 << 30, 384}, {plenty, 4 << 30, 4096},
	} {
		if got := accept.MaxConns(tt.files, tt.memory); got != tt.want {
			t.Errorf("%d connections with %d files and %d bytes, want %d", got, tt.files, tt.memory, tt.want)
		}
	}
}

// What others have written is one line, and short.
func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"CN=press-1":                   "CN=press-1",
		"":                             `""`,
		"a\nb":                         `"a\nb"`,
		"\x1b[1m":                      `"\x1b[1m"`,
		"ü":                            "ü",
		"a\xff":                        `"a\xff"`,
		strings.Repeat("ü", 100) + "x": strings.Repeat("ü", 100) + "...",
	} {
		if got := accept.Clean(text, 200); got != want {
			t.Errorf("%q becomes %s, want %s", text, got, want)
		}
	}
}
