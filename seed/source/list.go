package source

import (
	"fmt"
	"strings"
)

// list reads a list of images, whose first line that is no comment is number first. Text
// in which no line is an image is no list.
func (r *reader) list(text string, first int) {
	r.doc.Kind = List
	number, wrong, lines := 0, 0, 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line = uncomment(line); line == "" {
			continue
		}
		lines++
		problems, missing := r.wrong(), len(r.missing)
		r.image(line, placeholders{}, place{line: number})
		if r.wrong() > problems && len(r.missing) == missing {
			wrong++
		}
		if r.full() {
			return
		}
	}
	if wrong == lines && (lines > 1 || strings.ContainsAny(r.firstOf(text), " \t<>=;(){}\"'")) {
		r.problems, r.untoldProblems = nil, 0
		r.unknown(fmt.Sprintf("line %d is no image", first))
	}
}

// firstOf is the first line of text that is no comment.
func (r *reader) firstOf(text string) string {
	line, _ := firstLine(text)
	return line
}

// wrong is how many problems there are.
func (r *reader) wrong() int { return len(r.problems) + r.untoldProblems }

// items reads a list of images in YAML or JSON.
func (r *reader) items(list *node) {
	for i, item := range list.items {
		at := place{line: item.line}
		image, ok := item.string()
		if !ok {
			r.bad(at, "element %d is not text: write an image, for example - quay.io/team/app:1.2", i+1)
			continue
		}
		r.image(image, placeholders{}, at)
		if r.full() {
			return
		}
	}
}
