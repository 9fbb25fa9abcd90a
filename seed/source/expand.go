package source

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// placeholders is how a format has variables in its values, beside ${NAME}, with the forms
// of a shell (POSIX, Shell Command Language, section 2.6.2) such as ${NAME:-default}.
type placeholders struct {
	// bare are variables as $NAME.
	bare bool
	// escaped is $$ for a $.
	escaped bool
}

// expand fills in the placeholders of an image, and takes the spaces around it off. Those
// without a value are recorded as missing.
func (r *reader) expand(written string, p placeholders, at place) (string, bool) {
	written = strings.TrimSpace(written)
	if len(written) > maxWritten {
		r.bad(at, "%q is too long for an image", shownImage(written))
		return "", false
	}
	if !strings.Contains(written, "$") {
		return written, true
	}
	e := expansion{placeholders: p, lookup: r.o.Lookup}
	image := e.expand(written, 0)
	where := at.what
	if at.line > 0 {
		where = strings.TrimPrefix(fmt.Sprintf("%s, line %d", at.what, at.line), ", ")
	}
	for _, variable := range e.missing {
		switch places := r.missing[variable]; {
		case len(places) == 0 && len(r.missing) >= maxMessages:
			r.untoldProblems++
		case len(places) < maxPlaces && !slices.Contains(places, where):
			r.missing[variable] = append(places, where)
		}
	}
	if e.problem != "" {
		r.bad(at, "%q %s", shownImage(written), e.problem)
	}
	return image, e.problem == "" && len(e.missing) == 0
}

const (
	// maxWritten is how long an image with its placeholders can be, in bytes.
	maxWritten = 4096
	// maxNested is how deep placeholders can be in the defaults of others.
	maxNested = 10
)

// expansion fills in placeholders.
type expansion struct {
	placeholders
	lookup  func(string) (string, bool)
	missing []string
	problem string
}

func (e *expansion) expand(text string, depth int) string {
	var b strings.Builder
	for e.problem == "" {
		dollar := strings.IndexByte(text, '$')
		if dollar < 0 {
			break
		}
		b.WriteString(text[:dollar])
		text = text[dollar:]
		name := variableOf(text[1:])
		switch {
		case b.Len() == 0 && depth == 0 && beginsUpstream(text):
			b.WriteString(upstreamHost)
			text = text[len(upstreamHost):]
		case e.escaped && strings.HasPrefix(text, "$$"):
			b.WriteByte('$')
			text = text[2:]
		case strings.HasPrefix(text, "${"):
			end := closing(text)
			if end < 0 || depth >= maxNested {
				e.problem = "has a placeholder without its end: write ${NAME}, with a brace behind it"
				break
			}
			b.WriteString(e.value(text[2:end], depth))
			text = text[end+1:]
		case e.bare && name != "":
			b.WriteString(e.value(name, depth))
			text = text[1+len(name):]
		default:
			b.WriteByte('$')
			text = text[1:]
		}
	}
	b.WriteString(text)
	return b.String()
}

// value returns what the inside of ${...} stands for.
func (e *expansion) value(inside string, depth int) string {
	name := variableOf(inside)
	operator := inside[len(name):]
	orEmpty := strings.HasPrefix(operator, ":")
	operator = strings.TrimPrefix(operator, ":")
	if name == "" || operator == "" && orEmpty || operator != "" && !strings.ContainsAny(operator[:1], "-?+") {
		// A template for deployment manifests has, for example, ${MODULES.app.amd64}.
		name, operator, orEmpty = inside, "", false
	}
	value, ok := e.lookup(name)
	set := ok && (value != "" || operator != "" && !orEmpty)
	switch {
	case strings.HasPrefix(operator, "+"):
		if !set {
			return ""
		}
		return e.expand(operator[1:], depth+1)
	case set:
		return value
	case strings.HasPrefix(operator, "-"):
		return e.expand(operator[1:], depth+1)
	}
	e.missing = append(e.missing, name)
	return ""
}

// variableOf returns the name of a variable at the beginning of text.
func variableOf(text string) string {
	for i, c := range text {
		if c != '_' && !('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && (i == 0 || c < '0' || c > '9') {
			return text[:i]
		}
	}
	return text
}

// closing returns where the brace is that ends the placeholder at the beginning of text,
// or -1.
func closing(text string) int {
	depth := 0
	for i := range len(text) {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			depth++
		case text[i] == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// missingText names placeholders that have no value, and says what to do.
func missingText(missing map[string][]string) string {
	var variables, modules []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		text := fmt.Sprintf("%s (%s)", shown(name), strings.Join(missing[name], "; "))
		if strings.HasPrefix(name, "MODULES.") || strings.HasPrefix(name, "MODULEDIR<") {
			modules = append(modules, text)
		} else {
			variables = append(variables, text)
		}
	}
	var texts []string
	if len(variables) > 0 {
		texts = append(texts, "placeholders have no value: "+strings.Join(variables, ", ")+
			": set environment variables of these names, or write the values in the file")
	}
	if len(modules) > 0 {
		texts = append(texts, "placeholders stand for images that are built from the project of the template: "+strings.Join(modules, ", ")+
			": give the deployment manifest that is generated from the template instead")
	}
	return strings.Join(texts, "; and ")
}
