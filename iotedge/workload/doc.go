// Package workload asks the IoT Edge runtime for what a module needs to be one
// link of a chain of gateways: a certificate that lower layers trust, and the
// certificates of the authorities that it can trust itself. The runtime gives both
// over the workload API, which each module finds at a Unix socket of its own; see
// "IoT Edge Module Workload API", version 2019-01-30, in
// edgelet/api/workloadVersion_2019_01_30.yaml of the repository Azure/iotedge.
//
// It promises that
//   - nothing is asked before it is needed, and a runtime that is away, which is
//     normal while it is restarted or updated, is no reason to end: what was given
//     before goes on to be used, and it is asked again;
//   - no TLS handshake waits for a renewal while there is a certificate that is valid;
//   - it believes the clock anew each time, since that of a device can be wrong when
//     it starts;
//   - answers are bounded in size and time, and private keys are in no error and no
//     log.
//
// It trusts the runtime for what it gives, as the whole device does. [Client] puts
// the questions, [ServerCertificate] keeps a certificate fresh for a server, and
// [TrustBundle] keeps the authorities. The package imports nothing of this module.
package workload
