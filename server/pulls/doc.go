// Package pulls puts requests together to pulls: one line in the log for each image that
// somebody has pulled, and not one for each of its blobs.
//
// It promises that its memory is bounded, whoever asks for whatever. Of this module it
// imports cache and server.
package pulls
