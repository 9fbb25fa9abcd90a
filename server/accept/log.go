package accept

import (
	"crypto/tls"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
)

// How much of what a client has written gets into the log, in bytes.
const (
	maxName = 200
	maxText = 1000
)

// silence is a log that nobody reads.
func silence() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// logRefused tells why a client was refused at its handshake, or later. A certificate that
// is refused is what somebody is going to ask about; the rest is what the internet is full
// of.
func (l *Listener) logRefused(client string, err error) {
	log := l.opts.Log.WithField("client", client)
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

// logCrowd tells that a connection was closed to make room, if so.
func (l *Listener) logCrowd(evicted bool) {
	if !evicted {
		return
	}
	if dropped, ok := l.crowded.next(); ok {
		l.opts.Log.WithField("before", dropped).
			Warnf("there are %d connections: the one that was idle for longest was closed to make room", l.opts.MaxConns)
	}
}

// logBusy tells that there is no connection that could be closed to make room.
func (l *Listener) logBusy() {
	if dropped, ok := l.crowded.next(); ok {
		l.opts.Log.WithField("before", dropped).
			Warnf("all of %d connections are in use: new ones have to wait. If it goes on, raise the limit of open files (ulimit -n)", l.opts.MaxConns)
	}
}

// clean makes a text that others have written one line of at most so many bytes, and some
// for what stands for others.
func clean(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
