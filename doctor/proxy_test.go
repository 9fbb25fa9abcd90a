package doctor_test

import (
	"encoding/base64"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

var discard = log.New(io.Discard, "", 0)

// newProxy is an HTTP proxy that takes all hosts to one address, where status is 0,
// and otherwise answers with that. A user is asked for where there is one.
func newProxy(t *testing.T, to string, status int, user *url.Userinfo) string {
	t.Helper()
	forward := &httputil.ReverseProxy{
		Rewrite:   func(req *httputil.ProxyRequest) { req.Out.URL.Host = to },
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	return serve(t, nil, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case user != nil && req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(user.String())):
			http.Error(w, "no", http.StatusProxyAuthRequired)
		case status != 0:
			http.Error(w, "no", status)
		case req.Method == http.MethodConnect:
			tunnel(w, to)
		default:
			forward.ServeHTTP(w, req)
		}
	})
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
	pipe(in, out)
}

func pipe(in, out net.Conn) {
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

// newSOCKS is a SOCKS5 proxy (RFC 1928) without log-in that takes all to one address.
func newSOCKS(t *testing.T, to string) string {
	t.Helper()
	return raw(t, func(conn net.Conn) {
		hello := make([]byte, 2)
		if _, err := io.ReadFull(conn, hello); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, make([]byte, hello[1])); err != nil {
			return
		}
		_, _ = conn.Write([]byte{5, 0})
		head := make([]byte, 5) // version, CONNECT, 0, a name, its length
		if _, err := io.ReadFull(conn, head); err != nil || head[3] != 3 {
			return
		}
		if _, err := io.ReadFull(conn, make([]byte, int(head[4])+2)); err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		pipe(conn, out)
	})
}

// by sends everything through a proxy.
func by(scheme, addr string, user *url.Userinfo) func(*http.Request) (*url.URL, error) {
	return http.ProxyURL(&url.URL{Scheme: scheme, Host: addr, User: user})
}
