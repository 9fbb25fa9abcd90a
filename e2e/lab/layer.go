package lab

import (
	"context"
	"fmt"
	"path/filepath"
)

// Layer is a device with a gateway.
type Layer struct {
	// Hostname is what those below call it.
	Hostname string
	// Device is where its API proxy runs, Docker where its module does: its cable to
	// the layer above goes there. Without a module they are the same.
	Device, Docker *Device
	Proxy          *APIProxy
	// Module is nil without one.
	Module *Server
	// Authority is the device's Edge CA.
	Authority *Authority
	// Workload is its workload API; nil without a module or a runtime.
	Workload *WorkloadAPI

	root *Authority
	dir  string // of the module
}

// certify writes a new certificate for the module.
func (l *Layer) certify() (*Issued, error) {
	cert, err := l.Authority.Issue(Leaf{CommonName: l.Hostname, Names: []string{l.Hostname, "registry"}})
	if err != nil {
		return nil, err
	}
	return cert, cert.Write(filepath.Join(l.dir, "server.pem"), filepath.Join(l.dir, "server.key"))
}

// RenewModule writes a new certificate for the module, and returns when the module shows it.
func (l *Layer) RenewModule(ctx context.Context) error {
	cert, err := l.certify()
	if err != nil {
		return fmt.Errorf("renewing a certificate: %w", err)
	}
	return awaitSerial(ctx, cert, l.Shown)
}

// Revoke takes back certificates, in place of those that were taken back before.
func (l *Layer) Revoke(revoked ...*Issued) error {
	return l.Authority.Revoke(filepath.Join(l.dir, "revoked.pem"), revoked...)
}

// Unplug takes out the cable to the layer above, or plugs it in again.
func (l *Layer) Unplug(ctx context.Context, out bool) error {
	state := "up"
	if out {
		state = "down"
	}
	return IP(ctx, "-n", l.Docker.Name, "link", "set", "u0", state)
}

// Registry is the layer as those below write it: host and port.
func (l *Layer) Registry() string { return l.Hostname + ":" + APIProxyPort }

// Shown is the number of the certificate that the module shows at its port.
func (l *Layer) Shown(ctx context.Context) (string, error) {
	return l.Docker.serial(ctx, l.Hostname, l.root)
}
