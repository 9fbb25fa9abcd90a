package disk

import "golang.org/x/sys/unix"

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
