package source

import "fmt"

// kind is what a node is.
type kind uint8

const (
	null kind = iota
	scalar
	sequence
	mapping
)

// node is a value of a document, be it YAML or JSON. An alias is the node that it stands
// for, so that a node can be at several places; but never within itself.
type node struct {
	// items are the elements of a sequence, or the keys and values of a mapping, one
	// behind the other.
	items []*node
	text  string // of a scalar, as it is written
	line  int
	kind  kind
	// str tells that a scalar is text, and no number or truth value.
	str bool
}

const (
	// maxDepth is how deep values can be in each other. Objects of Kubernetes have some
	// 15 levels, and definitions of custom resources some 50.
	maxDepth = 100
	// maxValues is about how many values a document can have. A value takes some 200
	// bytes of memory. 10 MiB of what people and programs write have half as many.
	maxValues = 1_000_000
	// maxDocuments is how many documents there can be in a file.
	maxDocuments = 10_000
)

// parseError is why a text cannot be parsed. It quotes nothing of it.
type parseError struct {
	line int
	text string
}

// Error implements error. The line is told by who reports it.
func (e *parseError) Error() string { return e.text }

// tooDeep and tooMany are about the bounds.
func tooDeep(line int) error {
	return &parseError{line, fmt.Sprintf("it has more than %d levels", maxDepth)}
}

func tooMany() error {
	return &parseError{0, fmt.Sprintf("a document of it has more than %d values: split it into several files", maxValues)}
}

// checkDocuments returns an error where there are too many documents.
func checkDocuments(n int) error {
	if n > maxDocuments {
		return &parseError{0, fmt.Sprintf("it has more than %d documents: split it into several files", maxDocuments)}
	}
	return nil
}

// last returns the value that a key of a mapping has, or nil. Of two, the last one counts,
// as in most programs.
func (n *node) last(key string) *node {
	if n == nil || n.kind != mapping {
		return nil
	}
	for i := len(n.items) - 2; i >= 0; i -= 2 {
		if n.items[i].kind == scalar && n.items[i].text == key {
			return n.items[i+1]
		}
	}
	return nil
}

// string returns the text that a node is, if it is one.
func (n *node) string() (string, bool) {
	if n == nil || n.kind != scalar || !n.str {
		return "", false
	}
	return n.text, true
}

// absent tells whether a node is not there, or null.
func (n *node) absent() bool { return n == nil || n.kind == null }

// entries returns the keys and values of a mapping, with those that are merged into it
// (https://yaml.org/type/merge.html), which those that are written take precedence of. Keys
// that are no scalars are left out.
func (r *reader) entries(m *node) []entry {
	var found []entry
	seen := map[string]int{}
	r.collect(m, &found, seen)
	return found
}

// entry is a key of a mapping with its value.
type entry struct{ key, value *node }

func (r *reader) collect(m *node, found *[]entry, seen map[string]int) {
	if m == nil || m.kind != mapping || !r.step(1+len(m.items)) {
		return
	}
	written := len(*found)
	var merged []*node
	for i := 0; i+1 < len(m.items); i += 2 {
		k, v := m.items[i], m.items[i+1]
		if k.kind != scalar {
			continue
		}
		if k.text == "<<" {
			merged = append(merged, v)
			continue
		}
		if at, ok := seen[k.text]; !ok {
			seen[k.text] = len(*found)
			*found = append(*found, entry{k, v})
		} else if at >= written {
			(*found)[at] = entry{k, v}
		}
	}
	for _, v := range merged {
		if v.kind != sequence {
			r.collect(v, found, seen)
			continue
		}
		for _, v := range v.items {
			r.collect(v, found, seen)
		}
	}
}

// field returns the value that a key of a mapping has, be it merged, or nil.
func (r *reader) field(m *node, key string) *node {
	if m == nil || m.kind != mapping || !r.step(1+len(m.items)/2) {
		return nil
	}
	if v := m.last(key); v != nil {
		return v
	}
	for i := 0; i+1 < len(m.items); i += 2 {
		if m.items[i].kind != scalar || m.items[i].text != "<<" {
			continue
		}
		of := m.items[i+1]
		if of.kind != sequence {
			of = &node{kind: sequence, items: []*node{of}}
		}
		for _, m := range of.items {
			if v := r.field(m, key); v != nil {
				return v
			}
		}
	}
	return nil
}
