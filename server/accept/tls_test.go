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
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"registry-module/internal/reloaded"
	"registry-module/server/accept"
)

// clock is a clock that a test sets.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// mutual is a site whose clients show certificates.
type mutual struct {
	*site
	root, between *authority
	clock         *clock
	cas, crl      string // files
	names         *lines // what is logged about files
}

// newMutual starts a server for a mode. The lists are those of its root, with what is in
// revoked.
func newMutual(t *testing.T, mode tls.ClientAuthType, revoked ...tls.Certificate) *mutual {
	t.Helper()
	return newMutualOf(t, newRoot(t, "root"), mode, revoked...)
}

func newMutualOf(t *testing.T, root *authority, mode tls.ClientAuthType, revoked ...tls.Certificate) *mutual {
	t.Helper()
	dir := t.TempDir()
	m := &mutual{root: root, between: root.between(t, "between"), clock: new(clock)}
	m.cas = file(t, filepath.Join(dir, "ca.pem"), pemOf("CERTIFICATE", m.root.cert.Raw, m.between.cert.Raw))
	m.crl = file(t, filepath.Join(dir, "crl.pem"), m.root.crl(t, nil, revoked...)) // in DER form
	opts := accept.TLSOptions{GetCertificate: root.server(t), ClientCAs: []string{m.cas}, ClientAuth: mode, Now: m.clock.now}
	if mode == tls.VerifyClientCertIfGiven || mode == tls.RequireAndVerifyClientCert || mode == tls.NoClientCert {
		opts.CRLs = []string{m.crl}
	}
	opts.Log, m.names = logger()
	conf, err := accept.NewTLSConfig(opts)
	if err != nil {
		t.Fatal(err)
	}
	m.site = serve(t, "tcp", accept.Options{TLS: conf}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if chains := r.TLS.VerifiedChains; len(chains) > 0 {
			name = chains[0][0].Subject.CommonName
		} else if len(r.TLS.PeerCertificates) > 0 {
			name = "unverified " + r.TLS.PeerCertificates[0].Subject.CommonName
		}
		_, _ = fmt.Fprintf(w, "%s, again %v", name, r.TLS.DidResume)
	}))
	return m
}

// client is one with a certificate, if that is not nil.
func (m *mutual) tls(pair *tls.Certificate) *tls.Config {
	conf := &tls.Config{RootCAs: m.root.pool(), ServerName: serverName}
	if pair != nil {
		// Whatever authorities the server names.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return conf
}

func TestClientCertificates(t *testing.T) {
	root := newRoot(t, "root")
	between := root.between(t, "between")
	impostor := newRoot(t, "root") // of the same name
	good, revoked := root.clientCert(t, "good"), root.clientCert(t, "revoked")
	indirect := between.clientCert(t, "indirect")
	indirect.Certificate = append(indirect.Certificate, between.cert.Raw)
	withdrawn := root.between(t, "withdrawn")
	orphan := withdrawn.clientCert(t, "orphan")
	orphan.Certificate = append(orphan.Certificate, withdrawn.cert.Raw)
	expired := root.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "expired"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	early := root.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "early"},
		NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)})
	unknown := impostor.clientCert(t, "unknown")
	server := root.serverCert(t, "server")
	odd := impostor.clientCert(t, "odd\nlevel=info "+strings.Repeat("x", 100))

	everyMode := []tls.ClientAuthType{tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven, tls.RequireAnyClientCert, tls.RequestClientCert, tls.NoClientCert}
	verify := []tls.ClientAuthType{tls.RequireAndVerifyClientCert, tls.VerifyClientCertIfGiven, tls.NoClientCert}
	for name, tt := range map[string]struct {
		shown *tls.Certificate
		ok    []tls.ClientAuthType
		name  string // as the handler sees it, where it is verified
		log   string // where it is refused
	}{
		"good":             {&good, everyMode, "good", ""},
		"of between":       {&indirect, everyMode, "indirect", ""},
		"none":             {nil, []tls.ClientAuthType{tls.VerifyClientCertIfGiven, tls.RequestClientCert}, "nobody", ""},
		"revoked":          {&revoked, except(everyMode, verify), "", "certificate of CN=revoked was refused: the certificate of CN=revoked with the serial number 4 was revoked on 2026-01-02 by CN=root"},
		"issuer revoked":   {&orphan, except(everyMode, verify), "", "certificate of CN=orphan was refused: the certificate of CN=withdrawn with the serial number 5 was revoked on 2026-01-02 by CN=root"},
		"expired":          {&expired, except(everyMode, verify), "", "certificate of CN=expired was refused: x509: certificate has expired"},
		"early":            {&early, except(everyMode, verify), "", "certificate of CN=early was refused: x509: certificate has expired or is not yet valid"},
		"unknown":          {&unknown, except(everyMode, verify), "", "certificate of CN=unknown was refused: x509: certificate signed by unknown authority"},
		"for servers only": {&server, except(everyMode, verify), "", "certificate of CN=server was refused: x509: certificate specifies an incompatible key usage"},
		"an odd name":      {&odd, except(everyMode, verify), "", `was refused`},
	} {
		for _, mode := range everyMode {
			t.Run(fmt.Sprintf("%s, %v", name, mode), func(t *testing.T) {
				m := newMutualOf(t, root, mode, revoked, tls.Certificate{Leaf: withdrawn.cert})
				want := tt.name
				if tt.shown != nil && (mode == tls.RequireAnyClientCert || mode == tls.RequestClientCert) {
					want = "unverified " + tt.shown.Leaf.Subject.CommonName
				}
				status, body, err := m.get(t, m.tls(tt.shown))
				if !slices.Contains(tt.ok, mode) {
					if err == nil {
						t.Errorf("got %d, %s", status, body)
					}
					if tt.log != "" {
						// TLS 1.3 tells the client before the server knows.
						eventually(t, "a line", func() bool { return m.log.String() != "" })
						line := m.log.lineWith(t, "refused")
						if !strings.Contains(line, tt.log) || strings.Count(m.log.String(), "\n") != 1 {
							t.Errorf("log: %s", line)
						}
					}
					return
				}
				if err != nil || status != 200 || body != want+", again false" {
					t.Errorf("got %d, %q, %v, want %q", status, body, err, want)
				}
				if m.log.String() != "" {
					t.Errorf("log: %s", m.log)
				}
			})
		}
	}
}

func except(modes, without []tls.ClientAuthType) []tls.ClientAuthType {
	return slices.DeleteFunc(slices.Clone(modes), func(m tls.ClientAuthType) bool { return slices.Contains(without, m) })
}

// What holds is looked up for each handshake, also where a session goes on.
func TestResumedSessions(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, tt := range map[string]struct {
			change func(t *testing.T, m *mutual, c tls.Certificate)
			want   string // empty for refused
			log    string
		}{
			"nothing": {func(*testing.T, *mutual, tls.Certificate) {}, "c, again true", ""},
			"another one is revoked": {func(t *testing.T, m *mutual, _ tls.Certificate) {
				file(t, m.crl, m.root.crl(t, nil, m.root.clientCert(t, "other")))
			}, "c, again true", ""},
			"it is revoked": {func(t *testing.T, m *mutual, c tls.Certificate) {
				file(t, m.crl, pemOf("X509 CRL", m.root.crl(t, nil), m.root.crl(t, nil, c)))
			}, "", "was revoked on"},
			"it expires": {func(_ *testing.T, m *mutual, _ tls.Certificate) {
				m.clock.advance(90 * time.Minute)
			}, "", "has expired"},
			"its authority is replaced": {func(t *testing.T, m *mutual, _ tls.Certificate) {
				other := newRoot(t, "other")
				file(t, m.crl, other.crl(t, nil))
				file(t, m.cas, pemOf("CERTIFICATE", other.cert.Raw))
			}, "", "unknown authority"},
		} {
			t.Run(fmt.Sprintf("%s, %s", name, tls.VersionName(version)), func(t *testing.T) {
				m := newMutual(t, tls.RequireAndVerifyClientCert)
				c := m.root.clientCert(t, "c")
				conf := m.tls(&c)
				conf.MaxVersion = version
				conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				conf.Time = time.Now
				m.want(t, conf, "c, again false")
				m.want(t, conf, "c, again true")
				tt.change(t, m, c)
				m.clock.advance(reloaded.DefaultEvery)
				if tt.want != "" {
					m.want(t, conf, tt.want)
					return
				}
				for range 2 {
					if status, body, err := m.get(t, conf); err == nil {
						t.Errorf("got %d, %s", status, body)
					}
				}
				eventually(t, tt.log, func() bool { return strings.Contains(m.log.String(), tt.log) })
			})
		}
	}
}

// A list that is no good, or signed by somebody else, changes nothing.
func TestListIsReplaced(t *testing.T) {
	root := newRoot(t, "root")
	a, b := root.clientCert(t, "a"), root.clientCert(t, "b")
	m := newMutualOf(t, root, tls.RequireAndVerifyClientCert, a)
	refused := func(pair tls.Certificate) bool {
		_, _, err := m.get(t, m.tls(&pair))
		return err != nil
	}
	for _, step := range []struct {
		name string
		list []byte
		a, b bool // are refused
		log  string
	}{
		{"at first", m.root.crl(t, nil, a), true, false, ""},
		{"of an impostor", newRoot(t, "root").crl(t, nil), true, false, "CN=root"},
		{"garbage", []byte("garbage"), true, false, "is no list"},
		{"other one", m.root.crl(t, nil, b), false, true, ""},
		{"both", pemOf("X509 CRL", m.root.crl(t, nil, a), m.between.crl(t, nil), m.root.crl(t, nil, b)), true, true, ""},
	} {
		file(t, m.crl, step.list)
		m.clock.advance(reloaded.DefaultEvery)
		if gotA, gotB := refused(a), refused(b); gotA != step.a || gotB != step.b {
			t.Errorf("%s: refused are %v and %v", step.name, gotA, gotB)
		}
		if log := m.names.String(); step.log != "" && !strings.Contains(log, step.log) {
			t.Errorf("%s: log: %s", step.name, log)
		}
	}
}

// A list that is out of date is better than none, and known to be.
func TestOldList(t *testing.T) {
	root := newRoot(t, "root")
	good, revoked := root.clientCert(t, "good"), root.clientCert(t, "revoked")
	m := newMutualOf(t, root, tls.RequireAndVerifyClientCert, revoked)
	file(t, m.crl, root.crl(t, &x509.RevocationList{ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Minute)}, revoked))
	for range 4 {
		m.clock.advance(25 * time.Second)
		m.want(t, m.tls(&good), "good, again false")
		if _, _, err := m.get(t, m.tls(&revoked)); err == nil {
			t.Error("who was revoked is let in")
		}
	}
	if line := m.names.lineWith(t, "was to be replaced"); !strings.Contains(line, m.crl) || !strings.Contains(line, "CN=root") {
		t.Errorf("log: %s", line)
	}
}

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
