package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// DockerHub is the host that serves what users know as docker.io.
const DockerHub = "registry-1.docker.io"

// ParseURL reads the URL of a remote registry as a user writes it. Without a
// scheme it is https. A slash or /v2/ at its end is ignored, docker.io stands
// for the host that serves it, and the scheme's own port is left out, so that
// one registry has one URL: the result has a scheme and a host, in lower case,
// and nothing else.
//
// Errors do not repeat the URL, which may hold a password by mistake.
func ParseURL(s string) (*url.URL, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, errors.New("the URL of a remote registry is empty: write for example https://registry-1.docker.io")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("the URL of a remote registry cannot be read: write for example https://registry.example.com:5000")
	}
	host, err := parseHost(u)
	if err != nil {
		return nil, err
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	path = strings.TrimRight(strings.TrimSuffix(path, "/v2"), "/")
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the remote registry %s has the scheme %q: write https:// or http://", host, u.Scheme)
	case u.User != nil:
		return nil, fmt.Errorf("the URL of the remote registry %s holds credentials: set them as user name and password of the remote instead", host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("the URL of the remote registry %s has a query or a fragment: write only scheme and host", host)
	case path != "":
		return nil, fmt.Errorf("the URL of the remote registry %s has the path %.100q: write only scheme and host, and put the path before the names of repositories", host, path)
	}
	return &url.URL{Scheme: u.Scheme, Host: served(host)}, nil
}

// served is the host that serves what users know as host.
func served(host string) string {
	if host == "docker.io" || host == "index.docker.io" {
		return DockerHub
	}
	return host
}

// HostOf returns the host, with its port where that is not the one of https, that
// the URL of a registry has which users call ns: in lower case, and [DockerHub] for
// docker.io. Two names of one registry so become the same. What is not the name of
// a registry stays as it is, in lower case.
func HostOf(ns string) string {
	u, err := url.Parse("https://" + ns)
	if err != nil || u.Host != ns {
		return strings.ToLower(ns)
	}
	host, err := parseHost(u)
	if err != nil {
		return strings.ToLower(ns)
	}
	return served(host)
}

// parseHost returns the authority of u in its one form.
func parseHost(u *url.URL) (string, error) {
	name := strings.ToLower(u.Hostname())
	if name == "" {
		return "", errors.New("the URL of a remote registry has no host: write for example https://registry.example.com:5000")
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.Zone() != "" {
			return "", errors.New("the URL of a remote registry has an IPv6 address with a zone, which is not supported")
		}
		if name = addr.String(); addr.Is6() {
			name = "[" + name + "]"
		}
	} else if strings.IndexFunc(name, notInHostName) >= 0 {
		return "", errors.New("the host of a remote registry has characters that are not allowed: use letters, digits, dots and dashes")
	}
	port := u.Port()
	if port == "" || port == defaultPort(u.Scheme) {
		return name, nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("the remote registry %s has the port %.20q: it must be 1 to 65535", name, port)
	}
	return name + ":" + port, nil
}

// notInHostName finds what is in no host name. Underscores are in none by
// RFC 952, but in those of container networks.
func notInHostName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_'
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// sameOrigin reports whether a and b are the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool { return origin(a) == origin(b) }

// origin is scheme, host and port of u in one form.
func origin(u *url.URL) string { return u.Scheme + "://" + authority(u) }

// authority is host and port of u, the port always present.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
