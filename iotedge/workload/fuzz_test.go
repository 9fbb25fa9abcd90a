package workload

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	wt "registry-module/iotedge/workload/workloadtest"
)

// FuzzTrustBundle checks that of whatever answer only certificates are left, each once,
// and that what is left is what is read again.
func FuzzTrustBundle(f *testing.F) {
	root, err := wt.NewRoot("x")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{string(root.PEM()), string(root.PEM()) + string(root.PEM()), "", "AAAA", "-----BEGIN X-----\n-----END X-----"} {
		body, err := json.Marshal(map[string]string{"certificate": text})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"certificate": null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		bundle, err := parseTrustBundle(body)
		if err != nil {
			if bundle != nil || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("got %q, %q", bundle, err)
			}
			return
		}
		seen := map[string]bool{}
		for rest := bundle; len(rest) > 0; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				t.Fatalf("%q is not PEM", rest)
			}
			if _, err := x509.ParseCertificate(block.Bytes); err != nil || seen[string(block.Bytes)] {
				t.Errorf("%v, or it is there twice", err)
			}
			seen[string(block.Bytes)] = true
		}
		again, err := json.Marshal(map[string]string{"certificate": string(bundle)})
		if err != nil {
			t.Fatal(err)
		}
		if same, err := parseTrustBundle(again); err != nil || string(same) != string(bundle) {
			t.Errorf("%v, %q is read as %q", err, bundle, same)
		}
	})
}

// FuzzServerCertificate checks that an answer is a certificate that can be shown, or an
// error that is fit for a log.
func FuzzServerCertificate(f *testing.F) {
	root, err := wt.NewRoot("x")
	if err != nil {
		f.Fatal(err)
	}
	cert, key, err := root.Issue(time.Now(), time.Now().Add(time.Hour), "x")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("key", string(cert), string(key))
	f.Add("ref", string(cert), "")
	f.Add("key", string(key), string(cert))
	f.Add("key", string(cert)+string(root.PEM()), string(key)+string(cert))
	f.Fuzz(func(t *testing.T, kind, cert, key string) {
		body, err := json.Marshal(map[string]any{
			"privateKey": map[string]string{"type": kind, "bytes": key}, "certificate": cert, "expiration": kind,
		})
		if err != nil {
			t.Skip()
		}
		for _, answer := range [][]byte{body, []byte(cert)} {
			got, err := parseServerCertificate(answer)
			if err != nil {
				if got != nil || strings.ContainsAny(err.Error(), "\n\x00\x1b") || len(err.Error()) > 500 {
					t.Errorf("got %v, %q", got, err)
				}
				if len(key) > 40 && strings.Contains(err.Error(), key[20:40]) {
					t.Errorf("the key is in %q", err)
				}
				continue
			}
			c := newCertificate(got, time.Now())
			if got.Leaf == nil || got.PrivateKey == nil || c.from.IsZero() && c.until.IsZero() {
				t.Errorf("got %+v", got)
			}
		}
	})
}
