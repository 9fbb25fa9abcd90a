// Package access decides who may pull what. [Gate.Authorize] is asked once for each
// request, before anything is looked up.
//
// Who the caller is, is what a verified client certificate says, or a log-in: to an access
// controller of distribution (htpasswd, token), or, for a remote whose log-ins are passed
// through, to that remote itself. What the caller may pull is what a policy allows, or
// everything where there is none.
//
// It promises that
//   - the decision depends on the caller, the configuration and, where log-ins are passed
//     through, on what the remote says: never on what is stored here or exists;
//   - a log-in that has failed is slow to fail again, and is in the log, and one that is
//     good is not slow: what was found out about it is remembered, as a keyed hash, for a
//     few minutes;
//   - a remote that cannot be asked does not lock out those whom it has let in before, for
//     a time that the operator chooses, over restarts, too;
//   - passwords are in no log and no error, and on no disk but as a salted hash that is slow
//     to compute (scrypt);
//   - memory, goroutines, and the work for log-ins are bounded whatever callers do.
//
// It trusts the access controller, the policy and the remotes that it is given, and nothing
// in a request that was not verified. It imports, of this module, auth/policy, cache for
// the terms in which remotes are asked, and internal/tracing and internal/via; and
// distribution, for its access controllers.
package access
