package seed

import (
	"errors"
	"fmt"
)

// maxImages bounds how many images a job may come to: arbitrary, far more than a site has.
const maxImages = 10_000

// Validate returns all that is wrong with what is wanted, joined; nil where nothing is.
// Nobody is asked anything.
func (j Job) Validate() error {
	if len(j.Wants) > maxImages {
		return fmt.Errorf("%d images are wanted, more than %d: seed them in parts", len(j.Wants), maxImages)
	}
	var wrong []error
	for _, w := range j.Wants {
		_, err := w.parse()
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// wanted is a [Want] that was read.
type wanted struct {
	Want
	reference
	platforms []platform
}

// parse reads w. The error has all that is wrong with it, joined.
func (w Want) parse() (wanted, error) {
	var wrong []error
	note := func(err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", w.place(), err))
		}
	}
	parsed := wanted{Want: w}
	var err error
	parsed.reference, err = parseReference(w.Image, w.Tags != nil)
	note(err)
	if w.Tags != nil {
		note(w.Tags.Validate())
	}
	for _, p := range w.Platforms {
		platform, err := parsePlatform(p)
		note(err)
		parsed.platforms = append(parsed.platforms, platform)
	}
	return parsed, errors.Join(wrong...)
}

// place says which one it is, for messages.
func (w Want) place() string {
	if w.From == "" {
		return fmt.Sprintf("image %.200q", w.Image)
	}
	return fmt.Sprintf("%s: image %.200q", w.From, w.Image)
}
