// Package gc decides what to evict from a cache of images, and knows what a
// use of content is worth. It plans, and removes nothing.
//
// A [Graph] is filled with all stored content and its relations: what a
// manifest consists of, what is attached to what, what has expired, is pinned
// or being pulled. [Graph.Plan] then names what is to go, whole images at a
// time, so that half an image does not stay where a whole cold one could have
// gone. docs/eviction.md says what is worth what, and why.
//
// It promises: nothing that is kept or busy, nor anything below it or attached
// to any of that, is in a plan; a manifest that stays keeps each part it had,
// but for images that an index names; the same graph and options give the same
// plan. It trusts its caller that digests are not made to collide in their
// first 64 bits: such contents are one to it. Cycles, which digests cannot
// form, end no promise but that all can be evicted.
//
// A million contents of a hundred thousand images take some 40 MB. The package
// imports nothing of this module and does no I/O.
package gc
