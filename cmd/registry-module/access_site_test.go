package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"golang.org/x/crypto/bcrypt"

	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

// accessSite is the program in front of three remotes.
type accessSite struct {
	main, two, pass *upstreamtest.Registry
	cfg             *config.Config
	clients         *clientCA
	roots           *x509.CertPool
	images          map[string]upstreamtest.Image // by repository, with that of the remote's alias in front
	log             string                        // file
	stop            func()

	mu  sync.Mutex
	via map[string]*http.Client // by certificate
}

func newAccessSite(t *testing.T) *accessSite {
	t.Helper()
	s := &accessSite{
		main: upstreamtest.New(t), two: upstreamtest.New(t), pass: upstreamtest.New(t),
		clients: newClientCA(t), roots: x509.NewCertPool(), images: map[string]upstreamtest.Image{}, via: map[string]*http.Client{},
	}
	for repo, up := range map[string]*upstreamtest.Registry{
		"main/team/app": s.main, "main/team/secret/app": s.main, "two/team/app": s.two, "two/only/app": s.two, "pass/app": s.pass,
	} {
		_, name, _ := strings.Cut(repo, "/")
		s.images[repo] = up.AddRandomImage(name, "v1", 1, 1000)
		up.SetReferrers(true)
	}
	s.pass.SetAuth(upstreamtest.Auth{Scheme: "Basic", Username: "puller", Password: "secret-puller"})

	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	servers := upstreamtest.NewCA(t)
	s.roots.AppendCertsFromPEM(servers.PEM())
	cert, key := servers.Issue()
	s.cfg = testConfig(t, t.TempDir(), s.main.Host())
	s.cfg.Remotes[0].Alias = "main"
	two, pass := s.cfg.Remotes[0], s.cfg.Remotes[0]
	for alias, r := range map[string]*config.Remote{"two": &two, "pass": &pass} {
		url := *r.URL
		r.URL, r.Alias, r.Default = &url, alias, false
	}
	two.URL.Host, pass.URL.Host = s.two.Host(), s.pass.Host()
	pass.PassThrough, pass.PassThroughTTL, pass.PassThroughGrace = true, time.Hour, time.Hour
	pass.Credentials.Username, pass.Credentials.Password = "puller", "secret-puller"
	s.cfg.Remotes = append(s.cfg.Remotes, two, pass)
	s.cfg.AccessPolicy = write("policy.yml", []byte(tableRules))
	s.cfg.Stock.Auth = configuration.Auth{"htpasswd": {"realm": "registry-module", "path": write("htpasswd", passwords(t, "line1", "other", "boss"))}}
	s.cfg.Stock.HTTP.TLS = configuration.TLS{
		Certificate: write("cert.pem", cert), Key: write("key.pem", key),
		ClientCAs: []string{write("clients.pem", s.clients.pem())}, ClientAuth: configuration.ClientAuthVerifyClientCertIfGiven,
	}
	s.cfg.AccessCRLs = []string{write("crl.pem", s.clients.crl(t, s.clients.issue(t, "press-revoked", time.Hour)))}

	quiet(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log.Name()
	os.Stdout = log
	t.Cleanup(func() { _ = log.Close() }) // it has been read
	s.stop = serving(t, s.cfg)
	t.Cleanup(func() {
		for _, c := range s.via {
			c.CloseIdleConnections()
		}
	})
	return s
}

// passwords are a file of users whose passwords are "secret-" and their names.
func passwords(t *testing.T, users ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret-"+user), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:%s\n", user, hash)
	}
	return b.Bytes()
}

func (s *accessSite) reset() {
	for _, up := range []*upstreamtest.Registry{s.main, s.two, s.pass} {
		up.ResetCounts()
	}
}

// image is what a repository has, or some other's where it has nothing.
func (s *accessSite) image(repo string) upstreamtest.Image {
	name, ns, _ := strings.Cut(repo, "?ns=")
	for _, full := range []string{name, ns + "/" + name, "main/" + name} {
		if img, ok := s.images[full]; ok {
			return img
		}
	}
	return s.images["main/team/secret/app"]
}

// client shows a certificate with a name, unless that is empty.
func (s *accessSite) client(t *testing.T, certificate string) *http.Client {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.via[certificate]; ok {
		return c
	}
	conf := &tls.Config{RootCAs: s.roots}
	if certificate != "" {
		conf.Certificates = []tls.Certificate{s.clients.issue(t, certificate, time.Hour)}
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 32}, Timeout: time.Minute}
	s.via[certificate] = c
	return c
}

// ask returns the status of an answer, and all of it but the date.
func (s *accessSite) ask(t *testing.T, method, repo, what, user, password, certificate string) (int, string) {
	name, ns, _ := strings.Cut(repo, "?")
	img := s.image(repo)
	what = strings.NewReplacer("{image}", img.Digest.String(), "{layer}", img.Layers[0].String()).Replace(what)
	path := strings.TrimSuffix("/v2/"+name+"/"+what+"?"+ns, "?")
	return s.get(t, method, path, user, password, certificate)
}

func (s *accessSite) get(t *testing.T, method, path, user, password, certificate string) (int, string) {
	scheme := "http"
	if certificate != "" {
		scheme = "https"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, scheme+"://"+s.cfg.Addr+path, nil)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	resp, err := s.client(t, certificate).Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	resp.Header.Del("Date")
	return resp.StatusCode, fmt.Sprintf("%v %s", resp.Header, body)
}

// warm has everything cached.
func (s *accessSite) warm(t *testing.T) {
	t.Helper()
	for repo := range s.images {
		user := "boss"
		if strings.HasPrefix(repo, "pass/") {
			user = "puller"
		}
		for name, kind := range tableKinds {
			if status, answer := s.ask(t, kind.method, repo, kind.path, user, "secret-"+user, ""); status != 200 {
				t.Fatalf("%s, %s: status %d, %s", repo, name, status, answer)
			}
		}
	}
}

// catalogs asks for what each caller may see of what is cached.
func (s *accessSite) catalogs(t *testing.T) {
	t.Helper()
	for name, c := range tableCallers {
		user := strings.Replace(c.user, "*", "-catalog", 1)
		status, answer := s.get(t, http.MethodGet, "/v2/_catalog?n=100", user, c.password, c.certificate)
		if c.catalog == nil {
			want := 401
			if name == "user without a rule" {
				want = 403
			}
			if status != want || strings.Contains(answer, "repositories") {
				t.Errorf("%s: the catalog is answered with %d, %s, want %d", name, status, answer, want)
			}
			continue
		}
		want, err := json.Marshal(map[string][]string{"repositories": c.catalog})
		if err != nil {
			t.Fatal(err)
		}
		if at := strings.LastIndex(answer, "{"); status != 200 || strings.TrimSpace(answer[max(at, 0):]) != string(want) {
			t.Errorf("%s: the catalog is answered with %d, %s, want %s", name, status, answer, want)
		}
	}
}

// crossed asks for what is cached of a repository that is denied by way of one that is
// allowed, and by writing.
func (s *accessSite) crossed(t *testing.T) {
	t.Helper()
	secret := s.images["main/team/secret/app"]
	for path, want := range map[string]int{
		"/v2/team/app/blobs/" + secret.Layers[0].String():                    404,
		"/v2/team/app/blobs/" + secret.Config.String():                       404,
		"/v2/team/app/manifests/" + secret.Digest.String():                   404,
		"/v2/two/only/app/blobs/" + secret.Layers[0].String():                404,
		"/v2/team/app/blobs/" + s.images["pass/app"].Layers[0].String():      404,
		"/v2/team/app/manifests/" + s.images["two/team/app"].Digest.String(): 404,
		"/v2/team/app/../secret/app/manifests/v1":                            400,
		"/v2/team/app%2f..%2fsecret/app/manifests/v1":                        400,
		"/v2/team/secret%2fapp/manifests/v1":                                 400,
		"/v2/team/app/manifests/v1?ns=main&ns=two":                           400,
		"/v2/secret/app/manifests/v1?ns=main/team":                           403,
		"/v2/team/secret/app/manifests/v1?ns=MAIN":                           403,
		"/v2/team/secret/app/manifests/v1?ns=" + s.main.Host():               403,
		"/v2/app/manifests/v1?ns=pass":                                       403,
	} {
		if status, answer := s.get(t, http.MethodGet, path, "line1", "secret-line1", ""); status != want {
			t.Errorf("%s: status %d, want %d: %s", path, status, want, answer)
		}
	}
	mount := "/v2/team/app/blobs/uploads/?from=team%2Fsecret%2Fapp&mount=" + secret.Layers[0].String()
	if status, answer := s.get(t, http.MethodPost, mount, "line1", "secret-line1", ""); status != http.StatusMethodNotAllowed || strings.Contains(answer, "Location") {
		t.Errorf("a mount is answered with %d, %s", status, answer)
	}
	if status, answer := s.get(t, http.MethodGet, "/v2/", "", "", ""); status != 401 || !strings.Contains(answer, "Www-Authenticate:[Basic ") {
		t.Errorf("GET /v2/ is answered with %d, %s", status, answer)
	}
	for _, user := range []string{"line1", "other", "puller"} {
		start := time.Now()
		if status, _ := s.get(t, http.MethodGet, "/v2/", user, "secret-"+user, ""); status != 200 || time.Since(start) > 300*time.Millisecond {
			t.Errorf("GET /v2/ of %s is answered with %d after %v", user, status, time.Since(start))
		}
	}
	// Who is known to a remote is known there alone.
	if status, _ := s.get(t, http.MethodGet, "/v2/team/app/manifests/v1", "puller", "secret-puller", ""); status != 401 {
		t.Errorf("what is of another remote is answered with %d to who is passed through", status)
	}
}

// handshakes shows certificates that are not good any more, or of nobody that is known.
func (s *accessSite) handshakes(t *testing.T) {
	t.Helper()
	expired, foreign := s.clients.issue(t, "press-1", -time.Minute), newClientCA(t).issue(t, "press-1", time.Hour)
	for name, cert := range map[string]*tls.Certificate{"revoked": s.clients.revoked, "expired": &expired, "of another authority": &foreign} {
		conf := &tls.Config{RootCAs: s.roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: time.Minute}
		resp, err := c.Get("https://" + s.cfg.Addr + "/v2/team/app/manifests/v1")
		if err == nil {
			_ = resp.Body.Close() // nothing of it is of interest
			t.Errorf("a certificate that is %s is answered with %d", name, resp.StatusCode)
		}
	}
}

// leaks looks for passwords in what the program has written.
func (s *accessSite) leaks(t *testing.T) {
	t.Helper()
	s.stop()
	names := []string{s.log, filepath.Join(s.cfg.DataDir, callersName)}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil || len(content) == 0 {
			t.Fatalf("%s: %v, %d bytes", name, err, len(content))
		}
		for _, secret := range []string{"secret-line1", "secret-boss", "secret-puller", "secret-guess"} {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s contains %s", name, secret)
			}
		}
	}
}

// clientCA signs certificates of clients.
type clientCA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	revoked *tls.Certificate
}

func newClientCA(t *testing.T) *clientCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, SubjectKeyId: []byte("clients"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &clientCA{key: key}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return ca
}

func (ca *clientCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// issue makes a certificate that is good for some time, or has expired since.
func (ca *clientCA) issue(t *testing.T, name string, left time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(left),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if pair.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return pair
}

// crl is a list of one certificate.
func (ca *clientCA) crl(t *testing.T, revoked tls.Certificate) []byte {
	t.Helper()
	ca.revoked = &revoked
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.Leaf.SerialNumber, RevocationTime: time.Now()}},
	}, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}
