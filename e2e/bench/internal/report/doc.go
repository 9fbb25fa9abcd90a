// Package report turns samples into a table: medians side by side, ratios, and
// whether a bar is met.
//
// It is pure: nothing is read, nothing is measured. It imports nothing of this
// module.
package report
