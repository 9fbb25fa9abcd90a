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
	"testing"

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
	t.Run("refusing", func(t *testing.T) {
		reg, _ := sample(t)
		p := newProxy(t, reg.Host())
		for _, remote := range []string{"http://registry.example.com", "https://registry.example.com"} {
			r := newRemote(t, upstream.Options{URL: remote, Proxy: p.via(url.UserPassword("me", "secret, but wrong"))})
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			wantKind(t, err, cache.ErrUnavailable)
			if !strings.Contains(strings.ToLower(err.Error()), "proxy") {
				t.Errorf("error %q does not name the proxy", err)
			}
		}
		wantRequests(t, reg, nil)
	})
	t.Run("away", func(t *testing.T) {
		r := newRemote(t, upstream.Options{URL: "http://registry.example.com", Proxy: http.ProxyURL(&url.URL{
			Scheme: "http", Host: "127.0.0.1:1", User: url.UserPassword("me", "secret"),
		})})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrUnavailable)
	})
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
