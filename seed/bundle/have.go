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

// Limits of a file that says what a site has: twice as much as a bundle may carry.
const (
	maxHave      = 2 * maxContents
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
	dec := json.NewDecoder(limited)
	defer func() {
		if err != nil && limited.N == 0 {
			err = fmt.Errorf("it has more than %d bytes", maxHaveBytes)
		}
	}()
	if err := delimiter(dec, '{'); err != nil {
		return nil, err
	}
	version, listed := 0, false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, noEOF(err)
		}
		switch key {
		case "version":
			err = dec.Decode(&version)
		case "contents":
			listed = true
			contents, err = haveContents(dec, contents)
		default:
			err = skipValue(dec)
		}
		if err != nil {
			return nil, noEOF(err)
		}
	}
	if err := delimiter(dec, '}'); err != nil {
		return nil, err
	}
	switch {
	case version != Version:
		return nil, fmt.Errorf("it has version %d of the format, and this program reads %d", version, Version)
	case !listed:
		return nil, errors.New("it has no contents")
	}
	return contents, nil
}

// haveContents appends the elements of an array that name content.
func haveContents(dec *json.Decoder, contents []Content) ([]Content, error) {
	if err := delimiter(dec, '['); err != nil {
		return nil, err
	}
	for dec.More() {
		var c struct {
			Digest digest.Digest `json:"digest"`
			Size   int64         `json:"size"`
		}
		err := dec.Decode(&c)
		if wrong := (*json.UnmarshalTypeError)(nil); err != nil && !errors.As(err, &wrong) {
			return nil, noEOF(err)
		}
		if err != nil || c.Digest.Validate() != nil || c.Size < 0 {
			continue
		}
		if len(contents) == maxHave {
			return nil, fmt.Errorf("it has more than %d contents", maxHave)
		}
		contents = append(contents, Content{Digest: c.Digest, Size: c.Size})
	}
	return contents, delimiter(dec, ']')
}

// delimiter reads a token that must be d.
func delimiter(dec *json.Decoder, d json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return noEOF(err)
	}
	if t != d {
		return fmt.Errorf("there is %.50q where a %s has to be", fmt.Sprint(t), d)
	}
	return nil
}

// skipValue reads a value token by token, so that a large one takes no memory.
func skipValue(dec *json.Decoder) error {
	for depth := 0; ; {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
