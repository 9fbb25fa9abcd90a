package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestNoConnection tells what is wrong with all that could be asked of the remote from
// what may be wrong with one answer.
func TestNoConnection(t *testing.T) {
	ca := ut.NewCA(t)
	trusted := upstream.Options{CAFile: write(t, "ca.pem", ca.PEM())}
	dials := func(err error) upstream.Options {
		return upstream.Options{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refuses.Close()
	address, err := url.Parse(refuses.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		opts  upstream.Options
		fault ut.Fault
		want  bool
	}{
		"refused":              {dials(&net.OpError{Op: "dial", Err: errors.New("refused")}), ut.Fault{}, true},
		"no name":              {dials(&net.DNSError{Err: "no such host", IsNotFound: true}), ut.Fault{}, true},
		"another certificate":  {upstream.Options{}, ut.Fault{}, true},
		"refused by the proxy": {upstream.Options{Proxy: http.ProxyURL(address)}, ut.Fault{}, true},
		"no answer":            {trusted, ut.Fault{Hang: true}, false},
		"hangs up":             {trusted, ut.Fault{Drop: true}, false},
		"503":                  {trusted, ut.Fault{Status: 503}, false},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
			reg.AddRandomImage("a/b", "v1", 1, 10)
			if tt.fault.Hang || tt.fault.Drop || tt.fault.Status != 0 {
				reg.Script(tt.fault)
			}
			tt.opts.URL, tt.opts.HeaderTimeout = reg.URL(), 100*time.Millisecond
			r := newRemote(t, tt.opts)
			_, err := r.Manifest(t.Context(), "a/b", "v1")
			if e := wantKind(t, err, cache.ErrUnavailable); e.NoConnection != tt.want {
				t.Errorf("no connection: %v, want %v: %v", e.NoConnection, tt.want, err)
			}
			reg.Heal()
		})
	}
}

// TestDeadConnection has a connection that was made before turn out to be dead, and no
// other one be made.
func TestDeadConnection(t *testing.T) {
	reg, _ := sample(t)
	var conns []net.Conn
	away := false
	r := newRemote(t, upstream.Options{URL: reg.URL(), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if away {
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}
		c, err := dialLoopback(ctx, network, addr)
		conns = append(conns, c)
		return c, err
	}})
	get(t, r, "a/b", "v1")
	away = true
	for _, c := range conns {
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	if e := wantKind(t, err, cache.ErrUnavailable); !e.NoConnection {
		t.Errorf("%+v", e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err = r.Manifest(ctx, "a/b", "v1")
	if e := wantKind(t, err, cache.ErrUnavailable); e.NoConnection {
		t.Errorf("the caller did not wait: %+v", e)
	}
}
