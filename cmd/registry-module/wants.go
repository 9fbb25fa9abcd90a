package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"registry-module/internal/durable"
	"registry-module/seed"
	"registry-module/seed/source"
)

// wantFlags say which images are wanted, for commands that take them from anywhere.
type wantFlags struct {
	files       []string
	platforms   []string
	noReferrers bool
}

func (f *wantFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "file", "f", nil, "a file that names images, or - for standard input; can be given several times")
	flags.StringSliceVar(&f.platforms, "platform", nil, "only these platforms, for example linux/arm64,linux/arm/v7; all where it is left out. A file that says something else for an image takes precedence")
	flags.BoolVar(&f.noReferrers, "no-referrers", false, "leave out what is attached to images: signatures, SBOMs, attestations")
}

// read returns what the arguments and files want, and whether a seed file among them says
// that the rest is to be unpinned. Remarks go to notes. The error has all that is wrong.
func (f *wantFlags) read(stdin io.Reader, notes io.Writer, images []string) (wants []seed.Want, prune bool, err error) {
	for _, image := range images {
		wants = append(wants, seed.Want{Image: image})
	}
	if n := len(f.files) - len(slices.DeleteFunc(slices.Clone(f.files), func(name string) bool { return name == standard })); n > 1 {
		return nil, false, fmt.Errorf("standard input can be read once, and -f - is written %d times", n)
	}
	var wrong []error
	for _, name := range f.files {
		doc, err := readSource(stdin, name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		for _, w := range doc.Warnings {
			_, _ = fmt.Fprintln(notes, "warning: "+printable(w)) // the result says what counts
		}
		wants = append(wants, doc.Wants...)
		prune = prune || doc.Prune != nil && *doc.Prune
	}
	for i := range wants {
		w := &wants[i]
		if len(w.Platforms) == 0 {
			w.Platforms = f.platforms
		}
		w.Bare = w.Bare || f.noReferrers
	}
	wrong = append(wrong, seed.Job{Wants: wants}.Validate())
	return wants, prune, errors.Join(wrong...)
}

// readSource reads a file that names images, or standard input.
func readSource(stdin io.Reader, name string) (source.Document, error) {
	if name == standard {
		return source.Read("standard input", stdin, sourceOptions())
	}
	f, err := openFile(name)
	if err != nil {
		return source.Document{}, fmt.Errorf("-f %s: %w", name, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return source.Read(name, f, sourceOptions())
}

// openFile opens a file that a command is to read. Of a pipe to which nobody writes it
// would wait for ever.
func openFile(name string) (durable.File, error) {
	f, _, err := durable.Open(durable.OS{}, name, 0)
	return f, withoutPipe(withoutPath(err))
}

// withoutPipe says what to do instead of giving a pipe, or something else that is no file.
func withoutPipe(err error) error {
	if errors.Is(err, durable.ErrNotFile) {
		return fmt.Errorf("%w: what comes by a pipe is given to standard input, and - is written in its place", err)
	}
	return err
}
