package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"registry-module/iotedge/deployment"
)

func deployCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Make what is needed to run this as a module of Azure IoT Edge",
		Long: `Make what is needed to run registry-module in a hierarchy of Azure IoT Edge gateways, and
check deployment manifests.`,
		Example: `  registry-module deploy iotedge --help
  registry-module deploy check deployment.json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Errorf("nothing is known of how to deploy to %q: write iotedge or check; see '%s --help'", args[0], cmd.CommandPath())}
		},
	}
	cmd.AddCommand(deployIoTEdgeCommand(), deployCheckCommand())
	return cmd
}

func deployCheckCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check FILE|-...",
		Short: "Check deployment manifests of Azure IoT Edge",
		Long: `Check deployment manifests, full or layered ones, against the rules of Azure: what has to be
there, what it may be called, the parts of createOptions, ports that are taken twice, routes,
and the sizes that IoT Hub takes. Placeholders that are not filled in are told, and are no
problem. FILE - is standard input. Nothing is sent anywhere.`,
		Example: `  registry-module deploy check deployment.json
  registry-module deploy iotedge --layer bottom | registry-module deploy check -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := checkFormat(format); err != nil {
				return usageError{err}
			}
			return checkManifests(cmd, files, format == "json")
		},
	}
	cmd.Flags().StringVarP(&format, "format", "o", "", "output format: json")
	return cmd
}

// checkFormat checks an output format.
func checkFormat(format string) error {
	if format != "" && format != "json" {
		return fmt.Errorf("output format %q is not known: use json", format)
	}
	return nil
}

// checked is what was found in a manifest.
type checked struct {
	File         string   `json:"file"`
	Problems     []string `json:"problems"`
	Placeholders []string `json:"placeholders"`
}

// maxManifestFile is how much of a file is read: one byte more than can be right.
const maxManifestFile = 2<<20 + 1

func checkManifests(cmd *cobra.Command, files []string, asJSON bool) error {
	all := []checked{}
	wrong := 0
	for _, file := range files {
		content, err := readManifest(cmd.InOrStdin(), file)
		if err != nil {
			return err
		}
		c := checked{File: file, Problems: []string{}, Placeholders: append([]string{}, deployment.Placeholders(content)...)}
		for _, p := range deployment.Validate(content) {
			c.Problems = append(c.Problems, p.String())
		}
		if len(c.Problems) > 0 {
			wrong++
		}
		all = append(all, c)
	}
	if asJSON {
		if err := writeIndented(cmd.OutOrStdout(), all); err != nil {
			return err
		}
	} else if err := printChecked(cmd.OutOrStdout(), all); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%s of %d would be refused", quantity(wrong, "manifest", "manifests"), len(files))
	}
	return nil
}

func printChecked(out io.Writer, all []checked) error {
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(out, format+"\n", args...)
		errs = append(errs, err)
	}
	for _, c := range all {
		if len(c.Problems) == 0 {
			line("%s: nothing is wrong", printable(c.File))
		} else {
			line("%s: %s:", printable(c.File), quantity(len(c.Problems), "problem", "problems"))
		}
		for _, p := range c.Problems {
			line("  %s", printable(p))
		}
		if len(c.Placeholders) > 0 {
			line("  to be filled in: %s", printable(strings.Join(c.Placeholders, ", ")))
		}
	}
	return errors.Join(errs...)
}

// readManifest reads a file, or standard input.
func readManifest(in io.Reader, file string) ([]byte, error) {
	if file == "-" {
		content, err := io.ReadAll(io.LimitReader(in, maxManifestFile))
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return content, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(f, maxManifestFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return content, nil
}
