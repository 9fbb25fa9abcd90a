package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"registry-module/iotedge/deployment"
)

// deployed is the output as JSON.
type deployed struct {
	Layer        string                   `json:"layer"`
	Files        []deployedFile           `json:"files"`
	Images       []string                 `json:"images"`
	Placeholders []deployment.Placeholder `json:"placeholders"`
	Notes        []string                 `json:"notes"`
}

// deployedFile is one file: where it is, or what is in it.
type deployedFile struct {
	Name    string `json:"name"`
	Path    string `json:"path,omitempty"`
	Content string `json:"content,omitempty"`
}

// write writes the files to where they are wanted. What is to be done goes to standard
// error, so that the manifest can be piped on.
func (f *deployFlags) write(cmd *cobra.Command, r *deployment.Result) error {
	d := deployed{
		Layer: f.layer, Files: []deployedFile{}, Images: r.Images,
		Placeholders: append([]deployment.Placeholder{}, r.Placeholders...),
		Notes:        append(append([]string{}, r.Notes...), f.notes...),
	}
	if f.output != "" {
		if err := writeFiles(f.output, r.Files, f.force); err != nil {
			return err
		}
	}
	for _, file := range r.Files {
		df := deployedFile{Name: file.Name}
		if f.output != "" {
			df.Path = filepath.Join(f.output, file.Name)
		} else {
			df.Content = string(file.Content)
		}
		d.Files = append(d.Files, df)
	}
	if f.format == "json" {
		return writeIndented(cmd.OutOrStdout(), d)
	}
	if f.output == "" {
		name := r.Files[0].Name
		if f.file != "" {
			name = f.file
		}
		for _, file := range r.Files {
			if file.Name == name {
				if _, err := cmd.OutOrStdout().Write(file.Content); err != nil {
					return err
				}
			}
		}
	} else {
		for _, file := range d.Files {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), file.Path); err != nil {
				return err
			}
		}
	}
	for _, p := range d.Placeholders {
		cmd.PrintErrf("fill in ${%s} in %s: %s\n", p.Name, strings.Join(p.Files, " and "), p.Meaning)
	}
	for _, note := range d.Notes {
		cmd.PrintErrf("note: %s\n", note)
	}
	return nil
}

// writeFiles writes files into a directory, all or none where some are there already that
// are different.
func writeFiles(dir string, files []deployment.File, force bool) error {
	var errs []error
	for _, file := range files {
		path := filepath.Join(dir, file.Name)
		have, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case !force && !bytes.Equal(have, file.Content):
			errs = append(errs, fmt.Errorf("%s is there already, and is different: write --force to overwrite it, or another --output", path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		path, mode := filepath.Join(dir, file.Name), fs.FileMode(0o644)
		switch {
		case file.Secret:
			mode = 0o600
		case file.Executable:
			mode = 0o755
		}
		if err := os.WriteFile(path, file.Content, mode); err != nil {
			return err
		}
		// Of a file that was there the mode is another one.
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}
