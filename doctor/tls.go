package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"registry-module/doctor/chain"
	"registry-module/doctor/report"
)

// readRoots returns the authorities of the system, of file, and more (PEM), as package
// upstream does, and nil for those of the system.
func readRoots(file string, more []byte) *x509.CertPool {
	if file == "" && len(more) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(more)
	if pem, err := os.ReadFile(file); err == nil { // upstream.New has read it, too
		pool.AppendCertsFromPEM(pem)
	}
	return pool
}

// tlsConfig is for connections to anybody with a proper certificate. With own, it is
// for the registry and its token service, to which the client certificate is shown,
// and which are not verified where the operator wants it so.
func (e *examination) tlsConfig(serverName string, own bool) *tls.Config {
	config := &tls.Config{
		ServerName: serverName, RootCAs: e.roots, Time: e.now,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: own && e.r.Insecure,
	}
	if own && e.r.CertFile != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(e.r.CertFile, e.r.KeyFile)
			return &cert, err
		}
	}
	return config
}

// handshake makes TLS and judges the certificate. The connection is of no further
// use: whatever is wrong with the certificate is to be seen, so it is not verified
// on the way. With mayAsk, the server's clock is asked where that matters.
func (e *examination) handshake(ctx context.Context, conn net.Conn, l leg, mayAsk bool) report.Finding {
	config := e.tlsConfig(l.url.Hostname(), true)
	config.InsecureSkipVerify = true // nothing is sent over it
	var v *chain.Verdict
	config.VerifyConnection = func(state tls.ConnectionState) error {
		judged := chain.Judge(state.PeerCertificates, l.url.Hostname(), e.roots, e.now())
		v = &judged
		return nil
	}
	if show := config.GetClientCertificate; show != nil {
		config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if v.Good() || e.r.Insecure {
				return show(info)
			}
			return &tls.Certificate{}, nil // not for strangers
		}
	}
	start := time.Now()
	secured := tls.Client(conn, config)
	err := secured.HandshakeContext(ctx)
	if err != nil && (v == nil || v.Good()) {
		return e.noHandshake(l, err)
	}
	took := time.Since(start)
	f := e.explain(ctx, *v, l, mayAsk)
	state := secured.ConnectionState()
	if f.Status == report.OK {
		f.Text += ", " + tls.VersionName(state.Version)
	}
	return timed(f, took)
}

func (e *examination) noHandshake(l leg, err error) report.Finding {
	host := authority(l.url)
	record, isRecord := errors.AsType[tls.RecordHeaderError](err)
	isAlert := strings.Contains(err.Error(), "remote error: tls: ") // its type is not exported
	switch {
	case isRecord && plainAnswer(record):
		advice := "The registry's challenge names this token service with https: tell the registry's operator."
		if l.who.setting != "" {
			advice = "If " + l.who.noun + " has no TLS, write " + l.who.setting + "=http://" + l.url.Host + "; otherwise check the port."
		}
		return report.Fail(advice, "%s speaks HTTP without TLS, and the URL says https", host)
	case isRecord:
		return report.Fail("Check the port: another service listens there, or something in between answers for it.", "%s does not speak TLS", host)
	case isTimeout(err):
		return report.Fail("Something takes the connection and keeps silent: a firewall, a transparent proxy or a link that loses large packets (MTU). "+
			"Ask who runs the network, or name an HTTP proxy ("+e.r.Variable("HTTPPROXY")+").", "%s takes the connection and does not answer (TLS)", host)
	case isAlert && clientCertWanted(err):
		return e.clientCertRefused(host)
	case strings.Contains(err.Error(), "protocol version"):
		return report.Fail("Have its operator switch on TLS 1.2 or later.", "%s speaks only versions of TLS that are too old", host)
	case isAlert:
		return report.Fail("Check the host name, and that nothing in between blocks it by name.", "%s refuses TLS: %s", host, e.secrets.Clean(err.Error()))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		return report.Fail("A firewall that blocks by name does so, and so does a server that expects something else: ask who runs the network to allow "+l.url.Hostname()+".",
			"%s closes the connection when TLS begins", host)
	default:
		return report.Fail("Check the host and the port.", "TLS with %s fails: %s", host, e.secrets.Clean(err.Error()))
	}
}

func clientCertWanted(err error) bool {
	text := err.Error()
	return strings.Contains(text, "certificate required") || strings.Contains(text, "bad certificate") ||
		strings.Contains(text, "unknown certificate authority")
}

func (e *examination) clientCertRefused(host string) report.Finding {
	if e.r.CertFile == "" {
		return report.Fail("Set "+e.r.Variable("CERTIFICATE")+" and "+e.r.Variable("KEY")+" to the files of one that it accepts.",
			"%s wants a client certificate, and none is configured", host)
	}
	return report.Fail("Get one from the registry's operator, and set "+e.r.Variable("CERTIFICATE")+" and "+e.r.Variable("KEY")+" to its files.",
		"%s does not accept the client certificate %s", host, e.r.CertFile)
}
