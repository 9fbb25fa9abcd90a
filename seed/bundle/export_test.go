package bundle

import "github.com/opencontainers/go-digest"

// For tests of what is in a tar.
var (
	AppendHeader = appendHeader
	HeaderSize   = headerSize
	BlobName     = blobName
)

// PlannedSize is how large chunks are for total bytes.
func PlannedSize(total, size int64) int64 {
	var f files
	if f.plan(total, size) != nil {
		return -1
	}
	return f.chunks.Size
}

// PlannedCount is how many chunks of size bytes there are for total bytes.
func PlannedCount(total, size int64) int {
	var f files
	if f.plan(total, size) != nil {
		return -1
	}
	return f.chunks.Count
}

// HeadOf is the head of a bundle with a description, right or not, and the end of the tar.
func HeadOf(description []byte) []byte {
	return HeadWith(`{"annotations":{"`+descriptionAnnotation+`":"`+digest.FromBytes(description).String()+`"}}`, description)
}

// HeadWith is the same, with an index.json.
func HeadWith(index string, description []byte) []byte {
	h := head{index: []byte(index), description: description}
	return append(h.bytes(), make([]byte, trailer)...)
}
