package bundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/seed/bundle"
)

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestKeys(t *testing.T) {
	private, err := x509.MarshalPKCS8PrivateKey(key(1))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(public(key(1)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherPrivate, _ := x509.MarshalPKCS8PrivateKey(other)
	otherPublic, _ := x509.MarshalPKIXPublicKey(&other.PublicKey)
	for name, tt := range map[string]struct {
		in              []byte
		private, public string // what the errors say; empty where it is read
	}{
		"private":       {encode("PRIVATE KEY", private), "", `it is a "PRIVATE KEY"`},
		"public":        {encode("PUBLIC KEY", pub), `it is a "PUBLIC KEY"`, ""},
		"with comments": {append([]byte("# for site 7\n"), encode("PUBLIC KEY", pub)...), `it is a "PUBLIC KEY"`, ""},
		"other kind":    {encode("PRIVATE KEY", otherPrivate), "not of Ed25519", `it is a`},
		"other public":  {encode("PUBLIC KEY", otherPublic), `it is a`, "not of Ed25519"},
		"broken":        {encode("PRIVATE KEY", private[:20]), "cannot be read", "it is a"},
		"broken public": {encode("PUBLIC KEY", pub[:20]), "it is a", "cannot be read"},
		"encrypted":     {encode("ENCRYPTED PRIVATE KEY", private), "decrypt it", "decrypt it"},
		"two":           {append(encode("PUBLIC KEY", pub), encode("PUBLIC KEY", pub)...), "it is a", "several keys"},
		"no PEM":        {private, "no key in PEM format", "no key in PEM format"},
		"nothing":       {nil, "openssl genpkey -algorithm ed25519", "openssl pkey"},
		"huge":          {bytes.Repeat([]byte("x"), 1<<20), "1048576 bytes", "1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := bundle.ReadPrivateKey(tt.in)
			if (err == nil) != (tt.private == "") || err != nil && !strings.Contains(err.Error(), tt.private) {
				t.Errorf("private: error %v, want %q", err, tt.private)
			}
			if err == nil && !k.Equal(key(1)) {
				t.Error("it is another private key")
			}
			p, err := bundle.ReadPublicKey(tt.in)
			if (err == nil) != (tt.public == "") || err != nil && !strings.Contains(err.Error(), tt.public) {
				t.Errorf("public: error %v, want %q", err, tt.public)
			}
			if err == nil && !p.Equal(public(key(1))) {
				t.Error("it is another public key")
			}
		})
	}
}

// The keys that openssl makes are read, and called as it says.
func TestKeysOfOpenSSL(t *testing.T) {
	dir := t.TempDir()
	private, pub := filepath.Join(dir, "bundle.key"), filepath.Join(dir, "bundle.pub")
	for _, args := range [][]string{
		{"genpkey", "-algorithm", "ed25519", "-out", private},
		{"pkey", "-in", private, "-pubout", "-out", pub},
	} {
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl: %v, %s", err, out)
		}
	}
	read := func(name string) []byte {
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	k, err := bundle.ReadPrivateKey(read(private))
	if err != nil {
		t.Fatal(err)
	}
	p, err := bundle.ReadPublicKey(read(pub))
	if err != nil || !p.Equal(k.Public()) {
		t.Fatalf("%v, %v", p, err)
	}
	out, err := exec.Command("sh", "-c", "openssl pkey -pubin -in '"+pub+"' -outform DER | sha256sum").Output()
	if err != nil || !strings.HasPrefix("sha256:"+string(out), bundle.KeyID(p)+" ") {
		t.Errorf("openssl says %s, %v, want %s", out, err, bundle.KeyID(p))
	}
}

func FuzzKeys(f *testing.F) {
	der, _ := x509.MarshalPKCS8PrivateKey(key(1))
	f.Add(encode("PRIVATE KEY", der))
	der, _ = x509.MarshalPKIXPublicKey(public(key(1)))
	f.Add(encode("PUBLIC KEY", der))
	f.Fuzz(func(t *testing.T, in []byte) {
		if k, err := bundle.ReadPrivateKey(in); err == nil && len(k) != 64 {
			t.Errorf("%d bytes", len(k))
		}
		if k, err := bundle.ReadPublicKey(in); err == nil && len(k) != 32 {
			t.Errorf("%d bytes", len(k))
		}
	})
}
