// Package doctor finds out why images cannot be pulled: it goes the way to a
// remote registry step by step, from its name to a manifest, and looks at what
// this machine gives to the program. Each step is one [report.Finding] in plain words,
// and one that has failed says what to do.
//
// It promises that
//   - a cause is named once: what depends on a step that has failed is not tried;
//   - each step ends in time, if need be by being left behind;
//   - no password, token or other secret is in a finding;
//   - credentials go where package upstream sends them, which is what logs in, and
//     nowhere else: nothing secret is sent where the certificate was not accepted;
//   - an identity token is used once, and not where [Remote.InUse] says that somebody
//     else may use it, because its service may replace it;
//   - nothing is changed here but for a file in the data directory that is removed at
//     once.
//
// It trusts nothing that comes over the network: texts are bounded, and cleaned
// before they are repeated. The Date of a server is taken as a hint at what the
// time is, and nothing depends on it.
//
// It opens connections of its own up to where HTTP is spoken, because a failure can
// only be told apart where it happens. From there on it has package upstream ask, and
// looks on, so that what is said here is what the program will do. Of this module it
// imports auth, upstream, and the packages below it but for machine.
package doctor
