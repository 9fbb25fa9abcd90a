package config

import (
	"net/url"
	"regexp"
	"strings"

	"registry-module/upstream"
)

// component is a path component of a repository name, as the OCI distribution
// specification has it under "Pulling manifests".
var component = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

func (l *loader) finishProxy(doc *document, c *Config) {
	p := &doc.Proxy
	c.Offline = p.Offline
	r := Remote{
		Number:        1,
		Default:       true,
		Credentials:   Credentials{Username: p.Username, Password: l.password(p)},
		Alias:         p.Alias,
		TagTTL:        l.duration("proxy.tagttl", p.TagTTL, DefaultTagTTL),
		TTL:           l.duration("proxy.ttl", p.TTL, 0),
		CAFile:        p.CA,
		CertFile:      p.Certificate,
		KeyFile:       p.Key,
		AllowedRealms: p.AllowedRealms,
		Bandwidth:     l.bandwidth("proxy.bandwidth", p.Bandwidth),
		StallTimeout:  l.duration("proxy.stalltimeout", p.StallTimeout, DefaultStallTimeout),
		RetryFor:      l.duration("proxy.retryfor", p.RetryFor, DefaultRetryFor),
	}
	if r.StallTimeout == 0 {
		l.bad("proxy.stalltimeout", p.StallTimeout, "is no time at all: write for example %v", DefaultStallTimeout)
	}
	l.connections(p, &r)
	hasPassword := p.Password != "" || p.PasswordFile != ""
	switch {
	case p.Username != "" && !hasPassword:
		l.bad("proxy.password", "", "is missing, but proxy.username is set: set it or proxy.passwordfile, or remove the username for anonymous access")
	case p.Username == "" && hasPassword:
		l.bad("proxy.username", "", "is missing, but a password is set: set it, or remove the password for anonymous access")
	}
	if p.Alias != "" && !component.MatchString(p.Alias) {
		l.bad("proxy.alias", p.Alias, "is not a path component: write lower-case letters and digits, with single . _ or - in between, for example hub")
	}
	if p.CA != "" {
		l.certificates("proxy.ca", p.CA)
	}
	l.keyPair("proxy.certificate", p.Certificate, "proxy.key", p.Key)
	for _, host := range p.AllowedRealms {
		if !isHost(host) {
			l.bad("proxy.allowedrealms", host, "is not a host: write for example auth.example.com or auth.example.com:8443")
		}
	}
	if p.RemoteURL != "" {
		if u, ok := l.remoteURL(p.RemoteURL); ok {
			r.URL = u
			l.warnPlain(p, u)
			c.Remotes = append(c.Remotes, r)
		}
		return
	}
	if p.Username != "" || hasPassword || p.Alias != "" || p.TagTTL != "" || p.CA != "" || p.Certificate != "" ||
		p.Connections != "" || p.MaxConnections != "" || p.Bandwidth != "" || p.StallTimeout != "" || p.RetryFor != "" {
		l.warn("%s (proxy.remoteurl) is not set, so the other settings of proxy have no effect", variable("proxy.remoteurl"))
	}
}

// mostConnections are the most that can be set, for one blob and in all:
// arbitrary, more than any registry takes kindly.
const (
	mostConnections    = 16
	mostMaxConnections = 256
)

// connections reads how many connections there are to a remote. Who sets only the
// lower of the two defaults has not to know of the other.
func (l *loader) connections(p *proxySection, r *Remote) {
	r.MaxConnections = l.count("proxy.maxconnections", p.MaxConnections, mostMaxConnections, DefaultMaxConnections)
	r.Connections = l.count("proxy.connections", p.Connections, mostConnections, min(DefaultConnections, r.MaxConnections))
	if r.Connections > r.MaxConnections {
		l.bad("proxy.maxconnections", p.MaxConnections, "is less than proxy.connections, which is %d: write at least that, or set that lower", r.Connections)
	}
}

// warnPlain warns of settings that do not go with a remote without TLS.
func (l *loader) warnPlain(p *proxySection, u *url.URL) {
	if u.Scheme != "http" {
		return
	}
	if p.Username != "" {
		l.warn("%s (proxy.remoteurl) has no TLS: the password is sent in clear text", variable("proxy.remoteurl"))
	}
	if p.CA != "" || p.Certificate != "" {
		l.warn("%s (proxy.remoteurl) has no TLS: proxy.ca and proxy.certificate have no effect", variable("proxy.remoteurl"))
	}
}

// password returns the password, from the file where it is in one.
func (l *loader) password(p *proxySection) Secret {
	if p.PasswordFile == "" {
		return Secret(p.Password)
	}
	if p.Password != "" {
		l.bad("proxy.passwordfile", p.PasswordFile, "is set, and proxy.password too: keep only one of them")
		return ""
	}
	text, err := readFile(p.PasswordFile)
	if err != nil {
		l.bad("proxy.passwordfile", p.PasswordFile, "%v", unreadable(err))
		return ""
	}
	// Editors and shells end a file with a line break, which is not meant.
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if password == "" {
		l.bad("proxy.passwordfile", p.PasswordFile, "is empty: write the password into it")
	}
	return Secret(password)
}

// remoteURL reads the URL of the remote registry. It tells whether that is
// well.
func (l *loader) remoteURL(s string) (*url.URL, bool) {
	const key = "proxy.remoteurl"
	if strings.Contains(s, "@") {
		l.bad(key, s, "has a user name in the URL: write it as proxy.username and proxy.password (%s, %s)",
			variable("proxy.username"), variable("proxy.password"))
		return nil, false
	}
	u, err := upstream.ParseURL(s)
	if err != nil {
		l.bad(key, s, "cannot be used: %v", err)
		return nil, false
	}
	return u, true
}

// isHost tells whether s is a host, with or without port.
func isHost(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && u.Hostname() != ""
}
