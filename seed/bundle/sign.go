package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// signedPrefix stands before the bytes of a description in what is signed, so that a
// signature for anything else is none for a bundle, whoever made it with the same key.
const signedPrefix = "registry-module bundle description 1\n"

// ErrUnsigned is the error for a bundle without a signature where one is asked for, and
// ErrUntrusted for one whose signature is of none of the keys that are trusted, or wrong.
var (
	ErrUnsigned  = errors.New("the bundle is not signed")
	ErrUntrusted = errors.New("the signature of the bundle is not trusted")
)

// Signature is a signature of a [Description]'s bytes.
type Signature struct {
	// KeyID is that of the public key, see [KeyID].
	KeyID string `json:"keyID"`
	// Signature is that of Ed25519 (RFC 8032).
	Signature []byte `json:"signature"`
}

// KeyID returns how a public key is called: the sha256 of its PKIX form, which is what
// `openssl pkey -pubin -outform DER | sha256sum` prints.
func KeyID(key ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil { // not for an ed25519.PublicKey
		return ""
	}
	return digest.FromBytes(der).String()
}

// sign returns the signature of description in JSON.
func sign(key ed25519.PrivateKey, description []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("the key to sign with is no Ed25519 private key")
	}
	public, _ := key.Public().(ed25519.PublicKey) // it is no other
	s := Signature{KeyID: KeyID(public), Signature: ed25519.Sign(key, signed(description))}
	return json.Marshal(s)
}

func signed(description []byte) []byte {
	return append([]byte(signedPrefix), description...)
}

// Trust returns nil if the bundle is signed with one of keys, and otherwise
// [ErrUnsigned] or [ErrUntrusted].
func (b *Bundle) Trust(keys []ed25519.PublicKey) error {
	if b.head.signature == nil {
		return fmt.Errorf("%w: make it with bundle create --sign-key", ErrUnsigned)
	}
	var s Signature
	if err := json.Unmarshal(b.head.signature, &s); err != nil {
		return fmt.Errorf("%w: it cannot be read: %w", ErrUntrusted, err)
	}
	for _, key := range keys {
		if len(key) != ed25519.PublicKeySize || KeyID(key) != s.KeyID {
			continue
		}
		if ed25519.Verify(key, signed(b.head.description), s.Signature) {
			return nil
		}
		return fmt.Errorf("%w: it is not that of this content with key %s: the bundle has been changed or damaged", ErrUntrusted, KeyID(key))
	}
	return fmt.Errorf("%w: its key %.100q is none of the %d that are trusted", ErrUntrusted, s.KeyID, len(keys))
}

// Signature returns what signature the bundle has, without a word on whether it is right;
// false where it has none that can be read.
func (b *Bundle) Signature() (Signature, bool) {
	var s Signature
	if b.head.signature == nil || json.Unmarshal(b.head.signature, &s) != nil {
		return Signature{}, false
	}
	return s, true
}

// maxKey bounds the file of a key, which has some 120 bytes and may have comments.
const maxKey = 64 << 10

// ReadPrivateKey reads a private key to sign with, as `openssl genpkey -algorithm ed25519`
// writes it: PKCS #8 (RFC 8410) in PEM. Errors have nothing of the key.
func ReadPrivateKey(p []byte) (ed25519.PrivateKey, error) {
	const want = "make one with: openssl genpkey -algorithm ed25519 -out bundle.key"
	b, err := pemBlock(p, "PRIVATE KEY", want)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(b)
	if err != nil {
		return nil, errors.New("the private key cannot be read; " + want)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not of Ed25519; " + want)
	}
	return private, nil
}

// ReadPublicKey reads a public key to trust, as `openssl pkey -pubout` writes it: PKIX in
// PEM.
func ReadPublicKey(p []byte) (ed25519.PublicKey, error) {
	const want = "make one with: openssl pkey -in bundle.key -pubout -out bundle.pub"
	b, err := pemBlock(p, "PUBLIC KEY", want)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return nil, errors.New("the public key cannot be read; " + want)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the public key is not of Ed25519; " + want)
	}
	return public, nil
}

// pemBlock returns the only block of p, which must be of a kind. Want says how to make one.
func pemBlock(p []byte, kind, want string) ([]byte, error) {
	if len(p) > maxKey {
		return nil, fmt.Errorf("a key of %d bytes is none; %s", len(p), want)
	}
	b, rest := pem.Decode(p)
	switch {
	case b == nil:
		return nil, errors.New("there is no key in PEM format; " + want)
	case b.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted, and nobody can be asked for its passphrase: decrypt it with openssl pkey, into a file that only you can read")
	case b.Type != kind:
		return nil, fmt.Errorf("it is a %.50q, where a %q is needed; %s", b.Type, kind, want)
	}
	if more, _ := pem.Decode(bytes.TrimSpace(rest)); more != nil {
		return nil, fmt.Errorf("there are several keys; give each a file of its own")
	}
	return b.Bytes, nil
}
