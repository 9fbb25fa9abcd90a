// Package workloadtest is the workload API of an IoT Edge runtime for tests: a root
// authority, the Edge CA of a device below it, and a Unix socket that gives a module
// certificates and the trust bundle. It counts what it is asked for, and fails on
// request.
//
// It promises exact counts, a request being counted before its answer begins, and
// answers in the form of aziot-edged: PEM as it is, status 201 for certificates, errors
// as {"message": ...}.
//
// [New] serves one for the length of a test, [Serve] for other programs. It is made for
// tests, imports nothing of this module, and not package testing.
package workloadtest
