package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/net/proxy"

	"registry-module/doctor/report"
)

// leg is the way to one host.
type leg struct {
	url   *url.URL
	proxy *url.URL // nil: directly
	who   party
}

func (l leg) socks() bool { return l.proxy != nil && strings.HasPrefix(l.proxy.Scheme, "socks5") }

// tunnelled reports whether the proxy is asked for a connection, and not for
// answers.
func (l leg) tunnelled() bool { return l.proxy != nil && (l.url.Scheme == "https" || l.socks()) }

// travel goes the steps of a leg, up to where HTTP is spoken.
func (e *examination) travel(ctx context.Context, prefix string, l leg) {
	first, who := l.url, l.who
	if l.proxy != nil {
		first, who = l.proxy, party{noun: "the HTTP proxy", setting: e.proxySetting(l.url)}
	}
	// What the steps hand on.
	var found struct {
		addrs []netip.Addr
		conn  net.Conn
	}
	defer func() {
		if !e.Left && found.conn != nil {
			_ = found.conn.Close() // it has served its purpose
		}
	}()
	e.step(ctx, prefix+"resolve", func(ctx context.Context) (f report.Finding) {
		found.addrs, f = e.resolve(ctx, who, first.Hostname())
		return f
	})
	e.step(ctx, prefix+"connect", func(ctx context.Context) (f report.Finding) {
		found.conn, f = e.connect(ctx, who, found.addrs, portOf(first))
		return f
	})
	if l.tunnelled() {
		e.step(ctx, prefix+"tunnel", func(ctx context.Context) (f report.Finding) {
			found.conn, f = e.tunnel(ctx, found.conn, l)
			return f
		})
	}
	if l.url.Scheme == "https" {
		e.step(ctx, prefix+"tls", func(ctx context.Context) report.Finding {
			return e.handshake(ctx, found.conn, l, prefix == "")
		})
	}
}

func (e *examination) travelToTokenService(ctx context.Context) {
	l := leg{url: e.realm, who: party{noun: "the token service"}}
	var err error
	if l.proxy, err = e.proxyFor(e.realm); err != nil {
		e.step(ctx, "token-resolve", func(context.Context) report.Finding { return e.badProxy(e.realm) })
		return
	}
	e.travel(ctx, "token-", l)
}

// whichProxy says which HTTP proxy the requests to the registry go through.
func (e *examination) whichProxy(context.Context) report.Finding {
	var err error
	if e.proxy, err = e.proxyFor(e.r.URL); err != nil {
		return e.badProxy(e.r.URL)
	}
	if e.proxy == nil {
		return report.Passed("none")
	}
	if _, known := defaultPorts[e.proxy.Scheme]; !known {
		return report.Fail("Write "+e.proxySetting(e.r.URL)+" as http://HOST:PORT.", "the proxy has the scheme %q, which is not supported", e.secrets.Clean(e.proxy.Scheme))
	}
	text := e.proxy.Scheme + "://" + authority(e.proxy)
	if e.proxy.User != nil {
		text += ", with credentials"
	}
	return report.Passed("%s (%s)", text, e.proxySetting(e.r.URL))
}

func (e *examination) badProxy(u *url.URL) report.Finding {
	// The parser's error repeats what may have a password.
	return report.Fail("Write "+e.proxySetting(u)+" as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT.", "what is configured as HTTP proxy is not a URL")
}

func (e *examination) proxyFor(u *url.URL) (*url.URL, error) {
	p, err := e.r.Proxy(&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}})
	if err == nil && p != nil && p.User != nil {
		password, _ := p.User.Password()
		e.secrets.AddCredentials(authn.AuthConfig{Username: p.User.Username(), Password: password})
	}
	return p, err
}

// proxySetting is where the proxy for u was configured.
func (e *examination) proxySetting(u *url.URL) string {
	switch {
	case e.r.ProxySetting != "":
		return e.r.ProxySetting
	case u.Scheme == "http":
		return "HTTP_PROXY"
	default:
		return "HTTPS_PROXY"
	}
}

// tunnel has the proxy at the other end of conn connect us with the host of l.
func (e *examination) tunnel(ctx context.Context, conn net.Conn, l leg) (net.Conn, report.Finding) {
	defer bound(ctx, conn)()
	target := authority(l.url)
	if l.socks() {
		return e.socksTunnel(ctx, conn, l, target)
	}
	if l.proxy.Scheme == "https" {
		config := e.tlsConfig(l.proxy.Hostname(), false)
		config.InsecureSkipVerify = e.r.Insecure // package upstream has one setting for both
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return conn, report.Fail("Check "+e.proxySetting(l.url)+"; if the proxy has a certificate of your own CA, set "+e.r.Variable("CA")+" to the CA's file.",
				"TLS with the HTTP proxy fails: %s", e.secrets.Clean(err.Error()))
		}
		conn = secured
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{"User-Agent": {e.agent()}}}
	if user := l.proxy.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	err := req.Write(conn)
	var resp *http.Response
	if err == nil {
		// A proxy sends nothing behind its answer before we do.
		resp, err = http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader)), req)
	}
	if err != nil {
		text := "gives no answer to CONNECT that can be understood"
		if isTimeout(err) {
			text = "takes connections and does not answer"
		}
		return conn, report.Fail("Check that "+e.proxySetting(l.url)+" names an HTTP proxy, and its port.", "the HTTP proxy %s %s", authority(l.proxy), text)
	}
	_ = resp.Body.Close() // of a CONNECT, it is not read
	if resp.StatusCode == http.StatusOK {
		return conn, report.Passed("the HTTP proxy connects to %s", target)
	}
	return conn, e.proxyRefuses(resp.StatusCode, l, target)
}

func (e *examination) socksTunnel(ctx context.Context, conn net.Conn, l leg, target string) (net.Conn, report.Finding) {
	var login *proxy.Auth
	if l.proxy.User != nil {
		password, _ := l.proxy.User.Password()
		login = &proxy.Auth{User: l.proxy.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", authority(l.proxy), login, connected{conn})
	if err == nil {
		var tunnelled net.Conn
		if tunnelled, err = dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", target); err == nil {
			return tunnelled, report.Passed("the SOCKS proxy connects to %s", target)
		}
	}
	return conn, report.Fail("Check that "+e.proxySetting(l.url)+" names a SOCKS5 proxy with its credentials, and that it allows "+target+".",
		"the SOCKS proxy does not connect to %s: %s", target, e.secrets.Clean(err.Error()))
}

// connected is a dialer that has a connection already.
type connected struct{ conn net.Conn }

// Dial implements [proxy.Dialer].
func (c connected) Dial(string, string) (net.Conn, error) { return c.conn, nil }

// DialContext implements [proxy.ContextDialer].
func (c connected) DialContext(context.Context, string, string) (net.Conn, error) { return c.conn, nil }

// proxyRefuses says what an answer of an HTTP proxy means that connects nobody.
func (e *examination) proxyRefuses(status int, l leg, target string) report.Finding {
	who := "the HTTP proxy " + authority(l.proxy)
	switch status {
	case http.StatusProxyAuthRequired:
		text := who + " wants credentials, and none are configured (HTTP status 407)"
		if l.proxy.User != nil {
			text = who + " does not accept the credentials that are configured (HTTP status 407)"
		}
		return report.Fail("Write user name and password into "+e.proxySetting(l.url)+": http://USER:PASSWORD@"+authority(l.proxy)+".", "%s", text)
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return report.Fail("Have the proxy's operator allow CONNECT to "+target+", or use another proxy ("+e.proxySetting(l.url)+").",
			"%s refuses to connect to %s (HTTP status %d)", who, target, status)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return report.Fail("Look into the proxy's log: it cannot look up or reach "+target+".",
			"%s cannot reach %s itself (HTTP status %d)", who, target, status)
	default:
		return report.Fail("Check that "+e.proxySetting(l.url)+" names an HTTP proxy, and its port.",
			"%s answers CONNECT %s with HTTP status %d", who, target, status)
	}
}

// bound makes reads and writes of conn end with ctx, until the returned function
// is called.
func bound(ctx context.Context, conn net.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// plainAnswer tells whether HTTP is spoken where TLS was expected: the first bytes
// of the answer are those of a status line.
func plainAnswer(err tls.RecordHeaderError) bool {
	return strings.HasPrefix(string(err.RecordHeader[:]), "HTTP/")
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("HTTP status %d, %s", status, text)
	}
	return fmt.Sprintf("HTTP status %d", status)
}
