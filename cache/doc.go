// Package cache is the heart of registry-module: it answers for manifests,
// tags and blobs from local storage, and fetches from a remote registry what
// is not there, each byte once.
//
// It promises that
//   - content is reachable under a digest only after it was verified against
//     that digest and stored durably;
//   - any number of readers of one missing blob cause one download, which
//     belongs to the cache and goes on when they leave;
//   - a reader of a blob that is still being downloaded gets its last byte only
//     after the whole was verified;
//   - a repository serves only what the remote has vouched for under that
//     repository;
//   - what is cached is answered without the remote, and a tag whose lifetime
//     is over is answered from the cache when the remote is away.
//
// It trusts its [Blobs] and [Refs] to be durable and not to alter bytes, its
// [Index] to be fast but not to survive, and its [Upstream] in nothing but
// names: all content is verified here.
//
// The package declares the interfaces that it consumes. It knows neither files
// nor Badger nor HTTP, and imports nothing of this module but internal packages.
package cache
