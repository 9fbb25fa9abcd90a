package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
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
