// Package bundle carries images in a file to where there is no link: an OCI image layout
// in a tar, which other programs read, too, whole or split in chunks.
//
// It promises that the same content makes the same bytes; that nothing of a bundle is
// believed that does not have its digest, and, where there are keys to trust, whose list
// of digests is not signed with one of them; that what is whole can be read where a part is
// lost; and that reading costs a bounded amount of memory, whatever is read. Content and
// its places are the business of the interfaces that it declares. Of this module it imports
// internal packages.
package bundle
