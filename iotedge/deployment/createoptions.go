package deployment

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// CreateOptions are how a container is made, of what Docker's API takes for it
// (POST /containers/create), the part that is used here. The zero value is none.
type CreateOptions struct {
	HostConfig *HostConfig `json:"HostConfig,omitempty"`
}

// HostConfig is what a container has of its host.
type HostConfig struct {
	// Binds are mounts: a named volume or a directory, the path, and ro to only read it.
	Binds []string `json:"Binds,omitempty"`
	// PortBindings are ports of the host, by ports of the container such as 8000/tcp.
	PortBindings map[string][]PortBinding `json:"PortBindings,omitempty"`
	LogConfig    *LogConfig               `json:"LogConfig,omitempty"`
	// ReadonlyRootfs tells that only mounts can be written to.
	ReadonlyRootfs bool     `json:"ReadonlyRootfs,omitempty"`
	CapDrop        []string `json:"CapDrop,omitempty"`
	SecurityOpt    []string `json:"SecurityOpt,omitempty"`
}

// PortBinding is a port of the host, for all of its addresses.
type PortBinding struct {
	HostPort string `json:"HostPort"`
}

// LogConfig is where the engine writes the container's log.
type LogConfig struct {
	Type   string            `json:"Type"`
	Config map[string]string `json:"Config,omitempty"`
}

// settings returns the options as settings of a module: createOptions, createOptions01 and
// so on.
func (o CreateOptions) settings() (map[string]string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return nil, fmt.Errorf("createOptions: %w", err)
	}
	parts, err := Split(strings.TrimSuffix(b.String(), "\n"))
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for i, part := range parts {
		settings[partName(i)] = part
	}
	return settings, nil
}

const (
	// MaxPart is how long one part of createOptions can be. The agent counts what .NET calls
	// characters (UTF-16 code units), and some of Azure's tools count bytes.
	MaxPart = 512
	// MaxParts is how many parts Azure's tools take: createOptions to createOptions07.
	MaxParts = 8
)

// partName is the name of part number i: createOptions, createOptions01 ...
func partName(i int) string {
	if i == 0 {
		return "createOptions"
	}
	return fmt.Sprintf("createOptions%02d", i)
}

// Split cuts createOptions, which are JSON, into parts of at most [MaxPart] bytes in UTF-8,
// which is never less than in any other unit. No part begins within an escape of JSON, a
// surrogate pair, or a character. It fails where more than [MaxParts] would be needed, and
// for text that is no UTF-8.
func Split(text string) ([]string, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("createOptions are no valid UTF-8")
	}
	var parts []string
	from, at := 0, 0
	for size := range atoms(text) {
		if at+size-from > MaxPart {
			parts = append(parts, text[from:at])
			from = at
		}
		at += size
	}
	parts = append(parts, text[from:])
	if len(parts) > MaxParts {
		return nil, fmt.Errorf("createOptions have %d characters, and %d parts of %d characters is all there can be: leave something out",
			units(text), MaxParts, MaxPart)
	}
	return parts, nil
}

// Join is the reverse of Split.
func Join(parts []string) string { return strings.Join(parts, "") }

// atoms are the lengths in bytes of what must stay together, in order.
func atoms(text string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for text != "" {
			size := atom(text)
			if !yield(size) {
				return
			}
			text = text[size:]
		}
	}
}

// atom is the length of what must stay together at the beginning of text.
func atom(text string) int {
	if text[0] != '\\' {
		_, size := utf8.DecodeRuneInString(text)
		return size
	}
	size := escape(text)
	const long = len(`\uXXXX`)
	if size == long && isSurrogate(text, "89ab") && escape(text[size:]) == long && isSurrogate(text[size:], "cdef") {
		size *= 2
	}
	return size
}

// escape is the length of the escape of JSON (RFC 8259, section 7) at the beginning of
// text, or less where text ends before; 0 where there is none.
func escape(text string) int {
	switch {
	case !strings.HasPrefix(text, `\`):
		return 0
	case strings.HasPrefix(text, `\u`):
		n := 2
		for n < len(text) && n < 6 && text[n] < utf8.RuneSelf {
			n++
		}
		return n
	case len(text) == 1:
		return 1
	}
	_, size := utf8.DecodeRuneInString(text[1:])
	return 1 + size
}

// isSurrogate tells whether the escape \uXXXX at the beginning of text is a half of a
// surrogate pair: the first, whose second digit is one of 89ab, or the second, with cdef.
func isSurrogate(text, second string) bool {
	return strings.EqualFold(text[2:3], "d") && strings.Contains(second, strings.ToLower(text[3:4]))
}

// units is how many characters text has for .NET and for JavaScript.
func units(text string) int {
	n := 0
	for _, r := range text {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}
