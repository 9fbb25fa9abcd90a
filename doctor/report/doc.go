// Package report is what doctor finds: steps that are done one after the other, what
// came of each in plain words, and the report of all.
//
// It promises that a step ends in time, if need be by being left behind, and that the
// form of the report in JSON stays. It trusts that texts are fit to be shown. Of this
// module it imports nothing.
package report
