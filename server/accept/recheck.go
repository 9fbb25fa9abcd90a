package accept

import (
	"net/http"
)

// Recheck returns h for requests over connections whose client certificate still counts.
// One that was revoked, has expired, or whose authority was replaced since the handshake
// has its connection closed without an answer: a client that has got another certificate
// by now asks again over a new connection, as clients do whose idle connection was closed,
// and any other one is refused by the handshake of that. A response that is under way goes
// on to its end.
func (l *Listener) Recheck(h http.Handler) http.Handler {
	if l.opts.TLS == nil || l.opts.TLS.GetConfigForClient == nil {
		return h // nothing can change
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if err := l.recheck(r); err != nil {
				l.logRefused(r.RemoteAddr, err)
				panic(http.ErrAbortHandler)
			}
		}
		h.ServeHTTP(w, r)
	})
}

// recheck is what the handshake of a session that goes on would say now.
func (l *Listener) recheck(r *http.Request) error {
	now, err := l.opts.TLS.GetConfigForClient(nil)
	if err != nil || now == nil || now.VerifyConnection == nil {
		return err
	}
	state := *r.TLS
	state.DidResume = true
	return now.VerifyConnection(state)
}
