package doctor_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/doctor/report"
	ut "registry-module/upstream/upstreamtest"
)

// broken is a set-up that does not work, and what is to be said of it.
type broken struct {
	name string
	// make changes a set-up that works: registry.test, by https, with a certificate
	// of a CA that is configured, and the image a/b:v1.
	make func(s *setup)
	// step has failed, and its text and advice say these things.
	step         string
	text, advice string
}

var brokenSetups = []broken{
	// Names.
	{"NXDOMAIN", func(s *setup) { delete(s.net.names, "registry.test") },
		"resolve", "there is no host registry.test", "REGISTRY_PROXY_REMOTEURL_2"},
	{"name server does not answer", func(s *setup) {
		s.net.fails["registry.test"] = &net.DNSError{Err: "i/o timeout", Server: "192.0.2.53:53", IsTimeout: true}
	}, "resolve", "192.0.2.53:53 does not answer", "port 53"},
	{"no name server", func(s *setup) {
		s.net.fails["registry.test"] = &net.DNSError{Err: "read udp 127.0.0.1:4711->127.0.0.1:53: read: connection refused", Server: "127.0.0.1:53", IsTemporary: true}
	}, "resolve", "no name server that can be reached", "/etc/resolv.conf"},
	{"name server fails", func(s *setup) {
		s.net.fails["registry.test"] = &net.DNSError{Err: "server misbehaving", Server: "192.0.2.53:53", IsTemporary: true}
	}, "resolve", "a failure of its own (server misbehaving)", "another name server"},

	// Connections.
	{"connection refused", func(s *setup) { s.at(closed(s.t)) },
		"connect", "192.0.2.1:443 refuses the connection", "nothing listens there"},
	{"no route", func(s *setup) { s.net.fails["192.0.2.1:443"] = opError(syscall.EHOSTUNREACH) },
		"connect", "no route to 192.0.2.1", "default gateway"},
	{"dropped by a firewall", func(s *setup) {
		s.doctor.Timeout = time.Second
		s.doctor.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}, "connect", "192.0.2.1:443 does not answer", "allow outgoing TCP to port 443"},
	{"forbidden by this machine", func(s *setup) { s.net.fails["192.0.2.1:443"] = opError(syscall.EPERM) },
		"connect", "this machine forbids connections", "firewall of this machine"},
	{"IPv6 only, without IPv6", func(s *setup) {
		s.net.names["registry.test"] = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
		s.net.fails["[2001:db8::1]:443"] = opError(syscall.ENETUNREACH)
	}, "connect", "IPv6 addresses only (2001:db8::1)", "Give this machine IPv6"},

	// TLS.
	{"black hole", func(s *setup) {
		s.at(raw(s.t, hold))
		s.doctor.Timeout = time.Second
	}, "tls", "takes the connection and does not answer", "firewall"},
	{"cut off by name", func(s *setup) {
		s.at(raw(s.t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1000)) }))
	}, "tls", "closes the connection when TLS begins", "allow registry.test"},
	{"http instead of https", func(s *setup) { s.at(serve(s.t, nil, page(200))) },
		"tls", "speaks HTTP without TLS", "REGISTRY_PROXY_REMOTEURL_2=http://registry.test"},
	{"not TLS at all", func(s *setup) {
		s.at(raw(s.t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_10.0\r\n")
			hold(conn)
		}))
	}, "tls", "does not speak TLS", "port"},
	{"TLS that is too old", func(s *setup) {
		config := s.ca.server(leaf{})
		config.MinVersion, config.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
		s.serveWith(config)
	}, "tls", "too old", "TLS 1.2"},
	{"expired certificate", func(s *setup) {
		s.serve(leaf{after: time.Now().AddDate(0, 0, -3)})
	}, "tls", "3 days ago: this machine believes that it is", "renew it"},
	{"expired certificate, and a server that agrees", func(s *setup) {
		s.serve(leaf{after: time.Now().AddDate(0, 0, -3)})
	}, "tls", ", and so does the server", "renew it"},
	{"expired certificate, and a clock that is off by hours", func(s *setup) {
		s.serve(leaf{after: time.Now().AddDate(0, 0, -3)})
		s.doctor.Now = func() time.Time { return time.Now().Add(6 * time.Hour) }
	}, "tls", ", and the server that it is 20", "renew it"},
	{"certificate of the future", func(s *setup) {
		s.serve(leaf{before: time.Now().AddDate(0, 0, 3)})
	}, "tls", "is not valid before", "renew it"},
	{"unknown CA", func(s *setup) { s.remote.CAFile = "" },
		"tls", "signed by Test Root, which this machine does not trust", "set REGISTRY_PROXY_CA_2 to a file"},
	{"unknown CA, first remote", func(s *setup) { s.remote.CAFile, s.remote.Number = "", 1 },
		"tls", "does not trust", "set REGISTRY_PROXY_CA to a file"},
	{"self-signed certificate", func(s *setup) {
		key := newKey(s.t)
		template := authorityTemplate("appliance")
		template.DNSNames = []string{"registry.test"}
		s.serveWith(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{sign(s.t, template, template, key, key).Raw}, PrivateKey: key}}})
	}, "tls", "self-signed (appliance)", "REGISTRY_PROXY_CA_2"},
	{"intermediate certificate missing", func(s *setup) {
		inter := s.ca.intermediate("Test Intermediate")
		s.serveWith(inter.server(leaf{short: true, aia: []string{"http://ca.test/intermediate.crt"}}))
	}, "tls", "an intermediate certificate is missing, that of Test Intermediate", "whole chain"},
	{"certificate for another name", func(s *setup) { s.serve(leaf{names: []string{"registry.example.com", "cdn.example.com"}}) },
		"tls", "for registry.example.com, cdn.example.com, not for registry.test", "REGISTRY_PROXY_REMOTEURL_2"},
	{"captive portal with a certificate", func(s *setup) {
		s.at(serve(s.t, newAuthority(s.t, "Hotel CA").server(leaf{names: []string{"login.hotel.test"}}), page(200)))
	}, "tls", "for login.hotel.test, not for registry.test, and signed by Hotel CA", "captive portal"},
	{"client certificate wanted", func(s *setup) {
		config := s.ca.server(leaf{})
		config.ClientAuth = tls.RequireAnyClientCert
		s.serveWith(config)
	}, "api", "wants a client certificate, and none is configured", "REGISTRY_PROXY_CERTIFICATE_2"},
	{"clock off by a day, and the certificate not valid then", func(s *setup) {
		s.serve(leaf{after: time.Now().Add(time.Hour)})
		s.doctor.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	}, "clock", "24 hours ahead of the registry's", "Set the clock of this machine"},
	{"clock off by a day, backwards", func(s *setup) {
		s.serve(leaf{before: time.Now().Add(-time.Hour)})
		s.doctor.Now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	}, "clock", "24 hours behind the registry's", "Set the clock of this machine"},
	{"clock off by a day, and the certificate valid", func(s *setup) {
		s.doctor.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	}, "clock", "24 hours ahead", "NTP"},

	// Proxies.
	{"proxy is no URL", func(s *setup) {
		s.remote.Proxy = func(*http.Request) (*url.URL, error) { return nil, io.ErrUnexpectedEOF }
	}, "proxy", "not a URL", "HTTPS_PROXY"},
	{"proxy down", func(s *setup) { s.remote.Proxy = by("http", closed(s.t), nil) },
		"connect", "the HTTP proxy cannot be reached: 127.0.0.1", "HTTPS_PROXY"},
	{"proxy has no name", func(s *setup) {
		s.remote.Proxy, s.remote.ProxySetting = by("http", "proxy.test:3128", nil), "REGISTRY_PROXY_HTTPPROXY_2"
	}, "resolve", "no host proxy.test", "REGISTRY_PROXY_HTTPPROXY_2"},
	{"proxy refuses CONNECT", func(s *setup) { s.remote.Proxy = by("http", newProxy(s.t, "", 403, nil), nil) },
		"tunnel", "refuses to connect to registry.test:443 (HTTP status 403)", "allow CONNECT to registry.test:443"},
	{"proxy wants credentials", func(s *setup) {
		s.remote.Proxy = by("http", newProxy(s.t, "", 0, url.UserPassword("me", "right")), nil)
	}, "tunnel", "wants credentials, and none are configured", "http://USER:PASSWORD@"},
	{"proxy wants other credentials", func(s *setup) {
		s.remote.Proxy = by("http", newProxy(s.t, "", 0, url.UserPassword("me", "right")), url.UserPassword("me", "wrong"))
	}, "tunnel", "does not accept the credentials", "http://USER:PASSWORD@"},
	{"proxy cannot reach the registry", func(s *setup) { s.remote.Proxy = by("http", newProxy(s.t, closed(s.t), 0, nil), nil) },
		"tunnel", "cannot reach registry.test:443 itself", "the proxy's log"},
	{"proxy is silent", func(s *setup) {
		s.remote.Proxy = by("http", raw(s.t, hold), nil)
		s.doctor.Timeout = time.Second
	}, "tunnel", "takes connections and does not answer", "names an HTTP proxy"},
	{"proxy wants credentials, without TLS", func(s *setup) {
		s.plain()
		s.remote.Proxy = by("http", newProxy(s.t, "", 0, url.UserPassword("me", "right")), nil)
	}, "api", "wants credentials", "HTTP_PROXY"},
	{"proxy for the token service is down, and for the registry there is none", func(s *setup) {
		s.plain()
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://auth.registry.test/token"})
		s.remote.AllowedRealms = []string{"auth.registry.test"}
		down := by("http", closed(s.t), nil)
		s.remote.Proxy = func(req *http.Request) (*url.URL, error) {
			if req.URL.Scheme == "https" {
				return down(req)
			}
			return nil, nil
		}
	}, "token-connect", "the HTTP proxy cannot be reached", "HTTPS_PROXY"},
	{"SOCKS proxy is none", func(s *setup) {
		s.remote.Proxy = by("socks5", raw(s.t, func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") }), nil)
	}, "tunnel", "the SOCKS proxy does not connect", "SOCKS5 proxy"},

	// The API.
	{"https instead of http", func(s *setup) {
		s.remote.URL = parse(s.t, "http://registry.test:443")
	}, "api", "speaks TLS (https), and the URL says http", "REGISTRY_PROXY_REMOTEURL_2=https://registry.test:443"},
	{"http that redirects to https", func(s *setup) {
		s.plain()
		s.net.routes["192.0.2.1:80"] = serve(s.t, nil, redirectTo("https://registry.test/v2/"))
	}, "api", "wants https", "REGISTRY_PROXY_REMOTEURL_2=https://registry.test"},
	{"no answer", func(s *setup) {
		s.reg.Script(ut.Fault{Hang: true})
		s.doctor.Timeout = time.Second
	}, "api", "takes the request and does not answer", "--timeout"},
	{"connection closed", func(s *setup) { s.reg.Script(ut.Fault{Drop: true}) },
		"api", "closes the connection without an answer", "port"},
	{"captive portal by redirect", func(s *setup) {
		s.plain()
		s.net.routes["192.0.2.1:80"] = serve(s.t, nil, redirectTo("http://login.hotel.test/?from=registry.test"))
		s.net.host("login.hotel.test", "192.0.2.2", "80", serve(s.t, nil, page(200)))
	}, "api", "redirects to login.hotel.test, and what answers there is not a registry", "captive portal"},
	{"captive portal by redirect to who is away", func(s *setup) {
		s.at(serve(s.t, s.ca.server(leaf{}), redirectTo("https://login.hotel.test/")))
	}, "api", "redirects to login.hotel.test, where no registry answers", "captive portal"},
	{"captive portal by redirect without TLS", func(s *setup) {
		s.at(serve(s.t, s.ca.server(leaf{}), redirectTo("http://login.hotel.test/")))
	}, "api", "redirects to login.hotel.test, without TLS", "captive portal"},
	{"captive portal by page", func(s *setup) { s.at(serve(s.t, s.ca.server(leaf{}), page(200))) },
		"api", "a web page, not a registry", "captive portal"},
	{"captive portal by status", func(s *setup) { s.at(serve(s.t, s.ca.server(leaf{}), page(511))) },
		"api", "511", "captive portal"},
	{"page that blocks", func(s *setup) { s.at(serve(s.t, s.ca.server(leaf{}), page(403))) },
		"api", "a web page that refuses", "have registry.test allowed"},
	{"no registry", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 404}) },
		"api", "there is no registry at registry.test", "REGISTRY_PROXY_REMOTEURL_2"},
	{"registry down", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 503, Header: http.Header{"Retry-After": {"120"}}})
	}, "api", "HTTP status 503", "wait for 2 minutes"},
	{"rate limited", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 429, Header: http.Header{"Retry-After": {"90"}}})
	}, "api", "too many requests (HTTP status 429); it asks to wait for 90 seconds", "REGISTRY_PROXY_USERNAME_2"},
	{"log-in of an unknown kind", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 401, Header: http.Header{"Www-Authenticate": {`Negotiate realm="x"`}}})
	}, "auth", `log-in by "negotiate"`, "Bearer"},
	{"log-in that is not said", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 401}) },
		"api", "does not say which", "WWW-Authenticate"},

	// Log-in.
	{"realm on another domain", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://tokens.evil.test/token"})
	}, "auth", "to another domain, tokens.evil.test", "set REGISTRY_PROXY_ALLOWEDREALMS_2=tokens.evil.test"},
	{"realm without TLS", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "http://registry.test/token"})
	}, "auth", "over http", "operator"},
	{"token service has no name", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://auth.registry.test/token"})
		s.remote.AllowedRealms = []string{"auth.registry.test"}
	}, "token-resolve", "no host auth.registry.test", "name server"},
	{"token service down", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer"})
		s.net.routes["192.0.2.3:443"] = closed(s.t)
	}, "token-connect", "the token service cannot be reached: 192.0.2.3:443 refuses", "nothing listens there"},
	{"token service with another CA", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer"})
		s.net.routes["192.0.2.3:443"] = serve(s.t, newAuthority(s.t, "Other Root").server(leaf{names: []string{"auth.registry.test"}}), page(200))
	}, "token-tls", "signed by Other Root", "REGISTRY_PROXY_CA_2"},
	{"token service is a page", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer"})
		s.net.routes["192.0.2.3:443"] = serve(s.t, s.ca.server(leaf{names: []string{"auth.registry.test"}}), page(200))
	}, "token", "the token service auth.registry.test is a web page", "captive portal"},
	{"token service fails", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 500})
	}, "token", "failure of its own", "Try again later"},
	{"token service gives none", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Body: []byte(`{"hello": "world"}`)})
	}, "token", "holds no token", "operator"},
	{"token service limits", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 429})
	}, "token", "too many requests", "Wait"},
	{"wrong password (basic)", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
		s.remote.Credentials = auth.Static("me", "wrong")
	}, "credentials", "the registry does not accept the credentials", "REGISTRY_PROXY_USERNAME_2 and REGISTRY_PROXY_PASSWORD_2"},
	{"no password (basic)", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
	}, "credentials", "none are configured", "Set REGISTRY_PROXY_USERNAME_2"},
	{"wrong password at the token service", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
		s.remote.Credentials = auth.Static("me", "wrong")
	}, "credentials", "the token service auth.registry.test does not accept", "REGISTRY_PROXY_PASSWORD_2"},
	{"no password for the token service", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
	}, "credentials", "wants credentials, and none are configured", "REGISTRY_PROXY_PASSWORD_FILE_2"},
	{"credentials that cannot be read", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
		s.remote.Credentials = unreadable{}
	}, "credentials", "the credentials cannot be read: helper is missing", "command that gives them"},

	{"credentials of which there are none (basic)", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
		s.remote.Credentials = authn.FromConfig(authn.AuthConfig{})
	}, "credentials", "the file or command that is configured has none for registry.test", "REGISTRY_PROXY_USERNAME_2"},
	{"credentials of which there are none (token)", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
		s.remote.Credentials = authn.FromConfig(authn.AuthConfig{})
	}, "credentials", "the file or command that is configured has none for registry.test", "REGISTRY_PROXY_USERNAME_2"},
	{"token where a password is wanted", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
		s.remote.Credentials = authn.FromConfig(authn.AuthConfig{IdentityToken: "abc"})
	}, "credentials", "a token is configured", "REGISTRY_PROXY_USERNAME_2"},
	{"identity token that has expired", func(s *setup) {
		s.token(ut.Auth{Scheme: "Bearer"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 400})
		s.remote.Credentials, s.remote.CredentialsSetting = identity("abc"), "REGISTRY_PROXY_IDENTITYTOKEN_2"
	}, "credentials", "does not accept the identity token", "set REGISTRY_PROXY_IDENTITYTOKEN_2"},
	{"token service is not there", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 404})
	}, "token", "does not give one (HTTP status 404, Not Found)", "operator"},
	{"token service closes the connection", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Drop: true})
	}, "token", "closes the connection without an answer", "port"},
	{"token service redirects to another domain", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Status: 307, Header: http.Header{"Location": {"https://evil.test/token"}}})
	}, "token", "another domain, evil.test", "operator"},

	// Manifests.
	{"manifest unknown", func(s *setup) { s.remote.Image = "a/b:v2" },
		"manifest", "the registry has no a/b:v2: MANIFEST_UNKNOWN", "--image"},
	{"wrong password, for images only", func(s *setup) {
		s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
		s.remote.Credentials = auth.Static("me", "wrong")
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Times: 1, Status: 200, Body: []byte("{}")})
	}, "manifest", "the registry does not accept the credentials", "REGISTRY_PROXY_PASSWORD_2"},
	{"expired intermediate certificate", func(s *setup) {
		inter := s.ca.intermediate("Old Intermediate")
		template := authorityTemplate("Old Intermediate")
		template.NotAfter = time.Now().AddDate(0, 0, -3)
		inter.above = [][]byte{sign(s.t, template, s.ca.cert, inter.key, s.ca.key).Raw}
		s.serveWith(inter.server(leaf{}))
	}, "tls", "the certificate of Old Intermediate has expired", "renew it"},
	{"manifest denied", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead, ut.ManifestGet}, Status: 403})
	}, "manifest", "does not give us a/b:v1 (HTTP status 403, Forbidden): FAULT: scripted fault", "REGISTRY_PROXY_USERNAME_2"},
	{"manifest rate limited", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 429, Header: http.Header{"Retry-After": {"7200"}}})
	}, "manifest", "wait for 2 hours", "logs in"},
	{"loop of registries", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead, ut.ManifestGet}, Status: 508})
	}, "manifest", "in a circle: scripted fault", "none may lead back here"},
	{"registry fails", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 502}) },
		"manifest", "a failure of its own (HTTP status 502, Bad Gateway)", "Try again later"},
	{"manifest redirected to nowhere", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 307})
	}, "manifest", "redirected to where no manifest is", "captive portal"},
	{"redirects without end", func(s *setup) {
		s.at(serve(s.t, s.ca.server(leaf{}), redirectTo("https://registry.test/v2/")))
	}, "api", "what answers there is not a registry", "captive portal"},
	{"redirect to nowhere", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 302})
	}, "api", "redirects to nowhere", "captive portal"},
	{"answer that no registry gives", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 418}) },
		"api", "an answer that no registry gives (HTTP status 418", "what is in between"},
	{"address refused", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 403}) },
		"api", "registry.test refuses (HTTP status 403)", "this machine's address"},
	{"not HTTP", func(s *setup) {
		s.plain()
		s.net.routes["192.0.2.1:80"] = raw(s.t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "220 mail.test ESMTP\r\n\r\n")
			hold(conn)
		})
	}, "api", "registry.test does not speak HTTP", "another service"},
	{"proxy fails, without TLS", func(s *setup) {
		s.plain()
		s.remote.Proxy = by("http", newProxy(s.t, closed(s.t), 0, nil), nil)
	}, "api", "the HTTP proxy or registry.test has a failure", "log of the HTTP proxy"},
	{"proxy with TLS and a CA that is not known", func(s *setup) {
		s.remote.Proxy = by("https", serve(s.t, newAuthority(s.t, "Proxy CA").server(leaf{}), page(200)), nil)
	}, "tunnel", "TLS with the HTTP proxy fails", "REGISTRY_PROXY_CA_2"},
	{"manifest is a page", func(s *setup) { s.reg.Script(ut.HTMLPage(ut.ManifestHead)) },
		"manifest", "a web page, not a manifest", "captive portal"},
	{"manifest that is of no use", func(s *setup) {
		s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Header: http.Header{"Docker-Content-Digest": {"none"}}})
	}, "manifest", `its Docker-Content-Digest "none" is no digest`, "operator"},

	// Settings.
	{"CA file is not there", func(s *setup) { s.remote.CAFile = "/nonexistent/ca.pem" },
		"settings", "/nonexistent/ca.pem", "REGISTRY_PROXY_CA_2"},
	{"image is no image", func(s *setup) { s.remote.Image = "A B" },
		"settings", "not the name of a repository", "--image"},
	{"no URL", func(s *setup) { s.remote.URL = nil },
		"settings", "no URL", "REGISTRY_PROXY_REMOTEURL_2"},
}

func TestBroken(t *testing.T) {
	for _, test := range brokenSetups {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			test.make(s)
			findings := s.doctor.Check(t.Context(), s.remote)
			seen := 0
			for i, f := range findings {
				if f.Status != report.Failed {
					continue
				}
				seen++
				if f.Step != test.step || !strings.Contains(f.Text, test.text) || !strings.Contains(f.Advice, test.advice) {
					t.Errorf("failed is %s: %s → %s\nwant %s with %q and %q", f.Step, f.Text, f.Advice, test.step, test.text, test.advice)
				}
				if f.Step == "clock" {
					continue // what does not need certificates goes on
				}
				for _, later := range findings[i+1:] {
					if later.Status != report.Skipped && later.Step != "clock" {
						t.Errorf("%s was tried after %s had failed", later.Step, f.Step)
					}
				}
			}
			if seen != 1 {
				t.Errorf("%d steps have failed, want 1: %+v", seen, findings)
			}
			if report.Worst(findings) != report.Failed {
				t.Error("that something has failed is not the worst")
			}
		})
	}
}
