// Package seed fills a cache ahead of time, so that a site can be without a link
// afterwards: it finds out which manifests and blobs images consist of, says what that
// comes to before anything is fetched, fetches what is missing, and pins what is there.
//
// It promises that a tag stands for what it has stood for until all of the new image is
// stored; that nothing is fetched twice, and what was interrupted goes on where it was;
// that one image that fails stops no other; and that nothing is fetched where what is
// pinned would not fit. It trusts the cache for content: each byte is verified there. Of
// this module it imports cache and internal packages. Its subpackages read what names
// images ([registry-module/seed/source]) and carry images in files
// ([registry-module/seed/bundle]).
package seed
