package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func bindingsCommand() *cobra.Command {
	var configFile, output string
	cmd := &cobra.Command{
		Use:   "bindings",
		Short: "List which remote the names of repositories were found at",
		Long: `Where there are several default remotes, a repository is looked for at one after
the other. It is bound to the one that has it: from then on it is asked for there
and nowhere else, until the binding is removed or expires
(REGISTRY_CACHE_BINDINGTTL).`,
		Example: `  registry-module bindings
  registry-module bindings -o json
  registry-module bindings rm team/app`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usageError{fmt.Errorf("there is no output format %q: write json, or leave it out for a table", output)}
			}
			cfg, err := config.Load(configFile)
			if err != nil {
				return err
			}
			return withBindings(cmd.Context(), cfg, func(b bindings) error {
				all, err := listBindings(cmd.Context(), b)
				if err != nil {
					return err
				}
				return printBindings(cmd.OutOrStdout(), output, all)
			})
		},
	}
	rm := &cobra.Command{
		Use:     "rm NAME...",
		Short:   "Have names looked for anew at all default remotes",
		Example: "  registry-module bindings rm team/app",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			cfg, err := config.Load(configFile)
			if err != nil {
				return err
			}
			return withBindings(cmd.Context(), cfg, func(b bindings) error {
				return unbind(cmd, b, names)
			})
		},
	}
	cmd.AddCommand(rm)
	cmd.PersistentFlags().StringVarP(&configFile, "config", "c", "", "the configuration file of the server")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or a table where it is left out")
	return cmd
}

func printBindings(out io.Writer, output string, all []cache.Binding) error {
	if output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(w, "NAME\tREMOTE\tSINCE\tEXPIRES")
	for _, b := range all {
		expires := "never"
		if !b.Expires.IsZero() {
			expires = b.Expires.Format(time.RFC3339)
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Name, b.Host, b.Since.Format(time.RFC3339), expires)
		}
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// unbind removes the bindings of names, all that there are.
func unbind(cmd *cobra.Command, b bindings, names []string) error {
	done, missing := 0, ""
	for _, name := range names {
		was, err := b.Unbind(cmd.Context(), name)
		if err != nil && done > 0 {
			return partlyError{err}
		}
		if err != nil {
			return err
		}
		if was {
			done++
			cmd.Printf("%s is looked for anew at its next use\n", name)
		} else {
			missing += " " + name
		}
	}
	if missing == "" {
		return nil
	}
	err := fmt.Errorf("not bound:%s; `%s bindings` lists what is", missing, cmd.Root().Name())
	if done > 0 {
		return partlyError{err}
	}
	return err
}
