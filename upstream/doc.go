// Package upstream speaks to remote registries: it finds out how a registry
// wants to be asked, asks it for manifests, tags, referrers and blobs as the
// OCI distribution specification says, and tells in terms of package cache what
// came of it.
//
// It promises that
//   - nothing is sent before the first question is asked, and no more requests
//     than questions need;
//   - while a [Switch] rules it out, no packet leaves: no connection is made or stays
//     open, no name is looked up, and no program for credentials is run;
//   - credentials go to the registry that they were given for and to its token
//     service, see [auth.RealmPolicy], and nowhere else: not to the hosts that
//     blobs are redirected to, not over http where https was configured, and
//     not into errors or logs, where a remote that repeats them cannot bring them
//     either, see [Secrets];
//   - credentials that are rejected are sent again only where others are to be had,
//     and once: those who give them are asked for that, see [Options.Credentials];
//   - bytes and media types are handed on as they came;
//   - a part of a blob begins where it was asked for and has as many bytes as is
//     said of it, or fails; what a host calls its copy of the blob (its ETag) is
//     told to no other host;
//   - an outage is never taken for an answer: that something does not exist is
//     said only where the remote has said so, and it is told whether that need have
//     been the registry ([cache.UpstreamError].Vague);
//   - what somebody else has answered in the remote's place, and what has failed at a
//     host that it has redirected to, is told apart from what the remote does
//     ([cache.ErrIntercepted], [cache.UpstreamError].Elsewhere).
//
// It trusts the remote in nothing: sizes, headers and error texts are bounded
// and checked for form. Content is not verified here but by the cache.
//
// A [Remote] is one registry, without retries, limits or a memory of outages:
// they are decorators of [cache.Upstream]. The package imports cache, for the
// interface that it implements, auth, internal/reloaded, internal/tracing and internal/via.
package upstream
