package idleio_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore is mincore(2).
func mincore(p, pages []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
