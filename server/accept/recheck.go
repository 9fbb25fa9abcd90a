package accept

import (
	"crypto/tls"
	"errors"
	"net/http"
)

// Recheck returns h for requests over connections that could still be made: whose client
// certificate still counts, and which have one, or TLS at all, where that is demanded. One
// whose certificate was revoked, has expired, or whose authority was replaced since the
// handshake, or of which more is demanded since ([Listener.Speak]), has its connection closed
// without an answer: a client that has got another certificate by now asks again over a new
// connection, as clients do whose idle connection was closed, and any other one is refused
// there. A response that is under way goes on to its end.
func (l *Listener) Recheck(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := l.spoken.Load().recheck(r); err != nil {
			l.logRefused(r.RemoteAddr, err)
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// recheck is what would be said now to a client that wants to make a connection, or to go on
// with its session.
func (s *spoken) recheck(r *http.Request) error {
	switch {
	case s.tls == nil:
		return nil
	case r.TLS == nil:
		if s.require {
			return errors.New("plain HTTP is not served any more: clients have to show a certificate, which takes https")
		}
		return nil
	case len(r.TLS.PeerCertificates) == 0:
		if mode := s.tls.ClientAuth; mode == tls.RequireAnyClientCert || mode == tls.RequireAndVerifyClientCert {
			return errors.New("clients have to show a certificate now")
		}
		return nil
	case s.tls.GetConfigForClient == nil:
		return nil // nothing can change
	}
	now, err := s.tls.GetConfigForClient(nil)
	if err != nil || now == nil || now.VerifyConnection == nil {
		return err
	}
	state := *r.TLS
	state.DidResume = true
	return now.VerifyConnection(state)
}
