// Package load is the client side of a benchmark: herds of clients that pull
// images or repeat one download, as cheaply as they can, since they share the
// machine with the server that is measured.
//
// It promises that
//   - every body is read to its end and has the length that was announced for
//     it, and the clients of [Pull.Verify] have computed every digest: what
//     differs is the client's error;
//   - the clients of one job start together, and time is measured from there.
//
// A job is data and so is its result: run it in a process of its own, whose CPU
// time and memory are then not the server's, with [Main].
//
// The package imports nothing of this module and contacts only the address it
// is given.
package load
