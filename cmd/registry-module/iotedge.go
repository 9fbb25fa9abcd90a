package main

import (
	"fmt"
	"os"

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
	keeper      *runner // of certificate
}

// wireRuntime connects what a configuration wants of the runtime.
func (p *program) wireRuntime(cfg *config.Config, before *generation) (api workloadAPI, err error) {
	switch {
	case !cfg.ServerCertificate:
		return api, nil
	case before != nil && before.runtime.certificate != nil:
		return before.runtime, nil
	}
	client, err := workload.New(workload.FromEnvironment(os.Getenv))
	if err == nil {
		api.certificate, err = client.NewServerCertificate(workload.CertificateOptions{Log: p.log})
	}
	if err != nil {
		return api, fmt.Errorf("iotedge.servercertificate (REGISTRY_IOTEDGE_SERVERCERTIFICATE): %w", err)
	}
	api.keeper = &runner{run: api.certificate.Run}
	return api, nil
}

// newTrustBundle returns the trust bundle of the device, which the caller closes.
func newTrustBundle(log logrus.FieldLogger) (*workload.TrustBundle, error) {
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
