package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// discreet makes a proxy function fail without the address that it could not read:
// there may be a password in it. The proxy may repeat it as well.
func discreet(proxy func(*http.Request) (*url.URL, error), secrets *Secrets) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		u, err := proxy(req)
		if u != nil && u.User != nil {
			password, _ := u.User.Password()
			secrets.AddCredentials(authn.AuthConfig{Username: u.User.Username(), Password: password})
		}
		if err != nil {
			return nil, errors.New("the address of the HTTP proxy cannot be read: " +
				"write for example http://proxy.example.com:3128, with %XX for characters of the password that a URL does not allow")
		}
		return u, nil
	}
}

// proxyRefusal is what an HTTP proxy has said instead of letting us through.
type proxyRefusal struct {
	proxy  string // host and port
	known  bool   // it has been given credentials
	status int
}

func (e *proxyRefusal) Error() string {
	who := "the HTTP proxy"
	if e.proxy != "" {
		who += " " + clean(e.proxy)
	}
	switch {
	case e.status == http.StatusProxyAuthRequired && e.known:
		return who + " does not accept the user name and the password that are in its address (HTTP status 407)"
	case e.status == http.StatusProxyAuthRequired:
		return who + " wants a user name and a password: put them into its address (HTTP status 407)"
	case e.status == http.StatusForbidden:
		return who + " does not let us through to this host: it has to be allowed there (HTTP status 403)"
	case e.status >= 500:
		return fmt.Sprintf("%s cannot connect us with this host (HTTP status %d)", who, e.status)
	}
	return fmt.Sprintf("%s refuses to connect us with this host (HTTP status %d)", who, e.status)
}

func newProxyRefusal(proxy *url.URL, status int) *proxyRefusal {
	e := &proxyRefusal{status: status}
	if proxy != nil {
		e.proxy, e.known = proxy.Host, proxy.User != nil
	}
	return e
}

// connected looks at the answer to CONNECT: all that the transport says of it
// otherwise is its status text.
func connected(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return newProxyRefusal(proxy, resp.StatusCode)
}

// refusedByProxy is an answer to a request for u that is not the remote's.
func (r *Remote) refusedByProxy(u *url.URL, status int) *proxyRefusal {
	proxy, err := r.own.Proxy(&http.Request{URL: u})
	if err != nil {
		proxy = nil // the request would not have been sent
	}
	return newProxyRefusal(proxy, status)
}

// viaProxy makes err, of a request for u, say which proxy cannot be reached.
func (r *Remote) viaProxy(u *url.URL, err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "proxyconnect" {
		return err
	}
	proxy, proxyErr := r.own.Proxy(&http.Request{URL: u})
	if proxyErr != nil || proxy == nil {
		return err
	}
	return fmt.Errorf("the HTTP proxy %s cannot be reached: %w", proxy.Host, op.Err)
}

// connecting returns the context for req, and what ends it. It is over when a connection
// by way of an HTTP proxy takes too long: the transport waits a minute for the answer to
// CONNECT, and longer than that for one that comes byte by byte.
func (g guarded) connecting(req *http.Request) (context.Context, func()) {
	if req.URL.Scheme != "https" {
		return req.Context(), func() {} // there is no CONNECT
	}
	if proxy, err := g.Proxy(req); err != nil || proxy == nil {
		return req.Context(), func() {}
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	late := time.AfterFunc(g.patience, func() {
		// As the transport says that a proxy cannot be reached.
		cancel(&net.OpError{Op: "proxyconnect", Net: "tcp", Err: fmt.Errorf("no connection by way of it within %v", g.patience)})
	})
	late.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { late.Reset(g.patience) },
		GotConn: func(httptrace.GotConnInfo) { late.Stop() },
	})
	return ctx, func() {
		late.Stop()
		cancel(nil)
	}
}
