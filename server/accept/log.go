package accept

import (
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"unicode"
)

// How much of what a client has written gets into the log, in bytes.
const (
	maxName = 200
	maxText = 1000
)

// logHandshake tells why there was no handshake. A certificate that is refused is what
// somebody is going to ask about; the rest is what the internet is full of.
func (l *Listener) logHandshake(c net.Conn, err error) {
	log := l.opts.Log.WithField("client", address(c))
	refused, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(refused.UnverifiedCertificates) == 0 {
		log.WithError(err).Debug("a TLS handshake has failed")
		return
	}
	dropped, ok := l.certificates.next()
	if !ok {
		return
	}
	log.WithField("before", dropped).Warnf("the client certificate of %s was refused: %s",
		name(refused.UnverifiedCertificates[0].Subject), clean(refused.Err.Error(), maxText))
}

// clean makes a text that others have written one line of at most so many bytes, and some
// for what stands for others.
func clean(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || s == "" {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
