package config

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"registry-module/upstream"
)

// component is a path component of a repository name, as the OCI distribution
// specification has it under "Pulling manifests".
var component = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// remoteReader reads the settings of one remote.
type remoteReader struct {
	loader  *loader
	section *remoteSection
	// key is that of the section.
	key string
}

// at returns the key of a setting.
func (r remoteReader) at(setting string) string { return join(r.key, setting) }

// named returns what users know a setting by. The remotes with a number are mostly set
// by variables, and have no name in the file.
func (r remoteReader) named(setting string) string {
	key := r.at(setting)
	if _, _, ok := cutRemote(key); ok {
		return r.loader.variable(key) + " (" + key + ")"
	}
	return key
}

// bad records that a setting has a wrong value.
func (r remoteReader) bad(setting, value, format string, args ...any) {
	r.loader.bad(r.at(setting), value, format, args...)
}

// warn records a warning that is about the URL.
func (r remoteReader) warn(format string, args ...any) {
	key := r.at("remoteurl")
	args = append([]any{r.loader.variable(key), key}, args...)
	r.loader.warn("%s (%s) "+format, args...)
}

// read checks all settings. The URL of what it returns is nil where there is none
// that can be used.
func (r remoteReader) read() Remote {
	l, s := r.loader, r.section
	remote := Remote{
		URL:            r.url(),
		Credentials:    r.credentials(),
		Alias:          s.Alias,
		Namespaces:     r.namespaces(),
		DeniedIsAbsent: s.DeniedIsAbsent,
		TTL:            l.duration(r.at("ttl"), s.TTL, 0),
		CAFile:         s.CA,
		CertFile:       s.Certificate,
		KeyFile:        s.Key,
		Insecure:       s.Insecure,
		TrustBundle:    r.trustBundle(),
		AllowedRealms:  s.AllowedRealms,
		Bandwidth:      l.bandwidth(r.at("bandwidth"), s.Bandwidth),
		StallTimeout:   l.duration(r.at("stalltimeout"), s.StallTimeout, DefaultStallTimeout),
		RetryFor:       l.duration(r.at("retryfor"), s.RetryFor, DefaultRetryFor),
	}
	remote.Allow = r.patterns("allow", s.Allow, remote.Namespaces)
	remote.Deny = r.patterns("deny", s.Deny, remote.Namespaces)
	remote.HTTPProxy, remote.NoHTTPProxy = r.httpProxy()
	if remote.StallTimeout == 0 {
		r.bad("stalltimeout", s.StallTimeout, "is no time at all: write for example %v", DefaultStallTimeout)
	}
	r.tags(&remote)
	r.passThrough(&remote)
	r.connections(&remote)
	if s.Alias != "" && !component.MatchString(s.Alias) {
		r.bad("alias", s.Alias, "is not a path component: write lower-case letters and digits, with single . _ or - in between, for example hub")
	}
	if s.CA != "" {
		l.certificates(r.at("ca"), s.CA)
	}
	l.keyPair(r.at("certificate"), s.Certificate, r.at("key"), s.Key)
	for _, host := range s.AllowedRealms {
		if !isHost(host) {
			r.bad("allowedrealms", host, "is not a host: write for example auth.example.com or auth.example.com:8443")
		}
	}
	if remote.URL != nil {
		r.warnOfTransport(remote.URL)
	}
	return remote
}

// mostConnections are the most that can be set, for one blob and in all:
// arbitrary, more than any registry takes kindly.
const (
	mostConnections    = 16
	mostMaxConnections = 256
)

// connections reads how many connections there are to a remote. Who sets only the
// lower of the two defaults has not to know of the other.
func (r remoteReader) connections(remote *Remote) {
	l, s := r.loader, r.section
	remote.MaxConnections = l.count(r.at("maxconnections"), s.MaxConnections, mostMaxConnections, DefaultMaxConnections)
	remote.Connections = l.count(r.at("connections"), s.Connections, mostConnections, min(DefaultConnections, remote.MaxConnections))
	if remote.Connections > remote.MaxConnections {
		r.bad("maxconnections", s.MaxConnections, "is less than %s, which is %d: write at least that, or set that lower",
			r.named("connections"), remote.Connections)
	}
}

// warnOfTransport warns of settings that do not go with the scheme of the URL, or
// that leave others a way in.
func (r remoteReader) warnOfTransport(u *url.URL) {
	s := r.section
	if u.Scheme == "https" {
		if s.Insecure {
			r.loader.warn("%s (%s) is true: who is on the way can pretend to be %s, gets its credentials, and can move tags",
				r.loader.variable(r.at("insecure")), r.at("insecure"), u.Host)
		}
		return
	}
	switch kinds := s.kinds(); {
	case len(kinds) == 0:
	case kinds[0].setting == "username":
		r.warn("has no TLS: the password is sent in clear text")
	default:
		r.warn("has no TLS: credentials are sent in clear text")
	}
	if s.CA != "" || s.Certificate != "" {
		r.warn("has no TLS: %s and %s have no effect", r.named("ca"), r.named("certificate"))
	}
	if s.Insecure {
		r.warn("has no TLS: %s has no effect", r.named("insecure"))
	}
}

// url reads the URL of the remote registry, and returns nil where there is none or
// it cannot be used.
func (r remoteReader) url() *url.URL {
	s := r.section.RemoteURL
	if s == "" {
		return nil
	}
	if strings.Contains(s, "@") {
		username, password := r.at("username"), r.at("password")
		r.bad("remoteurl", s, "has a user name in the URL: write it as %s and %s (%s, %s)",
			username, password, variable(username), variable(password))
		return nil
	}
	url, ok := r.above(s)
	if !ok {
		return nil
	}
	u, err := upstream.ParseURL(url)
	if err != nil {
		r.bad("remoteurl", s, "cannot be used: %v", err)
		return nil
	}
	return u
}

// namespaces returns the hosts that the remote serves as namespaces, in lower case
// and each once.
func (r remoteReader) namespaces() []string {
	var hosts []string
	for _, name := range r.section.Namespaces {
		_, err := upstream.ParseURL("https://" + name)
		if !isHost(name) || err != nil {
			r.bad("namespaces", name, "is not a host: write for example quay.io")
			continue
		}
		if host := strings.ToLower(name); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// httpProxy reads the proxy that requests go through. What is written is in no
// message: it can have a password, in whatever place it was put by mistake.
func (r remoteReader) httpProxy() (proxy *url.URL, none bool) {
	switch r.section.HTTPProxy {
	case "":
		return nil, false
	case "none":
		return nil, true
	}
	u, err := url.Parse(r.section.HTTPProxy)
	if err != nil || !isProxy(u) {
		r.bad("httpproxy", "", "is not the URL of a proxy: write for example http://proxy.example.com:3128, https:// or socks5://, or none to use no proxy")
		return nil, false
	}
	return u, false
}

// isProxy tells whether u is a scheme that proxies speak and a host.
func isProxy(u *url.URL) bool {
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	return slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) && u.Hostname() != "" &&
		strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.Fragment == ""
}

// isHost tells whether s is a host, with or without port.
func isHost(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && u.Hostname() != ""
}
