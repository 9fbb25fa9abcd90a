package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"registry-module/internal/durable"
	"registry-module/seed/bundle"
)

// dirOf is the directory that a file is in.
func dirOf(name string) string { return filepath.Dir(filepath.Clean(name)) }

// writeReceipt writes a receipt so that it survives a loss of power.
func writeReceipt(name string, r bundle.Receipt) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = durable.WriteFile(durable.OS{}, name, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing the receipt: %w", err)
	}
	return nil
}

// printReceipt prints what was loaded of a bundle of so many images. Why something was not
// is in an error.
func printReceipt(out io.Writer, r bundle.Receipt, all int) error {
	var b strings.Builder
	for _, i := range r.Images {
		pinned := ""
		if i.Pinned {
			pinned = ", pinned"
		}
		fmt.Fprintf(&b, "loaded %s (%s%s)\n", printable(i.Image), shortDigest(i.Digest.String()), pinned)
	}
	if len(r.Images)+len(r.Failed) > 0 {
		size := int64(0)
		for _, c := range r.Contents {
			size += c.Size
		}
		fmt.Fprintf(&b, "%s of %d, %s, %s are stored\n", quantity(len(r.Images), "image", "images"), all,
			quantity(len(r.Contents), "manifest or blob", "manifests and blobs"), sizeText(size))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printInspection prints what is in a bundle.
func printInspection(out io.Writer, in bundle.Inspection) error {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	_, _ = io.WriteString(w, "IMAGE\tDIGEST\tPLATFORMS\tBLOBS\tSIZE\tLEFT OUT\tSTATE\n") // a Builder takes all
	for _, i := range in.Images {
		state := "complete"
		switch {
		case i.Lost:
			state = "lost"
		case i.Absent > 0:
			state = "needs what the site has"
		}
		if i.Attached {
			state += ", attached"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", printable(i.Image), shortDigest(i.Digest.String()),
			platformsText(i.Platforms, len(i.Platforms)), i.Blobs, sizeText(i.Size), sizeText(i.Absent), state)
	}
	_ = w.Flush()
	fmt.Fprintf(text, "\n%s, %s, %s", quantity(len(in.Images), "image", "images"),
		quantity(in.Contents, "manifest or blob", "manifests and blobs"), sizeText(in.Size))
	if in.Absent > 0 {
		fmt.Fprintf(text, "; %s, %s, left out, since the site has them", quantity(in.Absent, "other", "others"), sizeText(in.AbsentSize))
	}
	text.WriteString("\n" + signatureText(in) + "\n")
	for _, c := range in.Chunks {
		if len(in.Chunks) > 1 || c.State != bundle.ChunkPresent {
			fmt.Fprintf(text, "%s: %s, %s\n", printable(c.Name), c.State, sizeText(c.Want))
		}
	}
	for _, warning := range in.Warnings {
		text.WriteString("warning: " + printable(warning) + "\n")
	}
	for _, c := range in.Lost {
		fmt.Fprintf(text, "lost: %s, %s\n", printable(c.Digest.String()), sizeText(c.Size))
	}
	if in.Verified && len(in.Lost) == 0 {
		text.WriteString("all was read, and is right\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// signatureText says what is known of the signature.
func signatureText(in bundle.Inspection) string {
	key := printable(in.KeyID)
	switch in.Signature {
	case bundle.Unsigned:
		return "not signed"
	case bundle.Trusted:
		return "signed with key " + key + ", which is trusted"
	case bundle.Untrusted:
		return "signed with key " + key + ", which is not to be trusted: " + printable(in.Why)
	}
	return "signed with key " + key + ", which nobody has compared; give --trust-key for that"
}
