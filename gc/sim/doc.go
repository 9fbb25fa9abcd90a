// Package sim replays generated traces of image pulls against caches of limited
// size, to choose and to guard what package gc holds content to be worth.
//
// Whatever evicts whole images does so through the real [gc.Graph.Plan]; the
// policies differ in the score that a use gives. It is all in memory, and the
// same for the same seed. docs/eviction.md describes traces and results;
// gc/sim/table prints them.
package sim
