package auth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// RealmPolicy decides which token services a registry may send us to.
//
// A registry names its token service itself, as the realm of its challenge
// (RFC 6750 section 3, and Docker's token authentication specification). Who
// can alter an answer of the registry could so have the password sent to a host
// of their own, or make us ask hosts that only we can reach. A realm is
// accepted if it is
//   - on the registry's own host, on any port;
//   - or, where the registry's host is a domain name, on a host of the same
//     registrable domain (registry-1.docker.io and auth.docker.io);
//   - or on a host that was allowed by name;
//
// and over https, or over http where the registry itself is spoken to so. The
// same holds for anonymous tokens: without a password there is less to steal,
// but the requests and the answers are still not for strangers.
//
// The zero value allows no further hosts.
type RealmPolicy struct {
	allowed []string // as from normalHost
}

// NewRealmPolicy returns a policy that accepts realms on the allowed hosts too.
// An entry is a host, which stands for all of its ports, or host:port.
func NewRealmPolicy(allowed ...string) (RealmPolicy, error) {
	var p RealmPolicy
	var errs []error
	for _, entry := range allowed {
		u, err := url.Parse("//" + entry)
		if err != nil || u.Host != entry || u.Hostname() == "" {
			errs = append(errs, fmt.Errorf("allowed realm %q: want a host or host:port, for example auth.example.com", entry))
			continue
		}
		p.allowed = append(p.allowed, normalHost(u.Hostname(), u.Port()))
	}
	return p, errors.Join(errs...)
}

// maxRealmHost bounds the host of a realm with its port, in bytes: that of a name
// (RFC 1035 section 2.3.4), and of a port.
const maxRealmHost = 255 + len(":65535")

// notInHost finds what is not printable ASCII, of which international names are made,
// too (RFC 5890), where they are asked for.
func notInHost(c rune) bool { return c <= ' ' || c >= 0x7f }

// Check returns realm as a URL if a token for registry, a URL with scheme and
// host, may be asked for there. Its errors are of a few hundred bytes, and can be
// shown; there are names in them that the registry has chosen.
func (p RealmPolicy) Check(registry *url.URL, realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil {
		// The parser's error repeats the URL, and that may hold secrets.
		return nil, errors.New("the registry's challenge names a token service that is not a URL")
	}
	host := normalHost(u.Hostname(), "")
	switch {
	case len(u.Host) > maxRealmHost || strings.ContainsFunc(u.Host, notInHost):
		return nil, errors.New("the registry's challenge names a token service whose host has characters that are not allowed, or too many")
	case host == "":
		return nil, errors.New("the registry's challenge names no token service (its realm has no host)")
	case u.User != nil:
		return nil, fmt.Errorf("the registry's challenge names a token service at %s with credentials in the URL", host)
	case u.Scheme == "http" && registry.Scheme != "http":
		return nil, fmt.Errorf("the token service at %s is to be asked over http, but the registry %s over https", host, registry.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the token service at %s is to be asked over %.20q, not https", host, u.Scheme)
	}
	if !p.accepts(normalHost(registry.Hostname(), ""), host, effectivePort(u)) {
		return nil, fmt.Errorf("the registry %s sends us to the token service of another domain, %s: "+
			"if that is right, add %s to the realms that are allowed for this registry", registry.Host, host, host)
	}
	return u, nil
}

func (p RealmPolicy) accepts(registry, realm, port string) bool {
	if registry == realm || sameDomain(registry, realm) {
		return true
	}
	for _, allowed := range p.allowed {
		if allowed == realm || allowed == normalHost(realm, port) {
			return true
		}
	}
	return false
}

// sameDomain reports whether both are names under one registrable domain: the
// part of a name that belongs to one owner, as the public suffix list knows it.
func sameDomain(a, b string) bool {
	if isIP(a) || isIP(b) {
		return false
	}
	// A name without a dot, or one that is itself a public suffix, has none.
	da, err := publicsuffix.EffectiveTLDPlusOne(a)
	if err != nil {
		return false
	}
	db, err := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && da == db
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// normalHost writes a host, with port if it is not empty, in one way only.
func normalHost(host, port string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.Unmap().String()
	}
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	return host
}

func effectivePort(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	default:
		return "443"
	}
}
