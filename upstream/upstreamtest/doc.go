// Package upstreamtest is a registry that does what a test tells it to: it
// serves content that was put into it, counts what it is asked for and what it
// sends, and misbehaves on request.
//
// It promises exact counts: a request is counted, with its headers, before its
// answer begins, and each byte of a body is counted as it is handed to the
// connection.
//
// [New] serves one on loopback for the length of a test, with a token service
// and a second host for blobs (the CDN that registries redirect to) on
// addresses of their own. [NewHandler] gives the same as an http.Handler for
// other programs; token service and blob host are then paths of it.
//
// It is made for tests and demonstrations and holds all content in memory, but
// for what [Registry.AddGenerated] makes up. It imports nothing of this module,
// and not package testing.
package upstreamtest
