package upstream_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// write writes a file of its own and returns its path.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCustomCA(t *testing.T) {
	ca := ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
	img := reg.AddRandomImage("a/b", "v1", 1, 1000)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	reg.SetRedirect(true)

	r := newRemote(t, upstream.Options{URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM())})
	get(t, r, "a/b", "v1")
	stream, err := r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t, stream); err != nil {
		t.Error(err)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1, ut.BlobGet: 1, ut.CDNGet: 1})

	reg.ResetCounts()
	for _, file := range []string{"", write(t, "other.pem", ut.NewCA(t).PEM())} {
		r := newRemote(t, upstream.Options{URL: reg.URL(), CAFile: file})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrUnavailable)
		if !strings.Contains(err.Error(), "configure the CA's file") {
			t.Errorf("error %q does not say what to do", err)
		}
	}
	wantRequests(t, reg, nil)
}

func TestInsecure(t *testing.T) {
	ca := ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
	img := reg.AddRandomImage("a/b", "v1", 1, 1000)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", Username: "me", Password: "secret"})
	var logged bytes.Buffer
	log := logrus.New()
	log.SetOutput(&logged)
	opts := upstream.Options{URL: reg.URL(), Insecure: true, Log: log, Credentials: auth.Static("me", "secret")}
	r := newRemote(t, opts)
	get(t, r, "a/b", "v1")
	stream, err := r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t, stream); err != nil {
		t.Error(err)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1, ut.BlobGet: 1})
	if logged.Len() != 0 {
		t.Errorf("logged is %q: who reads the setting has warned already", &logged)
	}

	// A host that blobs are redirected to has nothing to do with that.
	reg.ResetCounts()
	reg.SetRedirect(true)
	_, err = r.Blob(t.Context(), "a/b", img.Layers[0], cache.BlobPart{})
	wantKind(t, err, cache.ErrUnavailable)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("error is %v", err)
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.BlobGet: 1})

	// Where there is no TLS, it has no effect.
	opts.URL = "http://registry.example.com"
	newRemote(t, opts)
	opts.URL, opts.Insecure = reg.URL(), false
	_, err = newRemote(t, opts).Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	if logged.Len() != 0 {
		t.Errorf("logged is %q", &logged)
	}
}

func TestClientCertificate(t *testing.T) {
	ca, clients := ut.NewCA(t), ut.NewCA(t)
	config := ca.ServerConfig(clients)
	config.ClientAuth = tls.VerifyClientCertIfGiven
	reg := ut.NewWith(t, ut.Options{TLS: config})
	img := reg.AddRandomImage("a/b", "v1", 1, 1000)
	reg.SetAuth(ut.Auth{Scheme: "Bearer"})
	reg.SetRedirect(true)

	cert, key := clients.Issue()
	opts := upstream.Options{
		URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM()),
		CertFile: write(t, "cert.pem", cert), KeyFile: write(t, "key.pem", key),
	}
	r := newRemote(t, opts)
	get(t, r, "a/b", "v1")
	if _, err := r.StatBlob(t.Context(), "a/b", img.Config); err != nil {
		t.Fatal(err)
	}
	for _, req := range reg.Log() {
		if foreign := req.Kind == ut.CDNHead; req.ClientCert == foreign {
			t.Errorf("%s with client certificate: %v", req.Kind, req.ClientCert)
		}
	}
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: 1, ut.ManifestGet: 1, ut.BlobHead: 1, ut.CDNHead: 1})

	strict := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(clients)})
	strict.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	opts.URL = strict.URL()
	get(t, newRemote(t, opts), "a/b", "v1")
	opts.CertFile, opts.KeyFile = "", ""
	_, err := newRemote(t, opts).Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
}

func TestClientCertificateIsReplaced(t *testing.T) {
	ca, before, after := ut.NewCA(t), ut.NewCA(t), ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(after)})
	reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
	cert, key := before.Issue()
	opts := upstream.Options{
		URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM()),
		CertFile: write(t, "cert.pem", cert), KeyFile: write(t, "key.pem", key),
	}
	r := newRemote(t, opts)
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrUnavailable)
	cert, key = after.Issue()
	for path, content := range map[string][]byte{opts.CertFile: cert, opts.KeyFile: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	get(t, r, "a/b", "v1")
}

// Of two files one is replaced first, and may be so for long: what they held before goes on
// to be shown.
func TestClientCertificateIsHalfReplaced(t *testing.T) {
	ca, clients := ut.NewCA(t), ut.NewCA(t)
	cert, key := clients.Issue()
	newCert, newKey := clients.Issue()
	for name, first := range map[string]struct{ cert, key []byte }{
		"certificate":  {newCert, key},
		"key":          {cert, newKey},
		"empty":        {nil, key},
		"half written": {cert, newKey[:len(newKey)/2]},
	} {
		t.Run(name, func(t *testing.T) {
			reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(clients)})
			opts := upstream.Options{
				URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM()),
				CertFile: write(t, "cert.pem", cert), KeyFile: write(t, "key.pem", key),
			}
			r := newRemote(t, opts)
			if err := errors.Join(os.WriteFile(opts.CertFile, first.cert, 0o600), os.WriteFile(opts.KeyFile, first.key, 0o600)); err != nil {
				t.Fatal(err)
			}
			reg.AddManifest("a/b", "v1", "application/json", []byte("{}"))
			get(t, r, "a/b", "v1")
		})
	}
}

func TestBadOptions(t *testing.T) {
	ca := ut.NewCA(t)
	cert, key := ca.Issue()
	certFile, keyFile := write(t, "cert.pem", cert), write(t, "key.pem", key)
	_, otherKey := ca.Issue()
	for name, test := range map[string]struct {
		opts upstream.Options
		says string
	}{
		"URL":          {upstream.Options{}, "empty"},
		"CA missing":   {upstream.Options{URL: "ghcr.io", CAFile: "/nonexistent/ca.pem"}, "/nonexistent/ca.pem"},
		"CA empty":     {upstream.Options{URL: "ghcr.io", CAFile: keyFile}, "no certificate"},
		"cert alone":   {upstream.Options{URL: "ghcr.io", CertFile: certFile}, "both"},
		"key alone":    {upstream.Options{URL: "ghcr.io", KeyFile: keyFile}, "both"},
		"cert missing": {upstream.Options{URL: "ghcr.io", CertFile: "/nonexistent/cert.pem", KeyFile: keyFile}, "/nonexistent/cert.pem"},
		"other key":    {upstream.Options{URL: "ghcr.io", CertFile: certFile, KeyFile: write(t, "key.pem", otherKey)}, "private key"},
		"realm":        {upstream.Options{URL: "ghcr.io", AllowedRealms: []string{"https://x/"}}, `"https://x/"`},
	} {
		_, err := upstream.New(test.opts)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v does not say %q", name, err, test.says)
		}
	}
}

func TestHTTPSIsNeverDowngraded(t *testing.T) {
	// A registry that speaks http only, under the names that other clients
	// try http for.
	reg, _ := sample(t)
	for _, host := range []string{reg.Host(), "localhost:5000", "10.1.2.3:5000", "registry.localhost:5000", "registry.example.com"} {
		var dials atomic.Int32
		addr := host
		if !strings.Contains(addr, ":") {
			addr += ":443"
		}
		r := newRemote(t, upstream.Options{
			URL:         "https://" + host,
			DialContext: dialNames(map[string]string{addr: reg.Host()}, &dials),
		})
		_, err := r.Manifest(t.Context(), "a/b", "v1")
		wantKind(t, err, cache.ErrUnavailable)
		if !strings.Contains(err.Error(), "write its URL with http://") {
			t.Errorf("%s: error %q does not say what to do", host, err)
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("%s: %d connections, want 1", host, n)
		}
	}
	wantRequests(t, reg, nil)
}

func TestRedirectFromHTTPSToHTTPIsRefused(t *testing.T) {
	plain, img := sample(t)
	ca := ut.NewCA(t)
	reg := ut.NewWith(t, ut.Options{TLS: ca.ServerConfig(nil)})
	for _, location := range []string{
		plain.URL() + "/v2/a/b/blobs/" + img.Config.String(),
		"http://" + reg.Host() + "/v2/a/b/blobs/" + img.Config.String() + "?secret",
	} {
		end := reg.Script(ut.Fault{Kinds: []ut.Kind{ut.BlobGet}, Status: 307, Header: http.Header{"Location": {location}}})
		r := newRemote(t, upstream.Options{URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM())})
		_, err := r.Blob(t.Context(), "a/b", img.Config, cache.BlobPart{})
		wantKind(t, err, cache.ErrInvalid)
		if !strings.Contains(err.Error(), "from https to http") {
			t.Errorf("error is %v", err)
		}
		end()
	}
	wantRequests(t, plain, nil)

	// The token service of a registry with https is not asked over http.
	reg.SetAuth(ut.Auth{Scheme: "Bearer", Realm: "http://" + plain.TokenHost() + "/token"})
	r := newRemote(t, upstream.Options{URL: reg.URL(), CAFile: write(t, "ca.pem", ca.PEM())})
	_, err := r.Manifest(t.Context(), "a/b", "v1")
	wantKind(t, err, cache.ErrDenied)
	wantRequests(t, plain, nil)
}
