package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"registry-module/config"
)

func reloadCommand() *cobra.Command {
	var configFile, output string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running server read its configuration again",
		Long: `Have the running server read its configuration file, and the files of secrets that it
or the environment names, again. It is checked as a whole, and holds from then on;
requests and downloads that are under way go on. Where anything is wrong with it, nothing
changes. What has changed is printed, and what waits for a restart: the addresses that are
listened on, the data directory, profiles, and where metrics are. The environment of a
process cannot change.

The server does the same by itself some seconds after one of these files was changed, and
when it gets the signal SIGHUP.`,
		Example: `  registry-module reload
  registry-module reload -o json
  docker exec registry registry-module reload`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(output); err != nil {
				return usageError{err}
			}
			dir, err := dataDirOf(configFile)
			if err != nil {
				return err
			}
			server := newControlClient(controlPath(dir))
			if err := server.ping(cmd.Context()); err != nil {
				if noServer(err) && !errors.Is(err, fs.ErrPermission) {
					err = fmt.Errorf("no running server answers at %s: one that is started reads its configuration anyway; where the data directory is what was changed, send the server SIGHUP", server.path)
				}
				return err
			}
			report, err := ask[reloadReport](cmd.Context(), server, http.MethodPost, "/reload")
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				if err := enc.Encode(report); err != nil {
					return err
				}
			} else if len(report.Errors) == 0 {
				if _, err := fmt.Fprint(cmd.OutOrStdout(), report); err != nil {
					return err
				}
			}
			if len(report.Errors) > 0 {
				return errors.New(strings.TrimSuffix(report.String(), "\n"))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&configFile, "config", "c", "", "the configuration file of the server")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or text where it is left out")
	return cmd
}

// dataDirOf is the data directory of a configuration, which may be a bad one: the server is
// to say so.
func dataDirOf(configFile string) (string, error) {
	cfg, err := config.Load(configFile)
	if err == nil {
		return cfg.DataDir, nil
	}
	if errs, ok := errors.AsType[*config.Errors](err); ok && errs.DataDir != "" {
		return errs.DataDir, nil
	}
	return "", err
}
