// Package synth is a remote registry for benchmarks: it serves images made of
// noise over a link whose rate and delay are set, and counts what it serves.
//
// It promises that
//   - an image is a real one: manifest, config and tar layers have the digests
//     and sizes that they say, and are the same in each run;
//   - the bodies of blobs, all connections together, leave at no more than the
//     set rate, smoothly, and no answer begins before the set delay;
//   - [Counters] hold each request, and each byte of a blob that was handed to
//     the system.
//
// Rate and delay apply above the socket, so that its buffers keep the link busy
// while a receiver pauses, as they do on a real one. A receiver that pauses for
// longer loses what the link could have carried meanwhile, as on a real one.
//
// A [Server] answers anybody who can reach its port; bind it to loopback. It
// holds its images in memory, so that a disk does not slow it down. Of this
// module, the package imports e2e/lab only.
package synth
