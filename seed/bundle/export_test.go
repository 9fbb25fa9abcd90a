package bundle

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
