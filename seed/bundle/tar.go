package bundle

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A tar consists of blocks (POSIX.1-2017, pax, "ustar Interchange Format").
const (
	block = 512
	// trailer is the end of a tar: two blocks of zeros.
	trailer = 2 * block
	// maxOctal is the largest size that the field of ustar holds: 8 GiB less one byte.
	// Larger ones are written as GNU tar does, in base 256.
	maxOctal = 1<<33 - 1
	// maxName and maxPrefix are the lengths of the fields for a name.
	maxName, maxPrefix = 100, 155
	// longLink is how GNU tar calls the entry that holds a name too long for the fields.
	longLink = "././@LongLink"
)

// errHeader is the error for a header that appendHeader would not have written.
var errHeader = errors.New("there is no header as bundles have it")

// appendHeader appends what stands before the content of a file in a tar. It is nothing
// but the name and the size: mode, owner and time are always the same. Each writer of this
// format must make the same bytes, and readers compare them, so that none of the other
// things that a tar can have, such as links, is ever interpreted.
func appendHeader(b []byte, name string, size int64) []byte {
	prefix := ""
	if len(name) > maxName {
		// Digests of sha384 fit into both fields, those of sha512 in neither.
		if i := strings.LastIndexByte(name, '/'); i >= 0 && i <= maxPrefix && len(name)-i-1 <= maxName {
			prefix, name = name[:i], name[i+1:]
		} else {
			b = appendBlock(b, longLink, "", 'L', int64(len(name))+1)
			b = append(b, name...)
			b = append(b, make([]byte, 1+padding(int64(len(name))+1))...)
			name = name[:maxName]
		}
	}
	return appendBlock(b, name, prefix, '0', size)
}

// appendBlock appends one block that describes what follows.
func appendBlock(b []byte, name, prefix string, kind byte, size int64) []byte {
	var h [block]byte
	copy(h[0:100], name)
	mode := "0000644"
	if kind == 'L' {
		mode = "0000000"
	}
	copy(h[100:107], mode)
	copy(h[108:115], "0000000") // uid
	copy(h[116:123], "0000000") // gid
	magic := "ustar\x0000"
	if size > maxOctal || kind == 'L' {
		magic = "ustar  \x00" // GNU
	}
	if size > maxOctal {
		h[124] = 0x80
		for i, rest := 135, uint64(size); rest > 0; i, rest = i-1, rest>>8 {
			h[i] = byte(rest)
		}
	} else {
		copy(h[124:135], fmt.Sprintf("%011o", size))
	}
	copy(h[136:147], "00000000000") // time
	h[156] = kind
	copy(h[257:265], magic)
	copy(h[345:500], prefix)
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return append(b, h[:]...)
}

// headerSize is how many bytes appendHeader appends for a blob.
func headerSize(c Content) int64 {
	if len(c.Digest.Encoded()) > maxName {
		return 3 * block
	}
	return block
}

// padding is how many zeros follow content of size bytes.
func padding(size int64) int64 { return (block - size%block) % block }

// blobName is where a blob lies in an OCI image layout.
func blobName(c Content) string {
	return "blobs/" + string(c.Digest.Algorithm()) + "/" + c.Digest.Encoded()
}

// readEntry reads a header and the content behind it, of at most limit bytes.
func readEntry(r io.Reader, limit int64) (name string, content []byte, err error) {
	var h [block]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return "", nil, noEOF(err)
	}
	name, _, _ = strings.Cut(string(h[:maxName]), "\x00")
	size, err := strconv.ParseInt(string(h[124:135]), 8, 64)
	if err != nil || size < 0 || name == "" || string(appendHeader(nil, name, size)) != string(h[:]) {
		return "", nil, errHeader
	}
	if size > limit {
		return name, nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, limit)
	}
	content, err = readN(r, size)
	if err != nil {
		return name, nil, err
	}
	_, err = io.CopyN(io.Discard, r, padding(size))
	return name, content, noEOF(err)
}

// readN reads n bytes, and takes no more memory than twice what is there, and some.
func readN(r io.Reader, n int64) ([]byte, error) {
	const first = 64 << 10
	content := make([]byte, 0, min(n, first))
	for int64(len(content)) < n {
		if len(content) == cap(content) {
			content = append(make([]byte, 0, min(n, 2*int64(cap(content)))), content...)
		}
		read, err := io.ReadFull(r, content[len(content):cap(content)])
		content = content[:len(content)+read]
		if err != nil {
			return content, noEOF(err)
		}
	}
	return content, nil
}

// noEOF has an end where there must be none be an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
