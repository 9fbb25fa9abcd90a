// Command registry-module is a pull-through caching registry for places where
// pulling images is hard.
//
// This file has the command tree; each subcommand has a file of its own, and
// wire.go puts the program together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker; see the Makefile.
var version = "devel"

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitPartly = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		tell(os.Stdout, os.Stderr, err)
		if _, ok := errors.AsType[usageError](err); ok {
			os.Exit(exitUsage)
		}
		if _, ok := errors.AsType[partlyError](err); ok {
			os.Exit(exitPartly)
		}
		os.Exit(exitFailed)
	}
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// partlyError is why a command has not done all that it was to do, where it has
// done some of it.
type partlyError struct{ error }

func (e partlyError) Unwrap() error { return e.error }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "registry-module",
		Short: "A pull-through caching registry for thin, metered and dark links",
		Long: `registry-module serves container images from local disk, and fetches from a
remote registry what it does not have yet: each byte once.`,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			msg := fmt.Sprintf("there is no command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				msg += fmt.Sprintf(": did you mean %q?", near[0])
			}
			return usageError{fmt.Errorf("%s; see '%s --help'", msg, cmd.CommandPath())}
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
	})
	root.AddCommand(serveCommand(), bindingsCommand(), bundleCommand(), demoCommand(), deployCommand(), doctorCommand(), explainCommand(), gcCommand(), inspectCommand(),
		lsCommand(), offlineCommand(), pinCommand(), reloadCommand(), rmCommand(), seedCommand(), unpinCommand(), verifyCommand(), versionCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, cmd := range commands(root) {
		if check := cmd.Args; check != nil {
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return usageError{fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
				}
				return nil
			}
		}
	}
	return root
}

// commands are those below cmd, all of them.
func commands(cmd *cobra.Command) (all []*cobra.Command) {
	for _, c := range cmd.Commands() {
		all = append(append(all, c), commands(c)...)
	}
	return all
}
