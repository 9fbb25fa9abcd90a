// Package pulls puts requests together to pulls: one line in the log for each image that
// somebody has pulled, and not one for each of its blobs.
//
// Nothing in a request says which pull it belongs to. A pull is what one client, by address,
// user and agent, asks of one repository without a pause: it begins with a manifest, or with
// a blob where it goes on with an earlier one, and ends when nothing is under way and nothing
// has come for a while. Clients behind one proxy that pull the same repository at the same
// time with the same program are one to it.
//
// It promises that its memory is bounded, whoever asks for whatever, that nothing that
// clients send can break a line of the log, and that nothing runs while nobody pulls. Of this
// module it imports cache and server.
package pulls
