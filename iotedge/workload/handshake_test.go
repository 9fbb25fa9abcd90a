package workload_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"registry-module/iotedge/workload"
	wt "registry-module/iotedge/workload/workloadtest"
)

// listenAndLeave makes a socket that nobody listens at.
func listenAndLeave(path string) error {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false)
	return ln.Close()
}

// A real handshake, by a client that trusts the root of the site alone.
func TestHandshake(t *testing.T) {
	api := wt.New(t, wt.Options{})
	s, err := newClient(t, options(api)).NewServerCertificate(workload.CertificateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(api.Root().PEM())
	for _, name := range []string{gateway, "registry"} {
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- tls.Server(far, &tls.Config{GetCertificate: s.GetCertificate}).HandshakeContext(t.Context())
		}()
		if err := tls.Client(near, &tls.Config{ServerName: name, RootCAs: roots}).HandshakeContext(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, _ = near.Close(), far.Close() // nothing is in them
	}
	cancel()
	<-ended
}
