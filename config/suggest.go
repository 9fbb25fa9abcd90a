package config

import (
	"reflect"
	"strings"
)

// didYouMean returns a hint such as ` (did you mean "tagttl"?)` where one of
// the candidates is close to name, else nothing.
func didYouMean(name string, candidates []string) string {
	// Two slips of the finger, or one in a short word: more and the hints are
	// for words that have nothing to do with each other.
	limit := 2
	if len(name) < 5 {
		limit = 1
	}
	best := ""
	for _, c := range candidates {
		if max(len(name)-len(c), len(c)-len(name)) > limit {
			continue // and so is their distance, at once for a very long name
		}
		if d := distance(name, c); d <= limit {
			best, limit = c, d-1
		}
	}
	if best == "" {
		return ""
	}
	return ` (did you mean "` + best + `"?)`
}

// distance returns how many insertions, deletions, substitutions and swaps of
// neighbours turn a into b (the optimal string alignment distance).
func distance(a, b string) int {
	// Three rows of the table are enough; rows[2] becomes the next one.
	var rows [3][]int
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := rows[0], rows[1], rows[2]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		rows = [3][]int{last, row, before}
	}
	return rows[1][len(b)]
}

// variables returns the names of all variables for the section t, whose own
// name is name.
func variables(name string, t reflect.Type) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !isSection(t) {
		return []string{prefix + customary(strings.TrimPrefix(name, prefix))}
	}
	var names []string
	for _, f := range fieldsOf(t) {
		names = append(names, variables(strings.TrimSuffix(name, "_")+"_"+f.variable, f.typ)...)
	}
	return names
}
