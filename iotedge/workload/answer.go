package workload

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
)

// errNotJSON does not wrap what package json says, which quotes.
var errNotJSON = errors.New("the answer is not the JSON that was expected: see that " + URIVariable + " is as the runtime has set it")

// parseTrustBundle reads the answer to the question for the trust bundle, and returns
// the certificates in it, each once and in their order, in PEM form.
func parseTrustBundle(body []byte) ([]byte, error) {
	var answer struct {
		Certificate *string `json:"certificate"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Certificate == nil {
		return nil, errNotJSON
	}
	var bundle []byte
	seen := map[string]bool{}
	rest := pemOf(*answer.Certificate)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return bundle, nil
		}
		if block.Type != "CERTIFICATE" || seen[string(block.Bytes)] {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			continue // package x509 would not use it either
		}
		seen[string(block.Bytes)] = true
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
}

// parseServerCertificate reads the answer to the question for a server certificate.
func parseServerCertificate(body []byte) (*tls.Certificate, error) {
	var answer struct {
		PrivateKey struct {
			Type  string `json:"type"`
			Bytes string `json:"bytes"`
		} `json:"privateKey"`
		Certificate string `json:"certificate"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Certificate == "" {
		return nil, errNotJSON
	}
	if t := answer.PrivateKey.Type; t != "key" || answer.PrivateKey.Bytes == "" {
		return nil, errors.New("the runtime keeps the key of the certificate to itself: use a certificate from files, REGISTRY_HTTP_TLS_CERTIFICATE and REGISTRY_HTTP_TLS_KEY")
	}
	cert, err := tls.X509KeyPair(pemOf(answer.Certificate), pemOf(answer.PrivateKey.Bytes))
	if err != nil {
		return nil, errors.New("the answer has no certificate with its key: " + printable(err.Error()))
	}
	return &cert, nil
}

// pemOf returns the PEM text of a field. The description of the API has it in Base64,
// while the runtime gives it as it is.
func pemOf(field string) []byte {
	text := []byte(field)
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return text
	}
	if decoded, err := base64.StdEncoding.DecodeString(field); err == nil {
		return decoded
	}
	return text
}
