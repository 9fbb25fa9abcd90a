package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// readable records a problem where the file that is the value of key cannot be
// read.
func (l *loader) readable(key, path string) ([]byte, bool) {
	l.looked = append(l.looked, path)
	text, err := readRegularFile(path)
	if err != nil {
		text := unreadable(err).Error()
		if mayBeContent(key, path) {
			text += ", and not what it holds"
		}
		l.bad(key, path, "%s", text)
		return nil, false
	}
	return text, true
}

// unreadable turns an error of readRegularFile into the continuation of a sentence
// that begins with the path.
func unreadable(err error) error {
	cause := err
	for next := err; next != nil; next = errors.Unwrap(next) {
		cause = next
	}
	return errors.New("cannot be read (" + cause.Error() + "): write the path of a file that exists and is readable for this program's user")
}

// certificates checks a file of PEM certificates.
func (l *loader) certificates(key, path string) {
	text, ok := l.readable(key, path)
	if ok && !x509.NewCertPool().AppendCertsFromPEM(text) {
		l.bad(key, path, "has no certificate in PEM form: write the path of a file that begins with -----BEGIN CERTIFICATE-----")
	}
}

// keyPair checks a certificate and its key, which are set both or not at all.
func (l *loader) keyPair(certKey, certPath, keyKey, keyPath string) {
	switch {
	case certPath == "" && keyPath == "":
		return
	case certPath == "":
		l.bad(certKey, "", "is missing, but %s is set: set both or none", keyKey)
		return
	case keyPath == "":
		l.bad(keyKey, "", "is missing, but %s is set: set both or none", certKey)
		return
	}
	cert, okCert := l.readable(certKey, certPath)
	key, okKey := l.readable(keyKey, keyPath)
	if !okCert || !okKey {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		l.bad(certKey, certPath, "is no certificate that goes with %s (%v): write the paths of a PEM certificate and of its unencrypted key", keyKey, err)
	}
}
