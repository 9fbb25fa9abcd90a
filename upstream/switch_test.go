package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

var errLinkIsDear = errors.New("the link is dear, write off")

// wantOffline fails unless err says that offline mode is on, and why.
func wantOffline(t *testing.T, err error) {
	t.Helper()
	wantKind(t, err, cache.ErrUnavailable)
	if !errors.Is(err, cache.ErrOffline) || !errors.Is(err, cache.ErrNotAsked) || !strings.Contains(err.Error(), errLinkIsDear.Error()) {
		t.Errorf("error %v, want one that says why nobody is asked", err)
	}
}

// wantHeld fails unless s has taken note of nothing more than that.
func wantHeld(t *testing.T, s *upstream.Switch, want int) {
	t.Helper()
	if got := s.Held(); got != want {
		t.Errorf("%d connections and efforts are noted, want %d", got, want)
	}
}

// links are the connections that a test has opened.
type links struct {
	mu  sync.Mutex
	all []*link
}

type link struct {
	net.Conn
	closed atomic.Bool
}

func (l *link) Close() error {
	l.closed.Store(true)
	return l.Conn.Close()
}

func (l *links) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := dialLoopback(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	opened := &link{Conn: c}
	l.all = append(l.all, opened)
	return opened, nil
}

// count returns how many were opened, and how many of them are open.
func (l *links) count() (opened, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.all {
		if !c.closed.Load() {
			open++
		}
	}
	return len(l.all), open
}

// counted are credentials that count how often they are asked for.
type counted struct{ asked atomic.Int32 }

func (c *counted) Authorization() (*authn.AuthConfig, error) {
	c.asked.Add(1)
	return &authn.AuthConfig{Username: "me", Password: "secret"}, nil
}

// allQuestions are questions, and what else can be asked.
func allQuestions() map[string]func(context.Context, *upstream.Remote) error {
	all := maps.Clone(questions)
	all["Challenge"] = func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.Challenge(ctx)
		return err
	}
	all["Login"] = func(ctx context.Context, r *upstream.Remote) error {
		_, err := r.Login(ctx, "a/b")
		return err
	}
	return all
}

// Nobody is asked, no connection is opened and no program for credentials is run,
// whatever is known of the remote already.
func TestOfflineAsksNobody(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		for name, ask := range allQuestions() {
			for _, state := range []string{"new", "used"} {
				t.Run(scheme+"/"+name+"/"+state, func(t *testing.T) {
					reg := stocked(t)
					reg.SetAuth(ut.Auth{Scheme: scheme, Username: "me", Password: "secret"})
					s, l, creds := new(upstream.Switch), new(links), new(counted)
					r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: s, DialContext: l.dial, Credentials: creds})
					if state == "used" {
						get(t, r, "a/b", "v1")
					}
					dials, _ := l.count()
					asked := creds.asked.Load()
					reg.ResetCounts()

					s.Set(errLinkIsDear)
					if _, open := l.count(); open > 0 {
						t.Errorf("%d connections are open", open)
					}
					wantOffline(t, ask(t.Context(), r))
					if again, _ := l.count(); again != dials || creds.asked.Load() != asked {
						t.Errorf("%d connections were opened, and credentials asked for %d times", again-dials, creds.asked.Load()-asked)
					}
					wantRequests(t, reg, nil)

					s.Set(nil)
					if err := ask(t.Context(), r); err != nil {
						t.Errorf("when it is off again: %v", err)
					}
				})
			}
		}
	}
}

// What is under way is cut off when offline mode is switched on, and its connections
// are closed before anything else happens.
func TestOfflineCutsOff(t *testing.T) {
	blob := ut.Generated(1<<20, 1)
	content, err := io.ReadAll(blob)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		tls, proxy, redirect bool
		kind                 ut.Kind
		gateAt               int64
	}{
		"challenge":            {kind: ut.Ping},
		"token":                {kind: ut.Token},
		"header":               {kind: ut.BlobGet},
		"body":                 {kind: ut.BlobGet, gateAt: 1000},
		"body by TLS":          {tls: true, kind: ut.BlobGet, gateAt: 1000},
		"redirected":           {redirect: true, kind: ut.CDNGet, gateAt: 1000},
		"by proxy":             {proxy: true, kind: ut.BlobGet, gateAt: 1000},
		"by proxy and TLS":     {proxy: true, tls: true, kind: ut.BlobGet, gateAt: 1000},
		"header by proxy, TLS": {proxy: true, tls: true, kind: ut.BlobGet},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := new(upstream.Switch), new(links)
			opts := upstream.Options{Switch: s, DialContext: l.dial}
			var with ut.Options
			if tt.tls {
				ca := ut.NewCA(t)
				with.TLS, opts.CAFile = ca.ServerConfig(nil), write(t, "ca.pem", ca.PEM())
			}
			reg := ut.NewWith(t, with)
			dgst := reg.AddBlob("a/b", content)
			reg.AddRandomImage("a/b", "v1", 1, 10)
			opts.URL = reg.URL()
			if tt.proxy {
				opts.Proxy = newProxy(t, reg.Host()).via(nil)
			}
			if tt.kind == ut.Token {
				reg.SetAuth(ut.Auth{Scheme: "Bearer"})
			}
			reg.SetRedirect(tt.redirect)
			gate := ut.NewGate()
			end := reg.Script(ut.Fault{Kinds: []ut.Kind{tt.kind}, Gate: gate, GateAt: tt.gateAt})
			r := newRemote(t, opts)

			failed := make(chan error, 1)
			var got int64
			go func() {
				stream, err := r.Blob(t.Context(), "a/b", dgst, cache.BlobPart{})
				if err == nil {
					got, err = io.Copy(io.Discard, stream.Body)
					err = errors.Join(err, ignore(stream.Body.Close()))
				}
				failed <- err
			}()
			<-gate.Reached()
			s.Set(errLinkIsDear)
			if opened, open := l.count(); opened == 0 || open > 0 {
				t.Errorf("%d of %d connections are open", open, opened)
			}
			wantOffline(t, <-failed)
			if got >= int64(len(content)) {
				t.Error("all has come")
			}
			gate.Open()
			end()
			s.Set(nil)
			get(t, r, "a/b", "v1")
			_ = r.Close() // idle connections
			wantHeld(t, s, 0)
		})
	}
}

// ignore says that an error does not matter.
func ignore(error) error { return nil }

// The other side gets a reset, and not a goodbye that the kernel repeats while nobody
// answers: also where the connection was closed before, and not because of offline mode.
func TestOfflineResets(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		end    func(*upstream.Switch, *upstream.Remote)
	}{
		"asked":              {"", func(s *upstream.Switch, _ *upstream.Remote) { s.Set(errLinkIsDear) }},
		"answered":           {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", func(s *upstream.Switch, _ *upstream.Remote) { s.Set(errLinkIsDear) }},
		"answered, and idle": {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", func(_ *upstream.Switch, r *upstream.Remote) { _ = r.Close() }},
		"last answer":        {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", nil},
		"no HTTP":            {"220 mail.example.com\r\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			asked, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					ended <- err
					return
				}
				defer c.Close()
				if _, err := c.Read(make([]byte, 1<<10)); err != nil {
					ended <- err
					return
				}
				if _, err := io.WriteString(c, tt.answer); err != nil {
					ended <- err
					return
				}
				close(asked)
				_, err = c.Read(make([]byte, 1))
				ended <- err
			}()
			s := new(upstream.Switch)
			// The connection is that of package net, whose lingering can be set.
			r := newRemote(t, upstream.Options{URL: "http://" + ln.Addr().String(), Switch: s})
			failed := make(chan error, 1)
			go func() { failed <- allQuestions()["Challenge"](t.Context(), r) }()
			<-asked
			if tt.answer != "" {
				err = <-failed
			}
			if tt.end != nil {
				tt.end(s, r)
			}
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection has ended with %v, want a reset", err)
			}
			if tt.answer == "" {
				wantOffline(t, <-failed)
			} else if errors.Is(err, cache.ErrOffline) {
				t.Errorf("error %v, and there was an answer", err)
			}
		})
	}
}

// A connection that is being opened is given up before Set returns, and if it comes
// all the same it is closed.
func TestOfflineWhileDialing(t *testing.T) {
	for name, late := range map[string]bool{"given up": false, "opened all the same": true} {
		t.Run(name, func(t *testing.T) {
			reg := stocked(t)
			s, l := new(upstream.Switch), new(links)
			dialing, ended := make(chan struct{}), new(atomic.Bool)
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				defer ended.Store(true)
				close(dialing)
				<-ctx.Done()
				if late {
					return l.dial(context.WithoutCancel(ctx), network, addr)
				}
				return nil, ctx.Err()
			}
			r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: s, DialContext: dial})
			failed := make(chan error, 1)
			go func() { failed <- questions["Tags"](t.Context(), r) }()
			<-dialing
			s.Set(errLinkIsDear)
			if !ended.Load() {
				t.Error("somebody dials")
			}
			wantOffline(t, <-failed)
			if _, open := l.count(); open > 0 {
				t.Errorf("%d connections are open", open)
			}
			wantRequests(t, reg, nil)
			wantHeld(t, s, 0)
		})
	}
}

// stuck are credentials that never come.
type stuck struct{ asked, left chan struct{} }

func (s stuck) Authorization() (*authn.AuthConfig, error) { panic("without a context") }

func (s stuck) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	close(s.asked)
	<-ctx.Done()
	close(s.left)
	return nil, ctx.Err()
}

// A program that is being run to get credentials is given up.
func TestOfflineWhileGettingCredentials(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			reg := stocked(t)
			reg.SetAuth(ut.Auth{Scheme: scheme, Username: "me", Password: "secret"})
			s, creds := new(upstream.Switch), stuck{make(chan struct{}), make(chan struct{})}
			r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: s, Credentials: creds})
			failed := make(chan error, 1)
			go func() { failed <- questions["StatBlob"](t.Context(), r) }()
			<-creds.asked
			s.Set(errLinkIsDear)
			<-creds.left
			wantOffline(t, <-failed)
		})
	}
}

// Nothing is remembered of connections that have ended by themselves.
func TestSwitchForgets(t *testing.T) {
	reg := stocked(t)
	s := new(upstream.Switch)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: s})
	for range 3 {
		get(t, r, "a/b", "v1")
		reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestGet}, Drop: true, Times: 2})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrUnavailable)
		if errors.Is(err, cache.ErrOffline) {
			t.Errorf("%v, and offline mode is off", err)
		}
	}
	reg.Heal()
	get(t, r, "a/b", "v1")
	if s.Held() > 1 {
		t.Errorf("%d connections are noted", s.Held())
	}
	s.Set(errLinkIsDear)
	wantHeld(t, s, 0)
}

// names is a name server that says nothing.
type names struct{ dials, queries atomic.Int32 }

func (n *names) dial(context.Context, string, string) (net.Conn, error) {
	n.dials.Add(1)
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for b := make([]byte, 1<<10); ; n.queries.Add(1) {
			if _, err := theirs.Read(b); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

// A name is not looked up, and a look-up that is under way is not gone on with, not
// even where several wait for it.
func TestOfflineLooksUpNoName(t *testing.T) {
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	// What package net makes at its first use, for all, must not be the bubble's.
	if _, err := before.LookupHost(t.Context(), "registry.test"); err == nil {
		t.Fatal("a test looks up a name")
	}
	synctest.Test(t, func(t *testing.T) {
		var n names
		net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: n.dial}
		s := new(upstream.Switch)
		r, err := upstream.New(upstream.Options{
			URL: "http://registry.test", Switch: s, ConnectTimeout: time.Hour,
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		other, err := upstream.New(upstream.Options{
			URL: "http://registry.test", Switch: s, ConnectTimeout: time.Hour,
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		failed := make(chan error, 2)
		for _, r := range []*upstream.Remote{r, other} {
			go func() { failed <- questions["Manifest"](t.Context(), r) }()
		}
		synctest.Wait()
		if n.queries.Load() == 0 {
			t.Fatal("the name is not looked up")
		}
		s.Set(errLinkIsDear)
		dials, queries := n.dials.Load(), n.queries.Load()
		wantOffline(t, <-failed)
		wantOffline(t, <-failed)
		time.Sleep(10 * time.Minute)
		wantOffline(t, questions["Manifest"](t.Context(), r))
		if n.dials.Load() != dials || n.queries.Load() != queries {
			t.Errorf("%d connections to name servers and %d queries afterwards", n.dials.Load()-dials, n.queries.Load()-queries)
		}
		wantHeld(t, s, 0)
	})
}

// answerLoopback is a name server by UDP that knows one address of all names, which it
// gives as an A record (RFC 1035, section 4).
func answerLoopback(t *testing.T) (addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = c.Close() // what it has to send does not matter
		<-done
	})
	go func() {
		defer close(done)
		b := make([]byte, 1<<10)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(b[12:n], 0) + 5 // of the question
			answer := append(bytes.Clone(b[:end]), 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
			copy(answer[2:], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0})
			if b[end-3] != 1 { // not the type A
				answer, answer[7] = answer[:end], 0
			}
			if _, err := c.WriteTo(answer, from); err != nil {
				return
			}
		}
	}()
	return c.LocalAddr().String()
}

// Names are looked up as ever while offline mode is off.
func TestNameIsLookedUp(t *testing.T) {
	server, dials := answerLoopback(t), new(atomic.Int32)
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dials.Add(1)
		return dialLoopback(ctx, network, server)
	}}
	reg := stocked(t)
	_, port, _ := net.SplitHostPort(reg.Host())
	s := new(upstream.Switch)
	r, err := upstream.New(upstream.Options{URL: "http://registry.test:" + port, Switch: s})
	if err != nil {
		t.Fatal(err)
	}
	get(t, r, "a/b", "v1")
	if dials.Load() == 0 {
		t.Error("nobody was asked for the name")
	}
	_ = r.Close() // idle connections
	wantHeld(t, s, 0)
}

// Contact can be ruled out and allowed by anybody at any time.
func TestSwitchConcurrently(t *testing.T) {
	reg := stocked(t)
	s := new(upstream.Switch)
	r := newRemote(t, upstream.Options{URL: reg.URL(), Switch: s})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 50 {
				if err := questions["Blob"](t.Context(), r); err != nil && !errors.Is(err, cache.ErrUnavailable) {
					t.Errorf("error %v, want none or ErrUnavailable", err)
				}
				if i == 0 {
					s.Set(errLinkIsDear)
				}
				if i < 2 {
					s.Set(nil)
				}
			}
		})
	}
	all.Wait()
	s.Set(errLinkIsDear)
	wantHeld(t, s, 0)
}
