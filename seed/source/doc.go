// Package source reads which images are to be seeded, from what operators have: lists,
// deployment manifests of IoT Edge, compose files, Kubernetes manifests, and seed files. It
// finds out by the content which of these it is.
//
// It promises that whatever it is given costs a bounded amount of memory and time, and
// that all that is wrong is said at once, with the place. It touches neither network nor
// files. It trusts nobody: these documents come from outside. Of this module it imports
// seed and internal packages.
package source
