// Package lab is a toolkit for tests and benchmarks that run real programs on
// one machine: registry-module itself, the stock registry in front of it or in
// its place, and the clients that people use.
//
// It promises that
//   - every program is there or the call fails: nothing is skipped;
//   - every process it starts has its own process group, its own directory
//     below the one it was given, its output in a file, and ends with Stop;
//   - nothing listens anywhere but on loopback;
//   - a [Ledger] holds every request that reached an upstream, and the bytes
//     that were sent for it, no more and no less.
//
// It trusts its caller to hand it an empty directory and to call Stop.
//
// The package imports nothing of this module: it sees registry-module only
// from outside, as a user does. It does not import testing either, so that a
// program can use it: everything returns an error.
package lab
