package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/sirupsen/logrus"

	"registry-module/config"
	"registry-module/iotedge/workload"
	"registry-module/upstream"
)

// workloadAPI is what the IoT Edge runtime gives to this module. Nothing is asked of it
// before it is needed.
type workloadAPI struct {
	// certificate is what clients are shown; nil where that comes from elsewhere.
	certificate *workload.ServerCertificate
	// bundle has the authorities that the device trusts; nil where no remote needs them.
	bundle *workload.TrustBundle
}

// wireWorkloadAPI connects what the configuration wants of the runtime.
func wireWorkloadAPI(cfg *config.Config, log logrus.FieldLogger) (api workloadAPI, err error) {
	if api.bundle, err = newTrustBundle(cfg.Remotes, log); err != nil || !cfg.ServerCertificate {
		return api, err
	}
	client, err := workload.New(workload.FromEnvironment(os.Getenv))
	if err == nil {
		api.certificate, err = client.NewServerCertificate(workload.CertificateOptions{Log: log})
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("iotedge.servercertificate (REGISTRY_IOTEDGE_SERVERCERTIFICATE): %w", err), api.Close())
	}
	return api, err
}

// newTrustBundle returns the trust bundle of the device; nil where no remote needs it.
func newTrustBundle(remotes []config.Remote, log logrus.FieldLogger) (*workload.TrustBundle, error) {
	if !slices.ContainsFunc(remotes, func(r config.Remote) bool { return r.TrustBundle }) {
		return nil, nil
	}
	client, err := workload.New(workload.FromEnvironment(os.Getenv))
	if err != nil {
		return nil, fmt.Errorf("proxy.trustbundle (REGISTRY_PROXY_TRUSTBUNDLE): %w", err)
	}
	return client.NewTrustBundle(log), nil
}

// authoritiesOf are those that a remote's certificate can be of, beside the system's.
func authoritiesOf(r config.Remote, bundle *workload.TrustBundle) upstream.Authorities {
	if !r.TrustBundle || bundle == nil {
		return nil // not a bundle that is nil
	}
	return bundle
}

// source is the certificate for clients; nil where it comes from elsewhere.
func (api workloadAPI) source() certificateSource {
	if api.certificate == nil {
		return nil
	}
	return api.certificate.GetCertificate
}

// Close implements io.Closer.
func (api workloadAPI) Close() error {
	if api.bundle == nil {
		return nil
	}
	return api.bundle.Close()
}
