package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry-module/config"
	"registry-module/seed/bundle"
)

// writeKeys makes a pair of keys, as openssl does.
func writeKeys(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	private = write("bundle.key", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(pub)
	return private, write("bundle.pub", "PUBLIC KEY", der, err)
}

// Where keys are trusted, what is not signed with one of them changes nothing.
func TestBundleSignature(t *testing.T) {
	o := newOnline(t)
	private, public := writeKeys(t)
	_, other := writeKeys(t)
	unsigned, signed := o.create(t), o.create(t, "--sign-key", private)
	for name, tt := range map[string]struct {
		file, flag, configured string
		want                   error
	}{
		"unsigned, by the flag":          {unsigned, public, "", bundle.ErrUnsigned},
		"unsigned, by the configuration": {unsigned, "", public, bundle.ErrUnsigned},
		"other key, by the flag":         {signed, other, "", bundle.ErrUntrusted},
		"other key, configured":          {signed, public, other, bundle.ErrUntrusted},
		"signed":                         {signed, public, public, nil},
	} {
		for _, server := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", server ", server), func(t *testing.T) {
				dir := shortDir(t)
				inDir(t, dir)
				if server {
					cfg := testConfig(t, dir, "")
					cfg.BundleTrustKeys = slices.DeleteFunc([]string{tt.configured}, func(s string) bool { return s == "" })
					serving(t, cfg)
				} else if tt.configured != "" {
					t.Setenv("REGISTRY_BUNDLE_TRUSTKEYS", tt.configured)
				}
				args := []string{"bundle", "load", tt.file}
				if tt.flag != "" {
					args = append(args, "--trust-key", tt.flag)
				}
				_, _, err := command(t, args...)
				if tt.want == nil {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want.Error()) || strings.Contains(have(t, dir), "sha256") {
					t.Errorf("%v, want %v", err, tt.want)
				}
			})
		}
	}
}

// What does not fit is refused before anything is stored.
func TestBundleDoesNotFit(t *testing.T) {
	o := newOnline(t)
	file := o.create(t)
	for name, server := range map[string]bool{"directly": false, "by the server": true} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			cfg := testConfigAt(t, testConfig(t, dir, ""), func(c *config.Config) { c.MaxSize = 1 << 20 })
			if server {
				serving(t, cfg)
			}
			b, err := bundle.Open(file, bundle.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.Close() }()
			err = withImages(t.Context(), cfg, func(i openedImages) error {
				_, err := i.imageControl.(contentControl).Load(t.Context(), b, loadOptions{})
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "REGISTRY_CACHE_MAXSIZE") || !strings.Contains(err.Error(), "MiB more") || strings.Contains(have(t, dir), "sha256") {
				t.Error(err)
			}
		})
	}
}
