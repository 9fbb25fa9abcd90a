package source

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// parseYAML parses the documents of a text. An error is a *parseError.
func parseYAML(text string) (docs []*node, err error) {
	if tooManyMarks(text) {
		return nil, tooMany()
	}
	// Package yaml panics where it finds that it is not in order itself.
	defer func() {
		if p := recover(); p != nil {
			docs, err = nil, &parseError{0, "it is none"}
		}
	}()
	loader, err := yaml.NewLoader(strings.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, &parseError{0, "it is none"}
	}
	for {
		var doc yaml.Node
		switch err := loader.Load(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, yamlError(err)
		}
		c := converter{anchored: map[*yaml.Node]converted{}}
		n, _, err := c.convert(&doc)
		if err != nil {
			return nil, err
		}
		docs = append(docs, n)
		if err := checkDocuments(len(docs)); err != nil {
			return nil, err
		}
	}
}

// tooManyMarks tells whether a document of a text has more marks of YAML that begin a
// value than it can have values. It is what keeps 10 MiB of commas from becoming a gigabyte
// of nodes. Three dashes at the beginning of a line end a document wherever they are (YAML
// 1.2.2, section 9.1.2).
func tooManyMarks(text string) bool {
	marks := 0
	for i := range len(text) {
		switch text[i] {
		case '\n':
			marks++
			if strings.HasPrefix(text[i+1:], "---") {
				marks = 0
			}
		case ',', '[', '{':
			marks++
		case '-', ':', '?':
			if i+1 == len(text) || strings.IndexByte(" \t\n", text[i+1]) >= 0 {
				marks++
			}
		}
		if marks > maxValues {
			return true
		}
	}
	return false
}

// converter makes nodes of those of package yaml.
type converter struct {
	// anchored are the nodes that aliases can stand for; the depth of one that is not
	// converted yet is 0.
	anchored map[*yaml.Node]converted
}

type converted struct {
	*node
	depth int
}

// convert returns the node for y, and how many levels it has. Aliases make levels that
// package yaml does not see.
func (c converter) convert(y *yaml.Node) (n *node, depth int, err error) {
	switch y.Kind {
	case yaml.DocumentNode:
		if len(y.Content) == 0 {
			return &node{line: y.Line}, 1, nil
		}
		return c.convert(y.Content[0])
	case yaml.AliasNode:
		found := c.anchored[y.Alias]
		if found.depth == 0 {
			return nil, 0, &parseError{y.Line, "an alias is within what it stands for"}
		}
		return found.node, found.depth, nil
	}
	n = &node{line: y.Line, text: y.Value}
	if y.Anchor != "" {
		c.anchored[y] = converted{}
	}
	switch y.Kind {
	case yaml.ScalarNode:
		n.kind = scalar
		switch y.ShortTag() {
		case "!!null":
			n.kind = null
		case "!!bool", "!!int", "!!float", "!!timestamp", "!!binary":
		default:
			n.str = true
		}
	case yaml.SequenceNode:
		n.kind = sequence
	default:
		n.kind = mapping
	}
	depth = 1
	if len(y.Content) > 0 {
		n.items = make([]*node, len(y.Content))
	}
	for i, below := range y.Content {
		item, d, err := c.convert(below)
		if err != nil {
			return nil, 0, err
		}
		if depth = max(depth, d+1); depth > maxDepth {
			return nil, 0, tooDeep(y.Line)
		}
		n.items[i] = item
	}
	if y.Anchor != "" {
		c.anchored[y] = converted{n, depth}
	}
	return n, depth, nil
}

// yamlError returns an error of package yaml, as far as it quotes nothing: a value that
// begins with * or ! can be a password.
func yamlError(err error) error {
	e := new(yaml.LoadError)
	if !errors.As(err, &e) {
		return &parseError{0, "it is none"}
	}
	line := e.Mark.Line
	switch {
	case strings.Contains(e.Message, "max depth"):
		return tooDeep(line)
	case e.Stage == yaml.ComposerStage:
		return &parseError{line, "a value begins with * or &: put it in quotation marks"}
	case e.Stage == yaml.ResolverStage:
		return &parseError{line, "a value is not of the type that its tag says: is it a text that begins with !? Put it in quotation marks"}
	case e.Stage != yaml.ReaderStage && e.Stage != yaml.ScannerStage && e.Stage != yaml.ParserStage:
		return &parseError{line, "it is none"}
	case e.ContextMsg != "":
		return &parseError{line, fmt.Sprintf("%s (%s)", e.Message, e.ContextMsg)}
	}
	return &parseError{line, e.Message}
}
