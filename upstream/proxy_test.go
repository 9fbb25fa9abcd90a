package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// proxy is an HTTP proxy that takes all hosts to one address.
type proxy struct {
	*httptest.Server

	mu    sync.Mutex
	asked []string // "METHOD host", in order
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(req *httputil.ProxyRequest) { req.Out.URL.Host = to },
		Transport: &http.Transport{
			DialContext: dialLoopback, DisableKeepAlives: true, DisableCompression: true,
		},
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, req.Method+" "+req.Host)
		p.mu.Unlock()
		if user, password, ok := proxyAuth(req); ok && (user != "me" || password != "secret") {
			http.Error(w, "no", http.StatusProxyAuthRequired)
			return
		}
		if req.Method == http.MethodConnect {
			tunnel(w, to)
			return
		}
		forward.ServeHTTP(w, req)
	}))
	t.Cleanup(p.Close)
	return p
}

func proxyAuth(req *http.Request) (user, password string, ok bool) {
	as := &http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
	return as.BasicAuth()
}

// tunnel connects the client with addr until one of them leaves.
func tunnel(w http.ResponseWriter, addr string) {
	out, err := net.Dial("tcp", addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.Close()
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			pair[0].Close()
			pair[1].Close()
		})
	}
	wg.Wait()
}

func (p *proxy) seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.asked, ", ")
}

func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = nil
}

// via sends all through p, with these credentials.
func (p *proxy) via(user *url.Userinfo) func(*http.Request) (*url.URL, error) {
	return http.ProxyURL(&url.URL{Scheme: "http", Host: p.Listener.Addr().String(), User: user})
}

func TestProxy(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		reg, _ := sample(t)
		p := newProxy(t, reg.Host())
		r := newRemote(t, upstream.Options{URL: "http://registry.example.com", Proxy: p.via(url.UserPassword("me", "secret"))})
		get(t, r, "a/b", "v1")
		if want := "GET registry.example.com, GET registry.example.com"; p.seen() != want {
			t.Errorf("the proxy was asked %s, want %s", p.seen(), want)
		}
		wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.ManifestGet: 1})
	})
	t.Run("https", func(t *testing.T) {
		ca := ut.NewCA(t)
		config := ca.ServerConfig(nil)
		reg := ut.NewWith(t, ut.Options{TLS: config})
		reg.AddRandomImage("a/b", "v1", 1, 10)
		reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "secret"})
		p := newProxy(t, reg.Host())
		r := newRemote(t, upstream.Options{
			URL: "https://localhost:5000", Proxy: p.via(nil), CAFile: write(t, "ca.pem", ca.PEM()),
			Credentials: auth.Static("me", "secret"),
		})
		get(t, r, "a/b", "v1")
		if want := "CONNECT localhost:5000"; p.seen() != want {
			t.Errorf("the proxy was asked %s, want %s", p.seen(), want)
		}
	})
	t.Run("away", func(t *testing.T) {
		for _, remote := range []string{"http://registry.example.com", "https://registry.example.com"} {
			r := newRemote(t, upstream.Options{URL: remote, Proxy: http.ProxyURL(&url.URL{
				Scheme: "http", Host: "127.0.0.1:1", User: url.UserPassword("me", "secret"),
			})})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, cache.ErrUnavailable)
			if !strings.Contains(err.Error(), "the HTTP proxy 127.0.0.1:1 cannot be reached: ") {
				t.Errorf("error %q does not name the proxy", err)
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the cause of %q is lost", err)
			}
		}
	})
	t.Run("unreadable address", func(t *testing.T) {
		r := newRemote(t, upstream.Options{URL: "http://registry.example.com", Proxy: func(*http.Request) (*url.URL, error) {
			return url.Parse(strings.Join([]string{"http://me:sec", "ret@proxy.example.com"}, " "))
		}})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrUnavailable)
		if !strings.Contains(err.Error(), "the address of the HTTP proxy cannot be read") || strings.Contains(err.Error(), "sec") {
			t.Errorf("error is %q", err)
		}
	})
}

// TestProxyRefuses has a proxy say no, to CONNECT and to requests that it is to
// forward.
func TestProxyRefuses(t *testing.T) {
	const plain, secure = "http://registry.example.com", "https://registry.example.com"
	me := url.UserPassword("me", "secret")
	for name, tt := range map[string]struct {
		remote string
		status int
		user   *url.Userinfo
		kind   error
		says   string
	}{
		"wants credentials":          {secure, 407, nil, cache.ErrUnavailable, "wants a user name and a password: put them into its address (HTTP status 407)"},
		"takes not these":            {secure, 407, me, cache.ErrUnavailable, "does not accept the user name and the password that are in its address (HTTP status 407)"},
		"does not allow the host":    {secure, 403, me, cache.ErrUnavailable, "does not let us through to this host: it has to be allowed there (HTTP status 403)"},
		"cannot reach the host":      {secure, 502, me, cache.ErrUnavailable, "cannot connect us with this host (HTTP status 502)"},
		"is no proxy":                {secure, 405, me, cache.ErrUnavailable, "refuses to connect us with this host (HTTP status 405)"},
		"http: wants credentials":    {plain, 407, nil, cache.ErrUnavailable, "wants a user name and a password: put them into its address (HTTP status 407)"},
		"http: takes not these":      {plain, 407, me, cache.ErrUnavailable, "does not accept the user name and the password that are in its address (HTTP status 407)"},
		"http: cannot tell it apart": {plain, 403, me, cache.ErrDenied, "(HTTP status 403)"},
	} {
		t.Run(name, func(t *testing.T) {
			refuse := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "secret", tt.status)
			}))
			defer refuse.Close()
			p := &proxy{Server: refuse}
			r := newRemote(t, upstream.Options{URL: tt.remote, Proxy: p.via(tt.user)})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, tt.kind)
			if tt.kind == cache.ErrUnavailable {
				tt.says = "the HTTP proxy " + p.Listener.Addr().String() + " " + tt.says
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q does not say %q", err, tt.says)
			}
		})
	}
}

// TestProxyHangs has a proxy accept connections, and not answer CONNECT, or not to its
// end.
func TestProxyHangs(t *testing.T) {
	for name, tt := range map[string]struct{ begin, again string }{
		"nothing":      {},
		"no end":       {begin: "HTTP/1.1 200 OK\r\n"},
		"byte by byte": {begin: "HTTP/1.1 200 OK\r\nX: ", again: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all sync.WaitGroup
				dial := func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := net.Pipe()
					all.Go(func() {
						defer theirs.Close()
						_, err := theirs.Read(make([]byte, 1<<10))
						for say := tt.begin; err == nil; say = tt.again {
							if say != "" {
								_, err = io.WriteString(theirs, say)
							}
							if err == nil && tt.again == "" {
								_, err = theirs.Read(make([]byte, 1))
							}
							time.Sleep(time.Second)
						}
					})
					return ours, nil
				}
				s := new(upstream.Switch)
				r := newRemote(t, upstream.Options{
					URL: "https://registry.example.com", DialContext: dial, Switch: s,
					ConnectTimeout: 3 * time.Second, TLSTimeout: 4 * time.Second,
					Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example.com:3128"}),
				})
				start := time.Now()
				_, err := r.Manifest(t.Context(), "a/b", "v1")
				wantKind(t, err, cache.ErrUnavailable)
				if took := time.Since(start); took != 7*time.Second {
					t.Errorf("it has taken %v, want 7s", took)
				}
				if want := "the HTTP proxy proxy.example.com:3128 cannot be reached: no connection by way of it within 7s"; !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
				s.Set(errLinkIsDear) // what the transport still waits for
				all.Wait()
			})
		})
	}
}

// TestProxyIsSlow has an answer take longer than a connection may take.
func TestProxyIsSlow(t *testing.T) {
	ca := ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
	img := reg.AddRandomImage("a/b", "v1", 1, 10)
	p := newProxy(t, reg.Host())
	r := newRemote(t, upstream.Options{
		URL: "https://localhost:5000", Proxy: p.via(nil), CAFile: write(t, "ca.pem", ca.PEM()),
		ConnectTimeout: 500 * time.Millisecond, TLSTimeout: 500 * time.Millisecond,
	})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Delay: 1200 * time.Millisecond})
	if d, err := r.Resolve(t.Context(), "a/b", "v1", ""); err != nil || d.Digest != img.Digest {
		t.Errorf("resolves to %+v, %v", d, err)
	}
}

// TestProxyRefusesTheTokenService lets requests to the registry pass.
func TestProxyRefusesTheTokenService(t *testing.T) {
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "http://auth.example.com/token"})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 407})
	p := newProxy(t, reg.Host())
	r := newRemote(t, upstream.Options{URL: "http://registry.example.com", Proxy: p.via(url.UserPassword("me", "secret"))})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	if want := "the HTTP proxy " + p.Listener.Addr().String() + " does not accept"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}

// proxyChild makes the test program a client that takes its proxy from the
// environment: net/http reads that once in the life of a process.
const proxyChild = "UPSTREAM_TEST_PROXY_CHILD"

func TestProxyFromEnvironment(t *testing.T) {
	reg, _ := sample(t)
	p := newProxy(t, reg.Host())
	for _, test := range []struct {
		noProxy string
		says    string
		asked   string
	}{
		{"", "ok", "GET registry.example.com, GET registry.example.com"},
		{"other.example.com,.example.com", "a test leaves loopback", ""},
	} {
		p.forget()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), proxyChild+"=1", "HTTP_PROXY="+p.URL, "http_proxy=", "NO_PROXY="+test.noProxy, "no_proxy=")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), test.says) {
			t.Errorf("NO_PROXY=%s: %v, %s", test.noProxy, err, out)
		}
		if p.seen() != test.asked {
			t.Errorf("NO_PROXY=%s: the proxy was asked %q, want %q", test.noProxy, p.seen(), test.asked)
		}
	}
}

// runProxyChild asks for a manifest and says what came of it.
func runProxyChild() int {
	r, err := upstream.New(upstream.Options{URL: "http://registry.example.com", DialContext: dialLoopback})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = r.Manifest(context.Background(), "a/b", "v1")
	if err != nil && !errors.Is(err, cache.ErrUnavailable) {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ok", err)
	return 0
}
