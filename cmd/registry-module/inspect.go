package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func inspectCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image consists of, and what is stored of it",
		Long: `Show an image: its manifests with their layers, how large they are, whether they are
stored, and how many manifests share them; until when its tag is answered without asking
the remote; what a pull would be answered now; and what keeps it.

IMAGE is written as clients do: [HOST/]NAME[:TAG|@DIGEST], where HOST is a registry's,
behind the address of this server or without it. Without a tag it is latest. A name as
it is listed by ls will do, too, with an abbreviated digest.`,
		Example: `  registry-module inspect team/app:1
  registry-module inspect localhost:8000/docker.io/library/alpine
  registry-module inspect team/app@sha256:0123456789ab -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			return flags.open(cmd, func(i openedImages) error {
				d, err := i.Inspect(cmd.Context(), args[0])
				if err != nil {
					return asUsage(err)
				}
				if asJSON {
					return writeIndented(cmd.OutOrStdout(), d)
				}
				pull, err := pullText(cmd.Context(), i, args[0], d)
				if err != nil {
					return err
				}
				return printDetail(cmd.OutOrStdout(), d, pull, time.Now())
			})
		},
	}
	flags.add(cmd, "text")
	return cmd
}

// pullText says what a pull of image, which is d, would be answered; nothing where clients
// cannot ask for it by that name.
func pullText(ctx context.Context, i imageControl, image string, d cache.ImageDetail) (string, error) {
	if repository, _, dgst := config.CutReference(image); dgst != "" {
		image = imageName(repository, d.Digest.String()) // it may have been abbreviated
	}
	e, err := i.Explain(ctx, image)
	if errors.Is(err, errBadPattern) {
		return "", nil
	}
	return verdictText(e), err
}

// printDetail prints all that is known of an image, and what a pull of it would be
// answered.
func printDetail(out io.Writer, d cache.ImageDetail, pull string, now time.Time) error {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) } // a Builder takes all
	name := imageName(d.Repository, d.Tag)
	if d.Tag == "" {
		name = imageName(d.Repository, d.Digest.String())
	}
	line("Image:", printable(name))
	line("Remote:", printable(d.Remote))
	line("Digest:", printable(d.Digest.String()))
	line("Media type:", printable(d.MediaType))
	line("State:", stateText(d.Image))
	line("Size:", fmt.Sprintf("%s, %s of that unique", sizeText(d.Size), sizeText(d.Unique)))
	line("Last used:", sinceText(d.Used, now))
	if d.Tag != "" {
		line("Confirmed:", sinceText(d.Confirmed, now))
		line("Fresh:", freshText(d, now))
	}
	if pull != "" {
		line("A pull now:", printable(pull))
	}
	list := func(name string, values []string) {
		for _, v := range values {
			line(name, printable(v))
			name = ""
		}
	}
	var pins []string
	for _, p := range d.Pins {
		pins = append(pins, pinText(p))
	}
	list("Pinned:", pins)
	list("Tags:", d.Tags)
	list("Stored in:", d.Repositories)
	var attached []string
	for _, dgst := range d.Attached {
		attached = append(attached, dgst.String())
	}
	list("Attached:", attached)
	_ = w.Flush()
	for _, m := range d.Manifests {
		printManifest(text, m, now)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// sinceText is a time, and how long ago that is.
func sinceText(t, now time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return timeText(t) + " (" + ago(t, now) + ")"
}

// freshText says when the remote is asked about the tag again.
func freshText(d cache.ImageDetail, now time.Time) string {
	switch {
	case d.Stale:
		return "no, the remote is asked at the next pull"
	case d.Fresh.IsZero():
		return "for ever, the remote is not asked again"
	}
	return "until " + sinceText(d.Fresh, now)
}

// pinText is a pin for people.
func pinText(p cache.Pin) string {
	text := p.Pattern + " (" + string(p.Reason)
	if p.Reason == cache.PinnedByPolicy {
		text += ": " + policyPlace
	}
	if !p.Since.IsZero() {
		text += ", since " + timeText(p.Since)
	}
	return text + ")"
}

// printManifest prints a manifest with its parts.
func printManifest(text io.Writer, m cache.ManifestDetail, now time.Time) {
	line := "\n" + printable(m.Digest.String())
	if m.Platform != "" {
		line += "  " + printable(m.Platform)
	}
	line += "  " + sizeText(m.Size) + "  " + printable(m.MediaType)
	if !m.Stored {
		line += "  not stored"
	} else if !m.Used.IsZero() {
		line += "  last used " + ago(m.Used, now)
	}
	_, _ = io.WriteString(text, line+"\n") // a Builder takes all
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for _, p := range m.Parts {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", printable(p.Digest.String()), sizeText(p.Size), partText(p), sharedText(p.Shared), printable(p.MediaType))
	}
	_ = w.Flush()
}

// partText says what is stored of a blob.
func partText(p cache.PartInfo) string {
	switch {
	case p.Stored:
		return "stored"
	case p.Kept > 0:
		return "not stored, " + sizeText(p.Kept) + " are kept"
	}
	return "not stored"
}

func sharedText(manifests int) string {
	if manifests > 1 {
		return fmt.Sprintf("of %d manifests", manifests)
	}
	return "of this alone"
}
