// Package e2e holds the end-to-end tests: the registry-module binary, the
// stock registry as its upstream, and unmodified clients, all as processes on
// one machine. Each file of tests has one theme. The toolkit is package lab.
//
// The tests build registry-module from the working tree. With E2E_BINARY set
// to the path of a binary they test that one in its place.
package e2e
