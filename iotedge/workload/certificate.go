package workload

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// wantedLife is for how long a certificate is asked for, as the other modules of
	// IoT Edge do.
	wantedLife = 90 * 24 * time.Hour
	// minPause and maxPause are between attempts that have failed: the runtime is
	// back some seconds after it was restarted, and no clients may hammer it.
	minPause = 5 * time.Second
	maxPause = 5 * time.Minute
	// tellEvery is how often an attempt that fails for the same reason is logged.
	tellEvery = time.Minute
	// lookEvery is how often the clock is looked at. Timers do not notice that it was
	// set.
	lookEvery = time.Minute
	// handshakePatience bounds what a handshake waits for its certificate: clients give
	// up after 10 s.
	handshakePatience = 8 * time.Second
)

// errNever is why there is no certificate before the first answer.
var errNever = errors.New("the IoT Edge workload API has not answered yet")

// CertificateOptions may be left out.
type CertificateOptions struct {
	// Log is told of certificates, and of attempts that have failed. Default: nobody.
	Log logrus.FieldLogger
	// Now is the clock of the device, which can be set at any time. Default:
	// [time.Now].
	Now func() time.Time
}

// ServerCertificate is a certificate of the IoT Edge runtime for this device's name,
// and another one in time. It is asked for anew when two thirds of the life that it
// really has are over, or when it is not valid by the clock that was set meanwhile.
// It is safe for use by several goroutines.
type ServerCertificate struct {
	client *Client
	name   string
	log    logrus.FieldLogger
	now    func() time.Time
	// wanted has a handshake ask for another certificate.
	wanted chan struct{}

	mu      sync.Mutex // guards following
	current *certificate
	err     error         // of the last attempt; nil where it was good
	tried   time.Time     // when that ended, by its monotonic reading
	over    chan struct{} // is closed when the next attempt has ended
	told    string        // what was last logged of an attempt that has failed, and when
	toldAt  time.Time
}

// certificate is one that was given.
type certificate struct {
	*tls.Certificate
	from, until time.Time // valid, with its whole chain
	due         time.Time // to be renewed
}

// NewServerCertificate returns the certificate for the hostname of this gateway. It
// asks for nothing: [ServerCertificate.Run] does.
func (c *Client) NewServerCertificate(opts CertificateOptions) (*ServerCertificate, error) {
	err := missing(ModuleIDVariable, c.opts.ModuleID, GenerationIDVariable, c.opts.GenerationID, GatewayHostnameVariable, c.opts.GatewayHostname)
	if err != nil {
		return nil, err
	}
	s := &ServerCertificate{
		client: c, name: c.opts.GatewayHostname, log: opts.Log, now: opts.Now,
		wanted: make(chan struct{}, 1), over: make(chan struct{}), err: errNever,
	}
	if s.log == nil {
		s.log = nobody()
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

func nobody() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// Run gets a certificate, and another one whenever it is due, until ctx ends.
func (s *ServerCertificate) Run(ctx context.Context) {
	var pause time.Duration
	for {
		if s.attempt(ctx) {
			pause = 0
		} else {
			pause = min(max(2*pause, minPause), maxPause)
		}
		if !s.wait(ctx, pause) {
			return
		}
	}
}

// wait returns when a certificate is to be asked for: after pause where that is not 0,
// else when it is due; and when a handshake wants one. It returns false when ctx has
// ended.
func (s *ServerCertificate) wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(cmp.Or(pause, lookEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.wanted:
			if s.wants() {
				return true
			}
		case <-timer.C:
			if pause > 0 || s.wants() {
				return true
			}
			timer.Reset(lookEvery)
		}
	}
}

// wants tells whether a certificate is to be asked for now.
func (s *ServerCertificate) wants() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wantsAt(s.now())
}

// wantsAt is wants for who holds s.mu.
func (s *ServerCertificate) wantsAt(now time.Time) bool {
	recent := !s.tried.IsZero() && time.Since(s.tried) < minPause
	if s.current == nil || !s.current.isValid(now) {
		return !recent || s.err == nil // that was by another clock
	}
	// A renewal that has failed is tried again by Run, after its pause.
	return s.current.isDue(now) && s.err == nil && !recent
}

// attempt asks once, and tells whether that has brought something of use.
func (s *ServerCertificate) attempt(ctx context.Context) bool {
	now := s.now()
	got, err := s.client.ServerCertificate(ctx, s.name, now.Add(wantedLife))
	if ctx.Err() != nil {
		return false // the program ends
	}
	now = s.now()
	var fresh *certificate
	if err == nil {
		fresh = newCertificate(got, now)
		if !fresh.isValid(now) {
			err = fmt.Errorf("the certificate that the IoT Edge workload API gives is valid from %s to %s, and it is %s: "+
				"set the clock of the device, and see that its Edge CA has not expired (iotedge check)", utc(fresh.from), utc(fresh.until), utc(now))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh != nil && (err == nil || s.current == nil || !s.current.isValid(now)) {
		s.current = fresh
	}
	s.err, s.tried = err, time.Now()
	s.tell(now)
	close(s.over)
	s.over = make(chan struct{})
	return err == nil
}

// tell logs what has come of an attempt. The caller holds s.mu.
func (s *ServerCertificate) tell(now time.Time) {
	if s.err == nil {
		s.told = ""
		s.log.WithFields(logrus.Fields{"names": strings.Join(names(s.current.Leaf), " "), "until": utc(s.current.until)}).
			Info("the API port shows a new certificate of the IoT Edge workload API")
		return
	}
	level, text := logrus.ErrorLevel, "there is no certificate for the API port: TLS handshakes fail until the IoT Edge workload API gives one"
	switch current := s.current; {
	case current == nil:
	case !current.isValid(now):
		text = fmt.Sprintf("the certificate of the API port is valid from %s to %s, and there is no better one: clients refuse it", utc(current.from), utc(current.until))
	default:
		level, text = logrus.WarnLevel, fmt.Sprintf("the certificate of the API port cannot be renewed yet; it is valid until %s", utc(current.until))
	}
	if s.told == text && time.Since(s.toldAt) < tellEvery {
		return
	}
	s.told, s.toldAt = text, time.Now()
	if entry := s.log.WithError(s.err); level == logrus.WarnLevel {
		entry.Warn(text)
	} else {
		entry.Error(text)
	}
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// names are those that a certificate is for.
func names(c *x509.Certificate) []string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// newCertificate says what is to be known of a certificate that was given now.
func newCertificate(c *tls.Certificate, now time.Time) *certificate {
	fresh := &certificate{Certificate: c}
	for i, der := range c.Certificate {
		// The Edge CA, which comes behind the certificate, can expire before it.
		link := c.Leaf
		if i > 0 || link == nil {
			var err error
			if link, err = x509.ParseCertificate(der); err != nil {
				continue // the client has to do without it
			}
		}
		if i == 0 || link.NotBefore.After(fresh.from) {
			fresh.from = link.NotBefore
		}
		if i == 0 || link.NotAfter.Before(fresh.until) {
			fresh.until = link.NotAfter
		}
	}
	// It may have been made earlier: what counts is what is left.
	begin := fresh.from
	if now.After(begin) {
		begin = now
	}
	fresh.due = begin.Add(fresh.until.Sub(begin) / 3 * 2)
	return fresh
}

// isValid tells whether clients whose clock is now take c.
func (c *certificate) isValid(now time.Time) bool {
	return !now.Before(c.from) && !now.After(c.until)
}

func (c *certificate) isDue(now time.Time) bool {
	return !c.isValid(now) || !now.Before(c.due)
}

// GetCertificate is what [tls.Config] wants. While there is a valid certificate it
// waits for nothing. Otherwise it waits for an attempt to get one, unless the last one
// has just failed. Where there is only one that is not valid by the clock, that is what
// clients get: they say what is wrong with it, which a failed handshake does not.
func (s *ServerCertificate) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	now := s.now()
	current, over, wants := s.current, s.over, s.wantsAt(now)
	s.mu.Unlock()
	if wants {
		select {
		case s.wanted <- struct{}{}:
		default: // it is known already
		}
	}
	if current != nil && current.isValid(now) {
		return current.Certificate, nil
	}
	if wants {
		ctx, cancel := context.WithTimeout(cmp.Or(hello.Context(), context.Background()), handshakePatience)
		defer cancel()
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		return s.current.Certificate, nil
	}
	return nil, fmt.Errorf("there is no certificate to show: %w", s.err)
}
