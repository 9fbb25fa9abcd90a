package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func rmCommand() *cobra.Command {
	var flags imageFlags
	var all, force bool
	cmd := &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images at once",
		Long: `Remove images, each with its tag or digest, or with --all whole repositories: they are
not served any more, and their space is given back, but for what other images use. The
next pull fetches them anew. Images are written as for inspect, or as they are listed by
ls; there are no patterns here.

What is pinned is not removed. --force takes back pins that are for exactly this image.

It exits with 0 where all are removed, 1 where none is, and 3 where some are.`,
		Example: `  registry-module rm team/app:1.2
  registry-module rm docker.io/library/alpine:3 team/app@sha256:0123456789ab
  registry-module rm --all team/old
  registry-module rm --force team/app:1.2`,
		Args: cobra.MatchAll(cobra.MinimumNArgs(1), func(_ *cobra.Command, args []string) error {
			for _, image := range args {
				if err := checkRemoval(removeOptions{Image: image, All: all}); err != nil {
					return err
				}
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			return flags.open(cmd, func(i openedImages) error {
				return removeAll(cmd, i, args, removeOptions{All: all, Force: force}, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove everything of repositories, which are written without tag and digest")
	cmd.Flags().BoolVar(&force, "force", false, "take back pins that are for exactly this image first")
	flags.add(cmd, "text")
	return cmd
}

// removeAll removes what it can.
func removeAll(cmd *cobra.Command, i imageControl, args []string, o removeOptions, asJSON bool) error {
	done := []removal{}
	var errs []error
	for _, image := range args {
		if err := cmd.Context().Err(); err != nil {
			errs = append(errs, interrupted(cmd.Context(), err))
			break
		}
		o.Image = image
		r, err := i.Remove(cmd.Context(), o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, r)
		if !asJSON {
			if _, err := fmt.Fprint(cmd.OutOrStdout(), removalText(r)); err != nil {
				return err
			}
		}
	}
	if asJSON {
		if err := writeIndented(cmd.OutOrStdout(), done); err != nil {
			return err
		}
	}
	return partly(errs, len(done))
}

// removalText says what was removed, and what was not.
func removalText(r removal) string {
	var b strings.Builder
	for _, p := range r.Unpinned {
		fmt.Fprintf(&b, "unpinned %s\n", printable(p))
	}
	fmt.Fprintf(&b, "removed %s: %s, %s and %s, %s given back\n", printable(r.Image),
		quantity(r.Tags, "tag", "tags"), quantity(r.Manifests, "manifest", "manifests"), quantity(r.Blobs, "blob", "blobs"), sizeText(r.Bytes))
	for _, name := range r.Remaining {
		fmt.Fprintf(&b, "  its content is also %s, and kept\n", printable(name))
	}
	return b.String()
}
