// Package e2e holds the end-to-end tests: the registry-module binary, the
// stock registry as its upstream, and unmodified clients, all as processes on
// one machine. Each file of tests has one theme. The toolkit is package lab.
//
// The tests build registry-module from the working tree. With E2E_BINARY set
// to the path of a binary they test that one in its place. What is about large
// downloads, or long ones, runs on less than it promises unless it is told -full:
// see `make campaign`.
package e2e
