package lab

import (
	"errors"
	"net"
	"strings"
)

// hosts are the addresses of an upstream.
type hosts struct {
	// Gateway is what clients and caches talk to.
	*Gateway
	// BlobHost is where redirects of blobs lead; nil without.
	BlobHost *Gateway
	// Realm is the token server; nil without.
	Realm *Gateway
}

// Down makes the upstream unreachable, with its token server and blob host.
func (h *hosts) Down() error {
	return h.each((*Gateway).Down)
}

// Up makes the upstream reachable again, at the same addresses.
func (h *hosts) Up() error {
	return h.each((*Gateway).Up)
}

func (h *hosts) each(do func(*Gateway) error) error {
	var errs []error
	for _, g := range []*Gateway{h.Gateway, h.BlobHost, h.Realm} {
		if g != nil {
			errs = append(errs, do(g))
		}
	}
	return errors.Join(errs...)
}

// Env is the setting of a cache in front of this upstream, registry-module or
// the stock registry in proxy mode. Where there is a token server, it calls the
// upstream localhost, as the realm is: caches do not follow a challenge to just
// any host.
func (h *hosts) Env() Env {
	url := h.URL()
	if h.Realm != nil {
		url = strings.Replace(url, "127.0.0.1", "localhost", 1)
	}
	return Env{"REGISTRY_PROXY_REMOTEURL": url}
}

// realmURL is the URL of a token server. A realm has a name in the world outside,
// and clients refuse one that is a private address.
func realmURL(realm *Gateway) (string, error) {
	_, port, err := net.SplitHostPort(realm.Addr)
	return "http://localhost:" + port + "/token", err
}
