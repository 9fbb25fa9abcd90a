package bundle

// For tests of what is in a tar.
var (
	AppendHeader = appendHeader
	HeaderSize   = headerSize
	BlobName     = blobName
)
