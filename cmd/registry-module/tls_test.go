package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/upstream/upstreamtest"
)

// testCertificate writes the certificate of package httptest into files.
func testCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	ts := httptest.NewTLSServer(http.NotFoundHandler())
	defer ts.Close()
	cert := ts.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, block pem.Block) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&block), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		write("key.pem", pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

// Only the cipher suites that are configured are spoken.
func TestCipherSuites(t *testing.T) {
	const one, other = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
	cert, key := testCertificate(t)
	for _, tt := range []struct {
		names []string
		suite uint16 // the client's only one
		ok    bool
	}{
		{nil, one, true},
		{nil, other, true},
		{[]string{tls.CipherSuiteName(one)}, one, true},
		{[]string{tls.CipherSuiteName(one)}, other, false},
		{[]string{tls.CipherSuiteName(one), tls.CipherSuiteName(other)}, other, true},
		{[]string{tls.CipherSuiteName(tls.TLS_RSA_WITH_AES_256_CBC_SHA)}, tls.TLS_RSA_WITH_AES_256_CBC_SHA, true}, // an insecure one
	} {
		conf, err := apiTLS{}.config(configuration.TLS{Certificate: cert, Key: key, CipherSuites: tt.names}, nil)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(far, conf).Handshake() }()
		client := tls.Client(near, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tt.suite}, InsecureSkipVerify: true})
		err = client.HandshakeContext(t.Context())
		_ = near.Close() // of a failed handshake, too
		if (err == nil) != tt.ok {
			t.Errorf("%v for a client with %s: %v", tt.names, tls.CipherSuiteName(tt.suite), err)
		}
		<-done // the client's error tells
		_ = far.Close()
	}
}

// One port takes plain HTTP and TLS. Where clients have to show certificates, plain HTTP
// is told so.
func TestAPIPort(t *testing.T) {
	quiet(t)
	servers, clients := upstreamtest.NewCA(t), upstreamtest.NewCA(t)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certPEM, keyPEM := servers.Issue()
	cert, key := write("cert.pem", certPEM), write("key.pem", keyPEM)
	cas := []string{write("ca.pem", clients.PEM())}
	own, err := tls.X509KeyPair(clients.Issue())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tls.X509KeyPair(servers.Issue())
	if err != nil {
		t.Fatal(err)
	}
	const none = 0 // no answer
	for name, tt := range map[string]struct {
		tls configuration.TLS
		// Statuses for plain HTTP, and for TLS with no certificate, a good one, and one of
		// another authority.
		plain, nobody, good, bad int
	}{
		"no TLS":      {configuration.TLS{}, 200, none, none, none},
		"TLS":         {configuration.TLS{Certificate: cert, Key: key}, 200, 200, 200, 200},
		"by default":  {configuration.TLS{Certificate: cert, Key: key, ClientCAs: cas}, 400, none, 200, none},
		"required":    {configuration.TLS{Certificate: cert, Key: key, ClientCAs: cas, ClientAuth: "require-and-verify-client-cert"}, 400, none, 200, none},
		"any":         {configuration.TLS{Certificate: cert, Key: key, ClientCAs: cas, ClientAuth: "require-any-client-cert"}, 400, none, 200, 200},
		"if given":    {configuration.TLS{Certificate: cert, Key: key, ClientCAs: cas, ClientAuth: "verify-client-cert-if-given"}, 200, 200, 200, none},
		"requested":   {configuration.TLS{Certificate: cert, Key: key, ClientCAs: cas, ClientAuth: "request-client-cert"}, 200, 200, 200, 200},
		"without CAs": {configuration.TLS{Certificate: cert, Key: key, ClientAuth: "require-and-verify-client-cert"}, 200, 200, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir(), "")
			cfg.Stock.HTTP.TLS = tt.tls
			defer serving(t, cfg)()
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(servers.PEM())
			status := func(scheme string, shown *tls.Certificate) int {
				t.Helper()
				conf := &tls.Config{RootCAs: roots}
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return cmp.Or(shown, new(tls.Certificate)), nil
				}
				tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
				resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(scheme + "://" + cfg.Addr + "/v2/")
				if err != nil {
					return none
				}
				_ = resp.Body.Close() // nothing of it is of interest
				return resp.StatusCode
			}
			for name, got := range map[string][2]int{
				"plain HTTP":                        {status("http", nil), tt.plain},
				"TLS":                               {status("https", nil), tt.nobody},
				"TLS with a certificate":            {status("https", &own), tt.good},
				"TLS with another's certificate":    {status("https", &foreign), tt.bad},
				"plain HTTP, after all of the rest": {status("http", nil), tt.plain},
			} {
				if got[0] != got[1] {
					t.Errorf("%s: status %d, want %d", name, got[0], got[1])
				}
			}
		})
	}
}

// All that is wrong with TLS is told at once, by the names of the settings.
func TestTLSErrors(t *testing.T) {
	cert, key := testCertificate(t)
	none := filepath.Join(t.TempDir(), "none")
	for name, tt := range map[string]struct {
		cfg  configuration.TLS
		by   apiTLS
		want []string
	}{
		"a suite that does not exist": {configuration.TLS{Certificate: cert, Key: key, CipherSuites: []string{"TLS_BANANA"}}, apiTLS{}, []string{"http.tls.ciphersuites", "TLS_BANANA"}},
		"no certificate":              {configuration.TLS{Certificate: none, Key: key}, apiTLS{}, []string{"http.tls.certificate and http.tls.key: ", none}},
		"no authority":                {configuration.TLS{Certificate: cert, Key: key, ClientCAs: []string{none}}, apiTLS{}, []string{"http.tls.clientcas: ", none}},
		"a key as authority":          {configuration.TLS{Certificate: cert, Key: key, ClientCAs: []string{key}}, apiTLS{}, []string{"http.tls.clientcas: ", key}},
		"a key as list":               {configuration.TLS{Certificate: cert, Key: key, ClientCAs: []string{cert}}, apiTLS{crls: []string{key}}, []string{"access.crls: ", key}},
		"no list":                     {configuration.TLS{Certificate: cert, Key: key, ClientCAs: []string{cert}}, apiTLS{crls: []string{none}}, []string{"access.crls", none}},
		"lists for nobody":            {configuration.TLS{Certificate: cert, Key: key}, apiTLS{crls: []string{none}}, []string{"access.crls: ", "authorities"}},
		"all of it": {configuration.TLS{Certificate: none, Key: key, CipherSuites: []string{"TLS_BANANA"}, ClientCAs: []string{key}}, apiTLS{},
			[]string{"http.tls.certificate", "http.tls.ciphersuites", "http.tls.clientcas"}},
	} {
		conf, err := tt.by.config(tt.cfg, nil)
		if err == nil {
			t.Errorf("%s: %v is accepted", name, conf)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s is not in: %v", name, want, err)
			}
		}
	}
}

// A certificate that is no file takes the place of that in the files.
func TestCertificateSource(t *testing.T) {
	ca := upstreamtest.NewCA(t)
	pair, err := tls.X509KeyPair(ca.Issue())
	if err != nil {
		t.Fatal(err)
	}
	by := apiTLS{source: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }}
	conf, err := by.config(configuration.TLS{MinimumTLS: "tls1.3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := conf.GetCertificate(nil)
	if err != nil || got != &pair || conf.MinVersion != tls.VersionTLS13 {
		t.Errorf("got %v, %v, version %s", got, err, tls.VersionName(conf.MinVersion))
	}
}
