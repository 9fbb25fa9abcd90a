package deployment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// kind is a kind of value of JSON.
type kind int

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

func (k kind) String() string {
	return [...]string{"null", "true or false", "a number", "text", "a list", "an object"}[k]
}

// node is a value of JSON, with the members of objects in their order. Its methods can be
// called on nil, which is a value that is not there.
type node struct {
	kind kind
	// text is that of text, or a number as it is written.
	text    string
	keys    []string // of an object
	members []*node  // of an object or a list
}

// get returns the member of that name, the last where there are several, as all parsers
// take it.
func (n *node) get(key string) *node {
	if n == nil || n.kind != object {
		return nil
	}
	for i := len(n.keys) - 1; i >= 0; i-- {
		if n.keys[i] == key {
			return n.members[i]
		}
	}
	return nil
}

const (
	// maxManifest is how many bytes of a manifest are read. IoT Hub takes 32 KB for each of
	// 50 modules.
	maxManifest = 2 << 20
	// maxNesting is how deep values can be in each other. Twins have 10 levels, at three
	// more in a manifest.
	maxNesting = 64
)

// parse reads JSON.
func parse(data []byte) (*node, error) {
	switch {
	case len(data) > maxManifest:
		return nil, fmt.Errorf("it is larger than %d MiB", maxManifest>>20)
	case !utf8.Valid(data):
		return nil, errors.New("it is not in UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // as editors on Windows write it
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := value(d, 0)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return n, nil
		}
		err = errors.New("there is something behind its end")
	}
	line := 1 + bytes.Count(data[:min(d.InputOffset(), int64(len(data)))], []byte("\n"))
	return nil, fmt.Errorf("line %d: it is no JSON: %w", line, err)
}

// value reads one value.
func value(d *json.Decoder, depth int) (*node, error) {
	token, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("values are more than %d deep in each other", maxNesting)
	}
	switch token := token.(type) {
	case bool:
		return &node{kind: boolean}, nil
	case json.Number:
		return &node{kind: number, text: token.String()}, nil
	case string:
		return &node{kind: text, text: token}, nil
	case json.Delim:
		n := &node{kind: array}
		if token == '{' {
			n.kind = object
		}
		return n, n.fill(d, depth)
	}
	return &node{}, nil
}

// fill reads the members of n, and its end.
func (n *node) fill(d *json.Decoder, depth int) error {
	for d.More() {
		if n.kind == object {
			key, err := d.Token()
			if err != nil {
				return err
			}
			name, ok := key.(string)
			if !ok {
				return errors.New("the name of a member is no text")
			}
			n.keys = append(n.keys, name)
		}
		member, err := value(d, depth+1)
		if err != nil {
			return err
		}
		n.members = append(n.members, member)
	}
	_, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// shown is a key in a message.
func shown(key string) string {
	const longest = 80
	if len(key) > longest {
		key = strings.ToValidUTF8(key[:longest], "") + "..."
	}
	return key
}
