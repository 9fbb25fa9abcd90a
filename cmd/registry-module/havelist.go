package main

import (
	"context"
	"errors"
	"io"

	"registry-module/seed/bundle"
)

// writeHaveList writes the list of all that is stored, for bundle create --have. Where
// there is an error, nothing is written, so that nobody takes it for all.
func writeHaveList(ctx context.Context, out io.Writer, i openedImages) error {
	c, ok := i.imageControl.(contentControl)
	if !ok {
		return errors.New("what is stored cannot be listed by its digests here")
	}
	var all []bundle.Content
	for content, err := range c.Contents(ctx) {
		if err != nil {
			return err
		}
		all = append(all, content)
	}
	return bundle.WriteHave(out, all)
}
