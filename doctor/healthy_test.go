package doctor_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"crypto/x509"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
	"registry-module/doctor/report"
	ut "registry-module/upstream/upstreamtest"
)

// statuses writes findings in short: "settings ok, proxy ok, ...".
func statuses(findings []report.Finding) string {
	var texts []string
	for _, f := range findings {
		texts = append(texts, f.Step+" "+string(f.Status))
	}
	return strings.Join(texts, ", ")
}

func find(t *testing.T, findings []report.Finding, step string) report.Finding {
	t.Helper()
	for _, f := range findings {
		if f.Step == step {
			return f
		}
	}
	t.Fatalf("no step %s in %s", step, statuses(findings))
	return report.Finding{}
}

const (
	start  = "settings ok, proxy ok, resolve ok, connect ok, "
	finish = "manifest ok, rate-limit skipped"
)

func TestHealthy(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(s *setup)
		want string
		// requests are those that the registry has seen.
		requests map[ut.Kind]int
	}{
		{"anonymous", func(*setup) {},
			start + "tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"without TLS", func(s *setup) { s.plain() },
			start + "api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"without image", func(s *setup) { s.remote.Image = "" },
			start + "tls ok, api ok, clock ok, auth ok, credentials skipped, manifest skipped, rate-limit skipped",
			map[ut.Kind]int{ut.Ping: 2}},
		{"by digest", func(s *setup) {
			s.remote.Image = "a/b@" + string(s.reg.AddManifest("a/b", "", "application/vnd.oci.image.manifest.v1+json", []byte("{}")))
		}, start + "tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"basic", func(s *setup) {
			s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
			s.remote.Credentials = auth.Static("me", "right")
		}, start + "tls ok, api ok, clock ok, auth ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"bearer, anonymous", func(s *setup) { s.token(ut.Auth{Scheme: "Bearer", ExpiresIn: 300}) },
			start + "tls ok, api ok, clock ok, auth ok, token-resolve ok, token-connect ok, token-tls ok, token ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		{"bearer", func(s *setup) {
			s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right", AccessToken: true})
			s.remote.Credentials = auth.Static("me", "right")
		}, start + "tls ok, api ok, clock ok, auth ok, token-resolve ok, token-connect ok, token-tls ok, token ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		{"bearer at the registry itself", func(s *setup) {
			s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
		}, start + "tls ok, api ok, clock ok, auth ok, token ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestHead: 1}},
		{"bearer without image, with credentials", func(s *setup) {
			s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token", Username: "me", Password: "right"})
			s.remote.Credentials, s.remote.Image = auth.Static("me", "right"), ""
		}, start + "tls ok, api ok, clock ok, auth ok, token ok, credentials ok, manifest skipped, rate-limit skipped",
			map[ut.Kind]int{ut.Ping: 1, ut.Token: 1}},
		{"bearer without image, anonymous", func(s *setup) {
			s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
			s.remote.Image = ""
		}, start + "tls ok, api ok, clock ok, auth ok, token skipped, credentials skipped, manifest skipped, rate-limit skipped",
			map[ut.Kind]int{ut.Ping: 1}},
		{"log-in for images only, bearer", func(s *setup) {
			s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
			s.remote.Credentials = auth.Static("me", "right")
			s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Status: 200, Body: []byte("{}")})
		}, start + "tls ok, api ok, clock ok, auth ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.Token: 1, ut.ManifestHead: 2}},
		{"credentials that are not wanted", func(s *setup) { s.remote.Credentials = auth.Static("me", "right") },
			start + "tls ok, api ok, clock ok, auth ok, credentials ok, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"through a proxy", func(s *setup) {
			user := url.UserPassword("me", "proxy")
			s.remote.Proxy = by("http", newProxy(s.t, s.reg.Host(), 0, user), user)
		}, start + "tunnel ok, tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"through a proxy without TLS", func(s *setup) {
			s.plain()
			s.remote.Proxy = by("http", newProxy(s.t, s.reg.Host(), 0, nil), nil)
		}, start + "api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"through a SOCKS proxy", func(s *setup) { s.remote.Proxy = by("socks5", newSOCKS(s.t, s.reg.Host()), nil) },
			start + "tunnel ok, tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"with a client certificate", func(s *setup) {
			config := s.ca.server(leaf{})
			config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			config.ClientCAs.AddCert(s.ca.cert)
			s.serveWith(config)
			cert := s.ca.server(leaf{}).Certificates[0]
			key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
			if err != nil {
				s.t.Fatal(err)
			}
			s.remote.CertFile = write(s.t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
			s.remote.KeyFile = write(s.t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		}, start + "tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"with the whole chain", func(s *setup) { s.serveWith(s.ca.intermediate("Test Intermediate").server(leaf{})) },
			start + "tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"not verified", func(s *setup) {
			s.remote.CAFile, s.remote.Insecure = "", true
		}, start + "tls warning, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
		{"offline", func(s *setup) { s.remote.Offline = true }, "settings ok, network skipped", nil},
		{"given by address", func(s *setup) { s.remote.URL = parse(s.t, s.reg.URL()) },
			start + "tls ok, api ok, clock ok, auth ok, credentials skipped, " + finish,
			map[ut.Kind]int{ut.Ping: 2, ut.ManifestHead: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			test.make(s)
			findings := s.doctor.Check(t.Context(), s.remote)
			if got := statuses(findings); got != test.want {
				t.Errorf("got  %s\nwant %s\n%+v", got, test.want, findings)
			}
			total := 0
			for kind, n := range test.requests {
				total += n
				if got := s.reg.Requests(kind); got != n {
					t.Errorf("%d requests of kind %s, want %d", got, kind, n)
				}
			}
			if got := s.reg.Requests(); got != total {
				t.Errorf("%d requests in all, want %d", got, total)
			}
			if s.remote.Offline && s.net.dials != 0 {
				t.Error("there was a connection")
			}
		})
	}
}

// What is worth a warning, or a word.
func TestRemarks(t *testing.T) {
	for _, test := range []struct {
		name   string
		make   func(s *setup)
		step   string
		status report.Status
		text   string
	}{
		{"issuer and days", func(*setup) {}, "tls", report.OK, "signed by Test Root, valid until"},
		{"chain", func(s *setup) { s.serveWith(s.ca.intermediate("Test Intermediate").server(leaf{})) },
			"tls", report.OK, "signed by Test Intermediate ← Test Root"},
		{"self-signed, and trusted", func(s *setup) {
			key := newKey(s.t)
			template := authorityTemplate("appliance")
			template.DNSNames = []string{"registry.test"}
			cert := sign(s.t, template, template, key, key)
			s.serveWith(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}})
			s.remote.CAFile = write(s.t, "own.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
		}, "tls", report.OK, "self-signed, and trusted, valid until"},
		{"a certificate too many, which has expired", func(s *setup) {
			template := authorityTemplate("Old Root")
			template.NotAfter = time.Now().AddDate(0, 0, -1)
			key := newKey(s.t)
			config := s.ca.server(leaf{})
			config.Certificates[0].Certificate = append(config.Certificates[0].Certificate, sign(s.t, template, template, key, key).Raw)
			s.serveWith(config)
		}, "tls", report.OK, "signed by Test Root"},
		{"certificate that ends soon", func(s *setup) { s.serve(leaf{after: time.Now().Add(5*24*time.Hour + time.Minute)}) },
			"tls", report.Warning, "(5 days)"},
		{"unverified, and would not pass", func(s *setup) {
			s.serve(leaf{names: []string{"other.test"}})
			s.remote.Insecure = true
		}, "tls", report.Warning, "it would not pass: the certificate is for other.test"},
		{"unverified for nothing", func(s *setup) { s.remote.Insecure = true }, "tls", report.Warning, "not verified (REGISTRY_PROXY_INSECURE_2)"},
		{"certificate that is made for six days", func(s *setup) {
			s.serve(leaf{before: time.Now().AddDate(0, 0, -3), after: time.Now().AddDate(0, 0, 3).Add(time.Minute)})
		}, "tls", report.OK, "(3 days)"},
		{"certificate that is made for six days, and was not renewed", func(s *setup) {
			s.serve(leaf{before: time.Now().AddDate(0, 0, -5), after: time.Now().AddDate(0, 0, 1).Add(time.Minute)})
		}, "tls", report.Warning, "(1 day)"},
		{"nothing, as a page", func(s *setup) { s.says("text/html", "") }, "api", report.OK, "anybody may ask"},
		{"true, as a page", func(s *setup) { s.says("text/html; charset=utf-8", "true\n") }, "api", report.OK, "anybody may ask"},
		{"an object, as a page", func(s *setup) { s.says("text/html", "{}") }, "api", report.OK, "anybody may ask"},
		{"words, as a page", func(s *setup) { s.says("text/html", "It works!") }, "api", report.Warning, "not as a registry does"},
		{"page without a type", func(s *setup) { s.says("", "\ufeff\n<!-- x --><HTML>") }, "api", report.Failed, "a web page"},
		{"page as text", func(s *setup) { s.says("text/plain", "<meta http-equiv=refresh>") }, "api", report.Failed, "a web page"},
		{"clock off by a day, without TLS", func(s *setup) {
			s.plain()
			s.doctor.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		}, "clock", report.Warning, "nothing here depends on that"},
		{"clock off by two minutes", func(s *setup) { s.doctor.Now = func() time.Time { return time.Now().Add(2 * time.Minute) } },
			"clock", report.Warning, "2 minutes ahead of"},
		{"clock off by some seconds", func(s *setup) { s.doctor.Now = func() time.Time { return time.Now().Add(-20 * time.Second) } },
			"clock", report.OK, "seconds behind"},
		{"no clock at the registry", func(s *setup) {
			s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Header: http.Header{"Date": {"never"}}})
		}, "clock", report.Skipped, "does not say"},
		{"answer from a cache", func(s *setup) {
			s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Ping}, Header: http.Header{
				"Date": {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)}, "Age": {"3600"},
			}})
		}, "clock", report.OK, "agrees"},
		{"IPv6 does not work", func(s *setup) {
			s.net.names["registry.test"] = append(s.net.names["registry.test"], netip.MustParseAddr("2001:db8::1"))
			s.net.fails["[2001:db8::1]:443"] = opError(syscall.ETIMEDOUT)
		}, "connect", report.Warning, "by IPv4, but not by IPv6: [2001:db8::1]:443 does not answer"},
		{"IPv4 does not work", func(s *setup) {
			s.net.names["registry.test"] = append(s.net.names["registry.test"], netip.MustParseAddr("2001:db8::1"))
			s.net.routes["[2001:db8::1]:443"] = s.reg.Host()
			s.net.fails["192.0.2.1:443"] = opError(syscall.ECONNREFUSED)
		}, "connect", report.Warning, "by IPv6, but not by IPv4: 192.0.2.1:443 refuses"},
		{"no IPv6 here", func(s *setup) {
			s.net.names["registry.test"] = append(s.net.names["registry.test"], netip.MustParseAddr("2001:db8::1"))
			s.net.fails["[2001:db8::1]:443"] = opError(syscall.ENETUNREACH)
		}, "connect", report.OK, "192.0.2.1:443"},
		{"both families", func(s *setup) {
			s.net.names["registry.test"] = append(s.net.names["registry.test"], netip.MustParseAddr("2001:db8::1"))
			s.net.routes["[2001:db8::1]:443"] = s.reg.Host()
		}, "connect", report.OK, "and by IPv6"},
		{"first address is down", func(s *setup) {
			s.net.names["registry.test"] = []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.1")}
			s.net.fails["192.0.2.9:443"] = opError(syscall.ECONNREFUSED)
		}, "connect", report.OK, "192.0.2.1:443"},
		{"many addresses", func(s *setup) {
			for i := range 6 {
				s.net.names["registry.test"] = append(s.net.names["registry.test"], netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 100+i)))
			}
		}, "resolve", report.OK, "192.0.2.1, 192.0.2.100, 192.0.2.101, 4 more"},
		{"pulls left", func(s *setup) { s.quota("100;w=21600", "97;w=21600") }, "rate-limit", report.OK, "97 of 100 pulls are left, in each 6 hours"},
		{"few pulls left", func(s *setup) { s.quota("100;w=21600", "3;w=21600") }, "rate-limit", report.Warning, "3 of 100"},
		{"quota that cannot be read", func(s *setup) { s.quota("many", "-3") }, "rate-limit", report.Skipped, "says nothing"},
		{"no HEAD", func(s *setup) { s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Status: 405}) },
			"manifest", report.Warning, "does not answer HEAD"},
		{"password in clear text", func(s *setup) {
			s.plain()
			s.reg.SetAuth(ut.Auth{Scheme: "Basic", Username: "me", Password: "right"})
			s.remote.Credentials = auth.Static("me", "right")
		}, "auth", report.Warning, "clear text"},
		{"proxy", func(s *setup) {
			user := url.UserPassword("me", "proxy")
			s.remote.Proxy = by("http", newProxy(s.t, s.reg.Host(), 0, user), user)
		}, "proxy", report.OK, ", with credentials (HTTPS_PROXY)"},
		{"answer of another kind", func(s *setup) {
			s.at(serve(s.t, s.ca.server(leaf{}), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }))
			s.remote.Image = ""
		}, "api", report.Warning, "not as a registry does"},
		{"registry that redirects to another one", func(s *setup) {
			s.at(serve(s.t, s.ca.server(leaf{}), func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, "https://eu.registry.test"+req.URL.Path, http.StatusTemporaryRedirect)
			}))
			elsewhere := ut.NewWith(s.t, ut.Options{TLS: s.ca.server(leaf{names: []string{"eu.registry.test"}})})
			elsewhere.AddRandomImage("a/b", "v1", 1, 10)
			s.net.host("eu.registry.test", "192.0.2.4", "443", elsewhere.Host())
		}, "manifest", report.OK, "a/b:v1"},
		{"token that is configured", func(s *setup) {
			s.reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "https://registry.test/token"})
			s.remote.Credentials = authn.FromConfig(authn.AuthConfig{RegistryToken: "abc"})
			s.remote.Image = "a/b:v1"
		}, "credentials", report.OK, "used as it is"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			test.make(s)
			f := find(t, s.doctor.Check(t.Context(), s.remote), test.step)
			if f.Status != test.status || !strings.Contains(f.Text, test.text) {
				t.Errorf("%s %s: %s\nwant %s with %q", f.Step, f.Status, f.Text, test.status, test.text)
			}
			if (f.Status == report.Warning || f.Status == report.Failed) && f.Advice == "" {
				t.Error("there is no advice")
			}
		})
	}
}

func (s *setup) quota(limit, remaining string) {
	s.reg.Script(ut.Fault{Kinds: []ut.Kind{ut.ManifestHead}, Header: http.Header{"Ratelimit-Limit": {limit}, "Ratelimit-Remaining": {remaining}}})
}

// says has the registry answer everything so.
func (s *setup) says(mediaType, body string) {
	s.remote.Image = ""
	s.at(serve(s.t, s.ca.server(leaf{}), func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{mediaType}
		_, _ = w.Write([]byte(body))
	}))
}
