package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func pinCommand() *cobra.Command {
	var flags imageFlags
	var list bool
	cmd := &cobra.Command{
		Use:   "pin IMAGE|PATTERN...",
		Short: "Keep images from being removed to make room",
		Long: `Keep images from being removed to make room, or because nobody has asked for them.
Images are written as for inspect; without tag and digest it is all of the repository.
In a pattern, * is anything but a slash, and ** any number of path components.

What is stored later is kept as well. Where a pinned tag moves, what it stood for is
kept until what it stands for now is complete.`,
		Example: `  registry-module pin team/app:1.2
  registry-module pin 'team/**:stable' docker.io/library/alpine
  registry-module pin --list
  registry-module pin --list -o json`,
		Args: func(_ *cobra.Command, args []string) error { return checkPins(list, args) },
		RunE: func(cmd *cobra.Command, patterns []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			return flags.open(cmd, func(i openedImages) error {
				if list {
					return printPins(cmd, i, asJSON)
				}
				return pinAll(cmd, i, patterns, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list what is pinned, and why")
	flags.add(cmd, "text")
	return cmd
}

// checkPins checks the arguments.
func checkPins(list bool, patterns []string) error {
	switch {
	case list && len(patterns) > 0:
		return errors.New("--list takes no patterns")
	case !list && len(patterns) == 0:
		return errors.New("name the images to pin, or write --list to see what is pinned")
	}
	for _, p := range patterns {
		if err := config.CheckPin(p); err != nil {
			return fmt.Errorf("%q %w", p, err)
		}
	}
	return nil
}

func pinAll(cmd *cobra.Command, i imageControl, patterns []string, asJSON bool) error {
	var all []pinned
	var errs []error
	for _, p := range patterns {
		done, err := i.Pin(cmd.Context(), p)
		all = append(all, done...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	if asJSON {
		if err := writeIndented(cmd.OutOrStdout(), append([]pinned{}, all...)); err != nil {
			return err
		}
	} else {
		for _, p := range all {
			if _, err := io.WriteString(cmd.OutOrStdout(), pinnedText(p)); err != nil {
				return err
			}
		}
	}
	return partly(errs, len(all))
}

// pinnedText says what was pinned, on a line.
func pinnedText(p pinned) string {
	matches := "which is " + quantity(p.Matches, "stored image", "stored images")
	if p.Matches == 0 {
		matches = "which nothing stored matches yet"
	}
	return fmt.Sprintf("pinned %s, %s\n", printable(p.Pattern), matches)
}

// partly is the error of a command that has done some of what it was to do.
func partly(errs []error, done int) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	if done > 0 {
		return partlyError{err}
	}
	return asUsage(err)
}

// printPins lists all pins.
func printPins(cmd *cobra.Command, i imageControl, asJSON bool) error {
	pins, err := i.Pins(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return writeIndented(cmd.OutOrStdout(), append([]cache.Pin{}, pins...))
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, err = io.WriteString(w, "PATTERN\tREASON\tSINCE\n")
	for _, p := range pins {
		reason, since := string(p.Reason), timeText(p.Since)
		if p.Since.IsZero() {
			since = "-"
		}
		if p.Reason == cache.PinnedByPolicy {
			reason += " (" + policyPlace + ")"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\t%s\t%s\n", printable(p.Pattern), printable(reason), since)
		}
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

func unpinCommand() *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "unpin IMAGE|PATTERN...",
		Short: "Let images be removed again to make room",
		Long: `Take pins back, by the pattern that they were given or are listed with. What was
seeded can be removed then, too. Pins of the configuration (cache.pins,
REGISTRY_CACHE_PINS) are taken back there.`,
		Example: `  registry-module unpin team/app:1.2
  registry-module unpin 'team/**:stable'`,
		Args: cobra.MatchAll(cobra.MinimumNArgs(1), func(_ *cobra.Command, args []string) error { return checkPins(false, args) }),
		RunE: func(cmd *cobra.Command, patterns []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			return flags.open(cmd, func(i openedImages) error { return unpinAll(cmd, i, patterns, asJSON) })
		},
	}
	flags.add(cmd, "text")
	return cmd
}

func unpinAll(cmd *cobra.Command, i imageControl, patterns []string, asJSON bool) error {
	removed := []cache.Pin{}
	var errs []error
	for _, p := range patterns {
		u, err := i.Unpin(cmd.Context(), p)
		removed = append(removed, u.Removed...)
		if err == nil {
			err = notUnpinned(p, u)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if asJSON {
		if err := writeIndented(cmd.OutOrStdout(), removed); err != nil {
			return err
		}
		return partly(errs, len(removed))
	}
	for _, p := range removed {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "unpinned %s\n", printable(p.Pattern)); err != nil {
			return err
		}
	}
	return partly(errs, len(removed))
}

// notUnpinned is why a pattern is not unpinned, nil where it is.
func notUnpinned(pattern string, u unpinned) error {
	if len(u.Remaining) > 0 {
		var patterns []string
		for _, p := range u.Remaining {
			patterns = append(patterns, printable(p.Pattern))
		}
		return fmt.Errorf("%s is pinned by the configuration: take it out of cache.pins (REGISTRY_CACHE_PINS), and start the server again", strings.Join(patterns, ", "))
	}
	if len(u.Removed) == 0 {
		return fmt.Errorf("%s is not pinned: `registry-module pin --list` shows what is, with the patterns to write", printable(pattern))
	}
	return nil
}
