package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"registry-module/seed"
)

const (
	// maxMessages is how many problems and warnings are told. Who has more does not read
	// them.
	maxMessages = 100
	// maxPlaces is how many places of one image are told.
	maxPlaces = 5
	// maxSteps is for how many values are looked at. It is more than a document without
	// aliases can have (see maxValues), and what aliases multiply has an end there.
	maxSteps = 3_000_000
)

// place is where something is in a document.
type place struct {
	line int    // 0 where it is not known
	what string // such as "module edgeHub"; empty for a line of a list
}

// below returns the place of something in p.
func (p place) below(line int, what string) place {
	if p.what != "" {
		what = p.what + ", " + what
	}
	return place{line, what}
}

// reader collects what a document names and what is wrong with it.
type reader struct {
	name string
	o    Options
	doc  Document

	// index has where in the wants an image with its options is, and places how often it
	// is named.
	index  map[string]int
	places []int

	problems []error
	// untold are how many problems and warnings there are beyond maxMessages.
	untoldProblems, untoldWarnings int
	// missing has the places of the placeholders without value, by their variable.
	missing map[string][]string
	steps   int
}

func newReader(name string, o Options) *reader {
	return &reader{name: name, o: o, index: map[string]int{}, missing: map[string][]string{}}
}

// bad records that something is wrong.
func (r *reader) bad(at place, format string, args ...any) {
	if len(r.problems) >= maxMessages {
		r.untoldProblems++
		return
	}
	r.problems = append(r.problems, errors.New(r.at(at)+": "+fmt.Sprintf(format, args...)))
}

// warn records that something is left out.
func (r *reader) warn(at place, format string, args ...any) {
	if len(r.doc.Warnings) >= maxMessages {
		r.untoldWarnings++
		return
	}
	r.doc.Warnings = append(r.doc.Warnings, r.at(at)+": "+fmt.Sprintf(format, args...))
}

// at names a place for a message.
func (r *reader) at(p place) string {
	text := r.name
	if p.line > 0 {
		text += fmt.Sprintf(", line %d", p.line)
	}
	if p.what != "" {
		text += ", " + p.what
	}
	return text
}

// step counts n values that are looked at, and tells whether there may be more.
func (r *reader) step(n int) bool {
	before := r.steps
	r.steps = min(before+n, maxSteps+1)
	if before <= maxSteps && r.steps > maxSteps {
		r.bad(place{}, "its aliases stand for too much: write out what they stand for")
	}
	return r.steps <= maxSteps
}

// full tells whether there are as many images as there can be.
func (r *reader) full() bool { return len(r.doc.Wants) > MaxImages || r.steps > maxSteps }

// image records an image as it is written at a place, where it has to be one.
func (r *reader) image(image string, p placeholders, at place) {
	if image, ok := r.expanded(image, p, at); ok {
		r.add(seed.Want{Image: image}, at)
	}
}

// expanded fills in the placeholders of an image and checks it. What is wrong is recorded.
func (r *reader) expanded(written string, p placeholders, at place) (string, bool) {
	image, ok := r.expand(written, p, at)
	if !ok {
		return "", false
	}
	if _, known := r.index[image]; known {
		return image, true // which need not be checked a second time
	}
	if err := checkImage(image); err != nil {
		filled := ""
		if image != strings.TrimSpace(written) {
			// What the variables are can be secret, or belong to somebody else.
			filled = ", with its placeholders filled in,"
		}
		r.bad(at, "%q%s %v", shownImage(written), filled, err)
		return "", false
	}
	return image, true
}

// add records a want at a place.
func (r *reader) add(w seed.Want, at place) {
	key := keyOf(w)
	i, ok := r.index[key]
	if !ok {
		i = len(r.doc.Wants)
		if i >= MaxImages {
			if i == MaxImages {
				r.bad(at, "has more than %d images: split it into several files", MaxImages)
				r.doc.Wants = append(r.doc.Wants, w)
			}
			return
		}
		r.index[key] = i
		r.doc.Wants = append(r.doc.Wants, w)
		r.places = append(r.places, 0)
	}
	r.places[i]++
	where := at.what
	if where == "" {
		where = fmt.Sprintf("line %d", at.line)
	}
	switch from := &r.doc.Wants[i].From; {
	case r.places[i] == 1:
		*from = r.name + ", " + where
	case r.places[i] <= maxPlaces:
		*from += "; " + where
	}
}

// keyOf is the same for wants that ask for the same.
func keyOf(w seed.Want) string {
	if w.Tags == nil && w.Platforms == nil && !w.Bare && !w.Loose {
		return w.Image
	}
	var tags seed.Tags
	if w.Tags != nil {
		tags = *w.Tags
	}
	platforms := slices.Sorted(slices.Values(w.Platforms))
	return fmt.Sprintf("%s %t %q %q %q %d %q %t %t", w.Image, w.Tags != nil,
		tags.Glob, tags.Regexp, tags.SemVer, tags.Newest, platforms, w.Bare, w.Loose)
}

// failed returns what is wrong as one error, or nil.
func (r *reader) failed() error {
	problems := r.problems
	if len(r.missing) > 0 {
		problems = append(problems, errors.New(r.name+": "+missingText(r.missing)))
	}
	if r.untoldProblems > 0 {
		problems = append(problems, fmt.Errorf("%s: and %d more errors", r.name, r.untoldProblems))
	}
	return errors.Join(problems...)
}

// finish returns the document.
func (r *reader) finish() Document {
	for i, n := range r.places {
		if n > maxPlaces {
			r.doc.Wants[i].From += fmt.Sprintf("; and %d more", n-maxPlaces)
		}
	}
	if r.untoldWarnings > 0 {
		r.doc.Warnings = append(r.doc.Warnings, fmt.Sprintf("%s: and %d more warnings", r.name, r.untoldWarnings))
	}
	if len(r.doc.Wants) == 0 {
		r.warn(place{}, "names no image that could be seeded")
	}
	return r.doc
}
