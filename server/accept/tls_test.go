package accept_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
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

// A session that goes on counts as much as a new one, even where one of its chains is
// revoked and the other one leads to who is no authority any more.
func TestResumedChains(t *testing.T) {
	a, b := newRoot(t, "a"), newRoot(t, "b")
	between := a.between(t, "between")
	crossed := authorityTemplate("between")
	crossed.SerialNumber = big.NewInt(100)
	der, err := x509.CreateCertificate(rand.Reader, crossed, b.cert, between.key.Public(), b.key)
	if err != nil {
		t.Fatal(err)
	}
	c := between.clientCert(t, "c")
	c.Certificate = append(c.Certificate, between.cert.Raw, der)
	m := newMutualOf(t, a, tls.RequireAndVerifyClientCert)
	file(t, m.cas, pemOf("CERTIFICATE", a.cert.Raw, b.cert.Raw))
	m.clock.advance(reloaded.DefaultEvery)
	conf := m.tls(&c)
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	m.want(t, conf, "c, again false")
	file(t, m.crl, a.crl(t, nil, tls.Certificate{Leaf: between.cert}))
	m.clock.advance(reloaded.DefaultEvery)
	m.want(t, conf, "c, again true") // there is still b
	file(t, m.cas, pemOf("CERTIFICATE", a.cert.Raw))
	m.clock.advance(reloaded.DefaultEvery)
	if status, body, err := m.get(t, conf); err == nil {
		t.Errorf("got %d, %s", status, body)
	}
}

// A serial number is one of an authority, which another one of the same name can give to
// somebody else.
func TestSerialOfAnother(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "root")
	m := newMutualOf(t, root, tls.RequireAndVerifyClientCert)
	revoked := root.clientCert(t, "revoked")
	file(t, m.cas, pemOf("CERTIFICATE", root.cert.Raw, other.cert.Raw))
	file(t, m.crl, root.crl(t, nil, revoked))
	m.clock.advance(reloaded.DefaultEvery)
	other.next = revoked.Leaf.SerialNumber.Int64()
	good := other.clientCert(t, "good")
	m.want(t, m.tls(&good), "good, again false")
	if status, body, err := m.get(t, m.tls(&revoked)); err == nil {
		t.Errorf("got %d, %s", status, body)
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
