package machine

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"registry-module/doctor/report"
	"registry-module/upstream"
)

// listener finds out whether clients can connect, or do so already.
func (m Machine) listener(ctx context.Context) report.Finding {
	network := cmp.Or(m.Net, "tcp")
	f, taken := free(ctx, network, m.Addr, addrSetting)
	if !taken {
		return f
	}
	if network == "unix" {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, m.Addr)
		if err != nil {
			return report.Fail("Remove the file: nobody listens there any more.", "the socket %s was left behind", m.Addr)
		}
		_ = conn.Close() // it was only asked for
	}
	scheme := "http"
	if m.TLS {
		scheme = "https"
	}
	a, err := get(ctx, network, m.Addr, scheme, strings.TrimRight(m.Prefix, "/")+"/v2/")
	answers := err == nil && a.isAPI()
	switch ours := m.isOurs(ctx); {
	case ours && !answers && m.ClientCertificates && err != nil && ctx.Err() == nil:
		return report.Passed("registry-module runs; %s is for clients with a certificate, so that no more is known", m.Addr)
	case ours && !answers:
		return report.Warn("Look into its log, or restart it.", "registry-module runs, but GET /v2/ on %s has no proper answer", m.Addr)
	case ours:
		return report.Passed("registry-module runs, and answers on %s", m.Addr)
	case answers:
		return report.Fail("Stop it, or set "+addrSetting+" to another address.", "another registry has %s", m.Addr)
	default:
		return report.Fail("Stop it (ss -ltnp names it), or set "+addrSetting+" to another address.", "another program has %s", m.Addr)
	}
}

// adminListener does the same for the address of administration.
func (m Machine) adminListener(ctx context.Context) report.Finding {
	f, taken := free(ctx, "tcp", m.AdminAddr, adminSetting)
	switch {
	case !taken:
		return f
	case m.isOurs(ctx):
		return report.Passed("registry-module runs, and answers on %s", m.AdminAddr)
	default:
		return report.Fail("Stop it (ss -ltnp names it), or set "+adminSetting+" to another address.", "another program has %s", m.AdminAddr)
	}
}

// free finds out whether an address can be listened on. Where somebody else does so,
// it is taken.
func free(ctx context.Context, network, addr, setting string) (f report.Finding, taken bool) {
	ln, err := new(net.ListenConfig).Listen(ctx, network, addr)
	switch {
	case err == nil:
		_ = ln.Close() // nobody has connected
		return report.Passed("%s is free", addr), false
	case errors.Is(err, syscall.EADDRINUSE):
		return report.Finding{}, true
	case errors.Is(err, fs.ErrPermission):
		return report.Fail("Set "+setting+" to a port from 1024 on, or give the program the capability NET_BIND_SERVICE.", "this user may not listen on %s", addr), false
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return report.Fail("Set "+setting+" to an address of this machine, or to a port alone, for example :8000.", "%s is not an address of this machine", addr), false
	default:
		return report.Fail("Correct "+setting+".", "%s cannot be listened on: %s", addr, new(upstream.Secrets).Clean(err.Error())), false
	}
}

// isOurs reports whether registry-module answers on the address of administration:
// by its word that it is alive, and by metrics of a Go program, to which it adds its
// own only where there is a remote.
func (m Machine) isOurs(ctx context.Context) bool {
	alive, err := get(ctx, "tcp", m.AdminAddr, "http", "/healthz")
	if err != nil || alive.status != http.StatusOK {
		return false
	}
	// What comes after the first line is of its remotes.
	if word, _, _ := strings.Cut(alive.body, "\n"); word != "ok" {
		return false
	}
	metrics, err := get(ctx, "tcp", m.AdminAddr, "http", cmp.Or(m.MetricsPath, "/metrics"))
	return err == nil && metrics.status == http.StatusOK && strings.Contains(metrics.body, "go_goroutines")
}

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	// body is its start, without white space around it.
	body string
}

// isAPI reports whether the answer says of itself that it is a registry's.
func (a *answer) isAPI() bool {
	return strings.HasPrefix(a.header.Get("Docker-Distribution-Api-Version"), "registry/2")
}

// maxBody bounds what is read of an answer, in bytes: metrics are long.
const maxBody = 1 << 20

// get asks a server on this machine, at an address to listen on.
func get(ctx context.Context, network, addr, scheme, path string) (*answer, error) {
	t := &http.Transport{
		DisableKeepAlives: true,
		// It is asked who it is, and sent nothing.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, reachable(network, addr))
		},
	}
	u := &url.URL{Scheme: scheme, Host: "localhost", Path: path}
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {"registry-module"}}}
	resp, err := t.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	_ = resp.Body.Close() // it was only read
	return &answer{resp.StatusCode, resp.Header, strings.TrimSpace(string(body))}, err
}

// reachable is an address to connect to where addr is one to listen on.
func reachable(network, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if network == "unix" || err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() && !strings.Contains(host, ":") {
		host = "127.0.0.1"
	} else if ip != nil && ip.IsUnspecified() {
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
