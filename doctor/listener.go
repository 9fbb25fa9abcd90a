package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"registry-module/upstream"
)

// listener finds out whether clients can connect, or do so already.
func (e *examination) listener(ctx context.Context, l Local) Finding {
	network := cmp.Or(l.Net, "tcp")
	f, taken := free(ctx, network, l.Addr, addrSetting)
	if !taken {
		return f
	}
	if network == "unix" {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, l.Addr)
		if err != nil {
			return failed("Remove the file: nobody listens there any more.", "the socket %s was left behind", l.Addr)
		}
		_ = conn.Close() // it was only asked for
	}
	scheme := "http"
	if l.TLS {
		scheme = "https"
	}
	a, err := e.local(ctx, network, l.Addr, scheme, strings.TrimRight(l.Prefix, "/")+"/v2/")
	answers := err == nil && a.isAPI()
	switch ours := e.isOurs(ctx, l); {
	case ours && !answers && l.ClientCertificates && err != nil && ctx.Err() == nil:
		return ok("registry-module runs; %s is for clients with a certificate, so that no more is known", l.Addr)
	case ours && !answers:
		return warning("Look into its log, or restart it.", "registry-module runs, but GET /v2/ on %s has no proper answer", l.Addr)
	case ours:
		return ok("registry-module runs, and answers on %s", l.Addr)
	case answers:
		return failed("Stop it, or set "+addrSetting+" to another address.", "another registry has %s", l.Addr)
	default:
		return failed("Stop it (ss -ltnp names it), or set "+addrSetting+" to another address.", "another program has %s", l.Addr)
	}
}

// adminListener does the same for the address of administration.
func (e *examination) adminListener(ctx context.Context, l Local) Finding {
	f, taken := free(ctx, "tcp", l.AdminAddr, adminSetting)
	switch {
	case !taken:
		return f
	case e.isOurs(ctx, l):
		return ok("registry-module runs, and answers on %s", l.AdminAddr)
	default:
		return failed("Stop it (ss -ltnp names it), or set "+adminSetting+" to another address.", "another program has %s", l.AdminAddr)
	}
}

// free finds out whether an address can be listened on. Where somebody else does so,
// it is taken.
func free(ctx context.Context, network, addr, setting string) (f Finding, taken bool) {
	ln, err := new(net.ListenConfig).Listen(ctx, network, addr)
	switch {
	case err == nil:
		_ = ln.Close() // nobody has connected
		return ok("%s is free", addr), false
	case errors.Is(err, syscall.EADDRINUSE):
		return Finding{}, true
	case errors.Is(err, fs.ErrPermission):
		return failed("Set "+setting+" to a port from 1024 on, or give the program the capability NET_BIND_SERVICE.", "this user may not listen on %s", addr), false
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return failed("Set "+setting+" to an address of this machine, or to a port alone, for example :8000.", "%s is not an address of this machine", addr), false
	default:
		return failed("Correct "+setting+".", "%s cannot be listened on: %s", addr, new(upstream.Secrets).Clean(err.Error())), false
	}
}

// isOurs reports whether registry-module answers on the address of administration:
// by its word that it is alive, and by metrics of a Go program, to which it adds its
// own only where there is a remote.
func (e *examination) isOurs(ctx context.Context, l Local) bool {
	alive, err := e.local(ctx, "tcp", l.AdminAddr, "http", "/healthz")
	if err != nil || alive.status != http.StatusOK || alive.body != "ok" {
		return false
	}
	metrics, err := e.local(ctx, "tcp", l.AdminAddr, "http", cmp.Or(l.MetricsPath, "/metrics"))
	return err == nil && metrics.status == http.StatusOK && strings.Contains(metrics.body, "go_goroutines")
}

// local asks a server on this machine, at an address to listen on.
func (e *examination) local(ctx context.Context, network, addr, scheme, path string) (*answer, error) {
	t := &http.Transport{
		DisableKeepAlives: true,
		// It is asked who it is, and sent nothing.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, reachable(network, addr))
		},
	}
	const metrics = 1 << 20 // are long
	return e.get(ctx, t, &url.URL{Scheme: scheme, Host: "localhost", Path: path}, metrics)
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
