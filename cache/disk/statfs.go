package disk

import "golang.org/x/sys/unix"

// blockSize returns the unit in which the file system of dir gives out space, in
// bytes; 4096, which is the most frequent one, where it is not known.
func blockSize(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return 4096
	}
	return int64(st.Bsize) //nolint:unconvert // its type differs between architectures
}

// statfs returns the bytes that an unprivileged process can still write to the
// file system of dir, and the size of that file system.
func statfs(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	block := int64(st.Bsize) //nolint:unconvert // its type differs between architectures
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}
