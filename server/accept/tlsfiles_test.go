package accept_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry-module/internal/reloaded"
	"registry-module/server/accept"
)

func TestNewTLSConfigRefuses(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "other")
	impostor := newRoot(t, "root")
	c := root.clientCert(t, "c")
	delta := root.crl(t, &x509.RevocationList{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}})
	strange := root.crl(t, &x509.RevocationList{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{2, 1, 1}}}})
	indirect := root.crl(t, &x509.RevocationList{RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now(),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{48, 0}}}}}})
	cut := root.crl(t, nil, c)
	ca := pemOf("CERTIFICATE", root.cert.Raw)
	whole, half := pemOf("X509 CRL", root.crl(t, nil)), pemOf("X509 CRL", cut)
	half = half[:len(half)/2]
	damaged := append([]byte("-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n"), whole...)
	for name, tt := range map[string]struct {
		cas, crls [][]byte
		mode      tls.ClientAuthType
		kind      error
		want      string
	}{
		"no certificates":         {cas: [][]byte{ca, []byte("x")}, kind: accept.ErrClientCAs, want: "1 contains no certificate in PEM form"},
		"lists alone":             {crls: [][]byte{root.crl(t, nil)}, kind: accept.ErrCRLs, want: "no client authorities"},
		"nobody is verified":      {cas: [][]byte{ca}, crls: [][]byte{root.crl(t, nil)}, mode: tls.RequireAnyClientCert, kind: accept.ErrCRLs, want: "cannot have an effect"},
		"a list of somebody else": {cas: [][]byte{ca}, crls: [][]byte{root.crl(t, nil), other.crl(t, nil)}, kind: accept.ErrCRLs, want: "2: is not signed by a client authority: it names CN=other as its issuer: its certificate is not among"},
		"a list of an impostor":   {cas: [][]byte{ca}, crls: [][]byte{impostor.crl(t, nil)}, kind: accept.ErrCRLs, want: "it names CN=root as its issuer: x509: ECDSA verification failure"},
		"no list":                 {cas: [][]byte{ca}, crls: [][]byte{ca}, kind: accept.ErrCRLs, want: "contains no list"},
		"an empty file":           {cas: [][]byte{ca}, crls: [][]byte{nil}, kind: accept.ErrCRLs, want: "is no list of revoked certificates"},
		"a list that is cut off":  {cas: [][]byte{ca}, crls: [][]byte{cut[:len(cut)-10]}, kind: accept.ErrCRLs, want: "is no list of revoked certificates"},
		"half of a second list":   {cas: [][]byte{ca}, crls: [][]byte{append(whole[:len(whole):len(whole)], half...)}, kind: accept.ErrCRLs, want: "only 1 of 2 lists"},
		"a damaged list":          {cas: [][]byte{ca}, crls: [][]byte{damaged}, kind: accept.ErrCRLs, want: "only 1 of 2 lists"},
		"a delta list":            {cas: [][]byte{ca}, crls: [][]byte{delta}, kind: accept.ErrCRLs, want: "delta"},
		"an indirect list":        {cas: [][]byte{ca}, crls: [][]byte{indirect}, kind: accept.ErrCRLs, want: "indirect"},
		"what is not understood":  {cas: [][]byte{ca}, crls: [][]byte{strange}, kind: accept.ErrCRLs, want: "1.2.3"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			opts := accept.TLSOptions{GetCertificate: root.server(t), ClientAuth: tt.mode}
			for i, content := range tt.cas {
				opts.ClientCAs = append(opts.ClientCAs, file(t, fmt.Sprintf("%s/ca%d", dir, i), content))
			}
			for i, content := range tt.crls {
				opts.CRLs = append(opts.CRLs, file(t, fmt.Sprintf("%s/crl%d", dir, i+1), content))
			}
			_, err := accept.NewTLSConfig(opts)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := accept.NewTLSConfig(accept.TLSOptions{}); err == nil {
		t.Error("without a certificate: no error")
	}
	none := filepath.Join(t.TempDir(), "none")
	if _, err := accept.NewTLSConfig(accept.TLSOptions{GetCertificate: root.server(t), ClientCAs: []string{none}}); !errors.Is(err, accept.ErrClientCAs) {
		t.Errorf("a file that is missing: %v", err)
	}
	if _, err := accept.Certificate(none, none, reloaded.Options{}); err == nil || !strings.Contains(err.Error(), none) {
		t.Errorf("a file that is missing: %v", err)
	}
}

// A certificate that is renewed is that of new connections; a response that is under way
// goes on.
func TestRenewal(t *testing.T) {
	root := newRoot(t, "root")
	dir := t.TempDir()
	var c clock
	certFile, keyFile := files(t, dir, root.serverCert(t, "old"))
	log, logged := logger()
	get, err := accept.Certificate(certFile, keyFile, reloaded.Options{Log: log, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := accept.NewTLSConfig(accept.TLSOptions{GetCertificate: get})
	if err != nil {
		t.Fatal(err)
	}
	const part = 1 << 20
	proceed := make(chan struct{})
	s := serve(t, "tcp", accept.Options{TLS: conf}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(2*part))
		_, _ = w.Write(make([]byte, part))
		_ = http.NewResponseController(w).Flush()
		<-proceed
		_, _ = w.Write(make([]byte, part))
	}))
	client := &tls.Config{RootCAs: root.pool(), ServerName: serverName}
	shown := func() string {
		t.Helper()
		conn := tls.Client(s.dial(t), client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	resp, err := s.client(t, client).Get("https://registry.test/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.CopyN(io.Discard, resp.Body, part); err != nil {
		t.Fatal(err)
	}

	renewed := root.serverCert(t, "new")
	file(t, certFile, pemOf("CERTIFICATE", renewed.Certificate...)) // its key is yet to come
	c.advance(reloaded.DefaultEvery)
	if got := shown(); got != "old" {
		t.Errorf("a certificate without its key: %s is shown", got)
	}
	files(t, dir, renewed)
	c.advance(reloaded.DefaultEvery)
	if got := shown(); got != "new" {
		t.Errorf("%s is shown", got)
	}
	if !strings.Contains(logged.String(), "cannot be used") {
		t.Errorf("log: %s", logged)
	}
	close(proceed)
	if n, err := io.Copy(io.Discard, resp.Body); n != part || err != nil {
		t.Errorf("%d bytes more, %v", n, err)
	}
	if got := resp.TLS.PeerCertificates[0].Subject.CommonName; got != "old" {
		t.Errorf("the response came from %s", got)
	}
}

// Versions and suites are those that were chosen, and HTTP/2 is not among them.
func TestVersions(t *testing.T) {
	root := newRoot(t, "root")
	const suite, other = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	for name, tt := range map[string]struct {
		opts accept.TLSOptions
		most uint16
		ok   bool
	}{
		"default, 1.1":      {accept.TLSOptions{}, tls.VersionTLS11, false},
		"default, 1.2":      {accept.TLSOptions{}, tls.VersionTLS12, true},
		"1.3, 1.2":          {accept.TLSOptions{MinVersion: tls.VersionTLS13}, tls.VersionTLS12, false},
		"1.3, 1.3":          {accept.TLSOptions{MinVersion: tls.VersionTLS13}, tls.VersionTLS13, true},
		"the same suite":    {accept.TLSOptions{CipherSuites: []uint16{suite}}, tls.VersionTLS12, true},
		"different suites":  {accept.TLSOptions{CipherSuites: []uint16{other}}, tls.VersionTLS12, false},
		"client authority":  {accept.TLSOptions{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: []string{""}}, tls.VersionTLS12, true},
		"authority and 1.3": {accept.TLSOptions{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: []string{""}, MinVersion: tls.VersionTLS13}, tls.VersionTLS12, false},
	} {
		t.Run(name, func(t *testing.T) {
			tt.opts.GetCertificate = root.server(t)
			for i := range tt.opts.ClientCAs {
				tt.opts.ClientCAs[i] = file(t, t.TempDir()+"/ca", pemOf("CERTIFICATE", root.cert.Raw))
			}
			conf, err := accept.NewTLSConfig(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t, "tcp", accept.Options{TLS: conf}, text("ok"))
			conn := tls.Client(s.dial(t), &tls.Config{RootCAs: root.pool(), ServerName: serverName, MinVersion: tls.VersionTLS10,
				MaxVersion: tt.most, CipherSuites: []uint16{suite}, NextProtos: []string{"h2", "http/1.1"}})
			err = conn.Handshake()
			if (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
			if got := conn.ConnectionState().NegotiatedProtocol; tt.ok && got != "http/1.1" {
				t.Errorf("protocol %q", got)
			}
		})
	}
}
