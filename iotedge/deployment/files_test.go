package deployment

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// TestFill fills in values that all formats have to be told about.
func TestFill(t *testing.T) {
	const password = `a"b\c: #'d`
	r, err := Generate(with(middle(), func(o *Options) { o.Login = "middle" }))
	if err != nil {
		t.Fatal(err)
	}
	err = r.Fill(func(name string) (string, bool) {
		return password, name == upstreamPassword
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Placeholders) != 1 || r.Placeholders[0].Name != connectionString {
		t.Errorf("left are %v", r.Placeholders)
	}
	modules, credentials := readMade(t, r)
	if got := credentials["upstream"].Password; got != password {
		t.Errorf("the credential is %q", got)
	}
	if got := modules[registryModule].Env["REGISTRY_PROXY_PASSWORD"].Value; got != `'a"b\c: #''d'` {
		t.Errorf("the variable is %q", got)
	}
	device := readDevice(t, r)
	if device.Agent.Config.Auth.Password != password {
		t.Errorf("config.toml has %+v", device.Agent)
	}
	for _, f := range r.Files {
		if f.Secret != (f.Name == ManifestFile || f.Name == ConfigFile) {
			t.Errorf("%s: secret is %v", f.Name, f.Secret)
		}
		if f.Name == NotesFile && strings.Contains(string(f.Content), upstreamPassword+"}` |") {
			t.Errorf("it is still to be filled in:\n%s", f.Content)
		}
	}
}

// device is config.toml, as IoT Edge reads it.
type device struct {
	Hostname        string `toml:"hostname"`
	ParentHostname  string `toml:"parent_hostname"`
	TrustBundleCert string `toml:"trust_bundle_cert"`
	EdgeCA          struct {
		Cert string `toml:"cert"`
		PK   string `toml:"pk"`
		Days int    `toml:"auto_generated_edge_ca_expiry_days"`
	} `toml:"edge_ca"`
	Provisioning struct {
		Source           string `toml:"source"`
		ConnectionString string `toml:"connection_string"`
	} `toml:"provisioning"`
	Agent struct {
		Name   string `toml:"name"`
		Type   string `toml:"type"`
		Config struct {
			Image string `toml:"image"`
			Auth  struct {
				ServerAddress string `toml:"serveraddress"`
				Username      string `toml:"username"`
				Password      string `toml:"password"`
			} `toml:"auth"`
		} `toml:"config"`
	} `toml:"agent"`
}

// readDevice reads config.toml, which must have no other keys.
func readDevice(t *testing.T, r *Result) (d device) {
	t.Helper()
	for _, f := range r.Files {
		if f.Name != ConfigFile {
			continue
		}
		meta, err := toml.Decode(string(f.Content), &d)
		if err != nil {
			t.Fatalf("%v in\n%s", err, f.Content)
		}
		if unknown := meta.Undecoded(); len(unknown) > 0 {
			t.Errorf("unknown keys %v", unknown)
		}
		return d
	}
	t.Fatal("there is no config.toml")
	return d
}

func TestConfigTOML(t *testing.T) {
	for name, tt := range map[string]struct {
		o      Options
		parent string
		image  string
		user   string
	}{
		"top":       {top(), "", "mcr.microsoft.com/azureiotedge-agent:1.5", ""},
		"middle":    {middle(), "top.example", "$upstream:8000/azureiotedge-agent:1.5", "${UPSTREAM_USERNAME}"},
		"bottom":    {with(bottom(), func(o *Options) { o.Port, o.Runtime = 443, "1.4" }), "10.0.0.2", "$upstream:443/azureiotedge-agent:1.4", "${UPSTREAM_USERNAME}"},
		"anonymous": {with(bottom(), func(o *Options) { o.Anonymous = true }), "10.0.0.2", "$upstream:8000/azureiotedge-agent:1.5", ""},
		"quotes":    {with(bottom(), func(o *Options) { o.Login = `a"b<` }), "10.0.0.2", "$upstream:8000/azureiotedge-agent:1.5", `a"b<`},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			d := readDevice(t, r)
			if d.Hostname != tt.o.Hostname || d.ParentHostname != tt.parent || d.Agent.Config.Image != tt.image || d.Agent.Config.Auth.Username != tt.user {
				t.Errorf("got %+v", d)
			}
			if d.EdgeCA.Cert != "file:///var/aziot/certs/edge-ca-"+d.Hostname+".chain.pem" || d.TrustBundleCert == "" || d.Provisioning.Source != "manual" {
				t.Errorf("got %+v", d)
			}
		})
	}
	r, err := Generate(with(top(), func(o *Options) { o.AutoEdgeCA = true }))
	if err != nil {
		t.Fatal(err)
	}
	if d := readDevice(t, r); d.EdgeCA.Days != 90 || d.EdgeCA.Cert != "" {
		t.Errorf("got %+v", d.EdgeCA)
	}
	if r, err = Generate(Options{Layer: Bottom}); err != nil || len(r.Files) != 2 {
		t.Errorf("without names: %v, %v", r, err)
	}
}

// TestCertificates runs the scripts of three layers, and has each device show a certificate
// that its CA has signed, as the API proxy and registry-module do: who trusts the root
// believes it, by the name of the host and by that of the module.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []Options{top(), middle(), bottom()} {
		o.Port = 443
		out, err := runScript(t, o, dir)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if o.ParentHostname != "" && !strings.Contains(out, "/etc/docker/certs.d/"+o.ParentHostname+":443/ca.crt") {
			t.Errorf("it does not say what the engine has to trust:\n%s", out)
		}
		verifyDevice(t, dir, o.Hostname)
	}
	key := filepath.Join(dir, "edge-ca-top.example.key.pem")
	before := readFile(t, key)
	root := readFile(t, filepath.Join(dir, "root-ca.key.pem"))
	if out, err := runScript(t, top(), dir); err == nil || !strings.Contains(out, "is there already") {
		t.Errorf("a second run: %v\n%s", err, out)
	}
	if string(readFile(t, key)) != string(before) || string(readFile(t, filepath.Join(dir, "root-ca.key.pem"))) != string(root) {
		t.Error("a key was overwritten")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.csr.pem"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// runScript runs the script for the certificates of a device.
func runScript(t *testing.T, o Options, dir string) (string, error) {
	t.Helper()
	r, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), CertificatesFile)
	for _, f := range r.Files {
		if f.Name != CertificatesFile {
			continue
		}
		if !f.Executable {
			t.Error("it is no script")
		}
		if err := os.WriteFile(script, f.Content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", script, dir).CombinedOutput()
	return string(out), err
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// verifyDevice signs a server certificate with the CA of a device, and verifies it with the
// root alone.
func verifyDevice(t *testing.T, dir, host string) {
	t.Helper()
	edge := filepath.Join(dir, "edge-ca-"+host)
	ca, err := tls.LoadX509KeyPair(edge+".chain.pem", edge+".key.pem")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(edge + ".key.pem")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host, DefaultProxyModule},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(readFile(t, filepath.Join(dir, "root-ca.cert.pem"))) {
		t.Fatal("no root")
	}
	between.AddCert(ca.Leaf)
	for _, name := range []string{host, DefaultProxyModule} {
		chains, err := shown.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between})
		if err != nil || len(chains[0]) != 3 {
			t.Errorf("%s as %s: %v", host, name, err)
		}
	}
	if !ca.Leaf.IsCA || ca.Leaf.KeyUsage&x509.KeyUsageCertSign == 0 || len(ca.Leaf.AuthorityKeyId) == 0 || !ca.Leaf.BasicConstraintsValid {
		t.Errorf("the CA has %v, %x, %x", ca.Leaf.IsCA, ca.Leaf.KeyUsage, ca.Leaf.AuthorityKeyId)
	}
	if until := time.Until(ca.Leaf.NotAfter); until < 364*24*time.Hour || until > 366*24*time.Hour {
		t.Errorf("it is valid for %v", until)
	}
}
