package source

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// parseJSON parses the values of a text, one behind the other, in which there can be
// comments as in JavaScript; templates for deployment manifests have such. An error is a
// *parseError.
func parseJSON(text string) ([]*node, error) {
	text = blankComments(text)
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	p := jsonParser{d: d, text: text, line: 1}
	var docs []*node
	for {
		p.values = 0
		n, err := p.parse(1)
		switch {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		}
		docs = append(docs, n)
		if err := checkDocuments(len(docs)); err != nil {
			return nil, err
		}
	}
}

// jsonParser makes nodes of JSON. [json.Decoder] checks the syntax.
type jsonParser struct {
	d    *json.Decoder
	text string
	// line is that of the byte at offset.
	line, offset int
	values       int
}

// parse parses the next value, at a depth. It is io.EOF where there is none.
func (p *jsonParser) parse(depth int) (*node, error) {
	t, err := p.token()
	if err != nil {
		return nil, err
	}
	if p.values++; p.values > maxValues {
		return nil, tooMany()
	}
	if depth > maxDepth {
		return nil, tooDeep(p.line)
	}
	n := &node{line: p.line}
	switch t := t.(type) {
	case json.Delim: // only an opening one: More has told that there is a value
		n.kind = sequence
		if t == '{' {
			n.kind = mapping
		}
		for p.d.More() {
			item, err := p.parse(depth + 1)
			if err != nil {
				return nil, p.within(err)
			}
			n.items = append(n.items, item)
		}
		if _, err := p.token(); err != nil {
			return nil, p.within(err)
		}
	case string:
		n.kind, n.text, n.str = scalar, t, true
	case json.Number:
		n.kind, n.text = scalar, t.String()
	case bool:
		n.kind, n.text = scalar, "false"
		if t {
			n.text = "true"
		}
	}
	return n, nil
}

// token returns the next token, and counts its line.
func (p *jsonParser) token() (json.Token, error) {
	t, err := p.d.Token()
	// The offset in the error is not always that in the text, but this is where what is
	// wrong begins.
	offset := min(max(int(p.d.InputOffset()), p.offset), len(p.text))
	syntax := new(json.SyntaxError)
	isSyntax := errors.As(err, &syntax)
	p.line += strings.Count(p.text[p.offset:offset], "\n")
	p.offset = offset
	switch {
	case err == nil, err == io.EOF:
		return t, err
	case isSyntax && !strings.Contains(syntax.Error(), "unexpected end"):
		// It quotes no more than a character.
		return nil, &parseError{p.line, syntax.Error()}
	case isSyntax, errors.Is(err, io.ErrUnexpectedEOF):
		return nil, p.within(io.EOF)
	}
	return nil, &parseError{p.line, "it is none"}
}

// within returns err, or, where it is the end of the text, that this is too early.
func (p *jsonParser) within(err error) error {
	if errors.Is(err, io.EOF) {
		return &parseError{p.line, "it ends in the middle: is the file complete?"}
	}
	return err
}

// blankComments puts spaces in the place of comments, so that all else stays where it is.
func blankComments(text string) string {
	if !strings.Contains(text, "//") && !strings.Contains(text, "/*") {
		return text
	}
	b := []byte(text)
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '/':
			for ; i < len(b) && b[i] != '\n'; i++ {
				b[i] = ' '
			}
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '*':
			end := len(b)
			if n := strings.Index(text[i+2:], "*/"); n >= 0 {
				end = i + 2 + n + 2
			}
			for ; i < end; i++ {
				if b[i] != '\n' {
					b[i] = ' '
				}
			}
			i--
		}
	}
	return string(b)
}
