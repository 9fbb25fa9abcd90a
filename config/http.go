package config

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
)

func (l *loader) finishHTTP(doc *document, c *Config) {
	h := &doc.HTTP
	if h.Addr == "" {
		h.Addr = DefaultAddr
	}
	switch h.Net {
	case "":
		h.Net = "tcp"
		l.address("http.addr", h.Addr)
	case "tcp":
		l.address("http.addr", h.Addr)
	case "unix":
	default:
		l.bad("http.net", h.Net, "is not a network to listen on: write tcp or unix")
	}
	if h.Debug.Addr == "" {
		h.Debug.Addr = DefaultAdminAddr
	}
	l.address("http.debug.addr", h.Debug.Addr)
	if h.Net == "tcp" && h.Addr == h.Debug.Addr && !strings.HasSuffix(h.Addr, ":0") {
		l.bad("http.debug.addr", h.Debug.Addr, "is the address of http.addr as well: write another port")
	}
	if h.Host != "" {
		if u, err := parseHTTPURL(h.Host); err != nil || u.Host == "" {
			l.bad("http.host", h.Host, "is not a URL: write how clients reach the registry, for example https://registry.example.com")
		}
	}
	if h.Prefix != "" && !strings.HasPrefix(h.Prefix, "/") {
		l.bad("http.prefix", h.Prefix, "is not a path: begin it with a slash")
	}
	// A pattern of http.ServeMux, where braces mean something.
	if p := h.Debug.Prometheus.Path; p != "" && (!strings.HasPrefix(p, "/") || strings.ContainsAny(p, "{} ") || isAdminPath(p)) {
		l.bad("http.debug.prometheus.path", p, "is not a path for metrics: write for example /metrics")
	}
	l.notNegative("http.draintimeout", h.DrainTimeout)
	l.finishTLS(doc)
	c.Net, c.Addr, c.AdminAddr = h.Net, h.Addr, h.Debug.Addr
}

// isAdminPath tells whether something else answers at a path of the admin address.
func isAdminPath(path string) bool {
	switch path {
	case "/", "/healthz", "/readyz", "/state", "/images", "/events", "/seed":
		return true
	}
	for _, below := range []string{"/actions/", "/assets/", "/debug/"} {
		if strings.HasPrefix(path, below) {
			return true
		}
	}
	return false
}

// address checks that a TCP address can be listened on.
func (l *loader) address(key, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		l.bad(key, addr, "is not an address to listen on: write a port, for example :8000, or address and port, for example 127.0.0.1:8000")
	}
}

func (l *loader) finishTLS(doc *document) {
	t := &doc.HTTP.TLS
	le := t.LetsEncrypt
	if le.CacheFile != "" || le.Email != "" || len(le.Hosts) > 0 || le.DirectoryURL != "" {
		l.bad("http.tls.letsencrypt", "", "is not supported: write http.tls.certificate and http.tls.key")
	}
	l.keyPair("http.tls.certificate", t.Certificate, "http.tls.key", t.Key)
	for _, file := range t.ClientCAs {
		l.certificates("http.tls.clientcas", file)
	}
	switch t.MinimumTLS {
	case "", "tls1.2", "tls1.3":
	default:
		l.bad("http.tls.minimumtls", t.MinimumTLS, "is not a version of TLS that is supported: write tls1.2 or tls1.3")
	}
	for _, name := range t.CipherSuites {
		if !isCipherSuite(name) {
			l.bad("http.tls.ciphersuites", name, "is not a cipher suite: write for example %s",
				tls.CipherSuiteName(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384))
		}
	}
}

func isCipherSuite(name string) bool {
	for _, suites := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, suite := range suites {
			if suite.Name == name {
				return true
			}
		}
	}
	return false
}

// parseHTTPURL reads an absolute URL with scheme http or https.
func parseHTTPURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("neither http nor https")
	}
	return u, nil
}
