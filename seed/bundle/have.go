package bundle

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Limits of a file that says what a site has, or several bundles have brought: arbitrary.
const (
	maxHave      = 1_000_000
	maxHaveBytes = 512 << 20
)

// Receipt says what has come of loading a bundle. In JSON it is what [ReadHave] reads, too:
// it can go back as the list of what the site has.
type Receipt struct {
	Version int `json:"version"`
	// Contents is what of the bundle the site has now, by digest, without offsets.
	Contents []Content `json:"contents"`
	// Images are those that were added, and Failed those that were not.
	Images []LoadedImage `json:"images"`
	Failed []FailedImage `json:"failed,omitempty"`
	// Missing is what of the bundle the site does not have.
	Missing []Content `json:"missing,omitempty"`
}

// LoadedImage is an image that was loaded.
type LoadedImage struct {
	Image  string        `json:"image"` // see [Image.Reference]
	Digest digest.Digest `json:"digest"`
	Pinned bool          `json:"pinned"`
}

// FailedImage is an image that was not loaded.
type FailedImage struct {
	Image  string        `json:"image"`
	Digest digest.Digest `json:"digest"`
	Error  string        `json:"error"`
}

// WriteHave writes the list of what a site has, for [ReadHave]: in order, each once.
func WriteHave(w io.Writer, contents []Content) error {
	b := bufio.NewWriter(w)
	_, _ = fmt.Fprintf(b, `{"version":%d,"contents":[`, Version) // Flush tells
	for i, c := range sorted(contents) {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if i > 0 {
			_ = b.WriteByte(',')
		}
		_ = b.WriteByte('\n')
		_, _ = b.Write(line)
	}
	_, _ = b.WriteString("\n]}\n")
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing what is stored: %w", err)
	}
	return nil
}

// sorted returns contents by digest, each once, with nothing but digest and size.
func sorted(contents []Content) []Content {
	s := make([]Content, len(contents))
	for i, c := range contents {
		s[i] = Content{Digest: c.Digest, Size: c.Size}
	}
	slices.SortFunc(s, func(a, b Content) int { return cmp.Compare(a.Digest, b.Digest) })
	return slices.CompactFunc(s, func(a, b Content) bool { return a.Digest == b.Digest })
}

// ReadHave reads what [WriteHave] has written, or a [Receipt]. What it does not know it
// leaves aside, single contents, too: the worst of that is that they are carried again.
func ReadHave(r io.Reader) ([]Content, error) {
	contents, err := readHave(r)
	if err != nil {
		return nil, fmt.Errorf("reading the list of what the site has (ls -o have, or a receipt): %w", err)
	}
	return sorted(contents), nil
}

func readHave(r io.Reader) (contents []Content, err error) {
	limited := &io.LimitedReader{R: r, N: maxHaveBytes}
	v := newValues(limited)
	defer func() {
		if err != nil && limited.N == 0 {
			err = fmt.Errorf("it has more than %d bytes", maxHaveBytes)
		}
	}()
	version, listed := int64(0), false
	err = v.object(func(key string) error {
		switch key {
		case "version":
			return v.number(&version)
		case "contents":
			listed = true
			contents, err = haveContents(v)
			return err
		}
		return v.skip()
	})
	switch {
	case err != nil:
		return nil, err
	case version != Version:
		return nil, fmt.Errorf("it has version %d of the format, and this program reads %d", version, Version)
	case !listed:
		return nil, errors.New("it has no contents")
	}
	return contents, nil
}

// haveContents reads the elements of an array that name content.
func haveContents(v *values) (contents []Content, err error) {
	return contents, v.array(func() error {
		if len(contents) == maxHave {
			return fmt.Errorf("it has more than %d contents", maxHave)
		}
		c, err := haveContent(v)
		if err == nil && c.Digest.Validate() == nil && c.Size >= 0 {
			contents = append(contents, c)
		}
		return err
	})
}

// haveContent reads one element. Of what is something else it returns what is not valid.
func haveContent(v *values) (c Content, err error) {
	t, err := v.token()
	if err != nil || t != json.Delim('{') {
		return c, errors.Join(err, v.skipRest(t))
	}
	usable := true
	err = v.members(func(key string) (err error) {
		switch key {
		case "digest":
			err = text(v, &c.Digest)
		case "size":
			err = v.number(&c.Size)
		default:
			return v.skip()
		}
		if wrong := (*wrongValue)(nil); errors.As(err, &wrong) {
			usable, err = false, nil
		}
		return err
	})
	if !usable {
		return Content{}, err
	}
	return Content{Digest: c.Digest, Size: c.Size}, err
}
