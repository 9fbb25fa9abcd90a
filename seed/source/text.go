package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// magics are the first bytes of what is given by mistake.
var magics = []struct{ magic, what, instead string }{
	{"\x1f\x8b", "compressed with gzip", "decompress it first, for example with gzip -dc FILE | registry-module seed -f -"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first, for example with zstd -dc FILE | registry-module seed -f -"},
	{"\xfd7zXZ\x00", "compressed with xz", "decompress it first, for example with xz -dc FILE | registry-module seed -f -"},
	{"BZh91AY&SY", "compressed with bzip2", "decompress it first, for example with bzip2 -dc FILE | registry-module seed -f -"},
	{"PK\x03\x04", "a zip archive", "unpack it first"},
}

// readText reads a document of at most limit bytes as text in UTF-8 with \n at the ends of
// its lines.
func readText(content io.Reader, limit int64) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(content, limit+1))
	if err != nil {
		return "", fmt.Errorf("reading what is to be seeded: %w", err)
	}
	for _, m := range magics {
		if bytes.HasPrefix(raw, []byte(m.magic)) {
			return "", fmt.Errorf("is %s: %s", m.what, m.instead)
		}
	}
	if len(raw) > 262 && string(raw[257:262]) == "ustar" {
		return "", errors.New("is a tar archive: unpack it first, or, if it is a bundle, load it with registry-module bundle load")
	}
	if int64(len(raw)) > limit {
		return "", fmt.Errorf("is larger than %s: split it into several files", humanize.IBytes(uint64(limit)))
	}
	text, ok := decodeText(raw)
	if !ok {
		return "", errors.New("is not text in UTF-8: is it the right file?")
	}
	return strings.ReplaceAll(text, "\r\n", "\n"), nil
}

// decodeText takes the byte order mark off raw, and decodes UTF-16, which is what Windows
// PowerShell writes with >.
func decodeText(raw []byte) (text string, ok bool) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(raw, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(raw, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
		return string(raw), utf8.Valid(raw) && bytes.IndexByte(raw, 0) < 0
	}
	raw = raw[2:]
	if len(raw)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = order.Uint16(raw[2*i:])
	}
	text = string(utf16.Decode(units))
	return text, !strings.ContainsAny(text, "\x00\ufffd")
}

// firstLine returns the first line that has something in it beside a comment that begins
// with #, without spaces around it, and its number.
func firstLine(text string) (string, int) {
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line = uncomment(line); line != "" {
			return line, number
		}
	}
	return "", 0
}

// uncomment takes the comment and the spaces around it off a line.
func uncomment(line string) string {
	line = strings.TrimSpace(line)
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// structured tells whether a line is one of YAML, where in a list it would be none. In an
// image there is no space, and something behind each colon.
func structured(line string) bool {
	return strings.Contains(line, ": ") || strings.HasSuffix(line, ":") || strings.HasPrefix(line, "- ") || line == "-" ||
		line == "---" || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "%YAML") || strings.HasPrefix(line, "? ")
}

// maxShown is how much of an image or a name a message shows, in bytes.
const maxShown = 100

// shown is text that came from outside as a message can have it: of bounded length, and
// nothing in it does anything to a terminal.
func shown(text string) string {
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "..."
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c >= 0x200b && c <= 0x200f || c >= 0x2028 && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			return '?'
		}
		return c
	}, text)
}
