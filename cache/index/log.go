package index

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
)

// checkLog verifies one write-ahead log, which holds what is not in tables yet, and
// tells whether nothing was lost of it: whether there are only zeros behind the
// entries. Badger stops at the first one that is damaged, and says nothing; of what
// the lengths in that one say, it allocates memory. So the log is cut there.
func checkLog(name string) (whole bool, err error) {
	data, err := os.ReadFile(name) // some megabytes
	if err != nil {
		return false, err
	}
	const header = 20 // the id of a key, of which there is none, and a random number
	if len(data) < header || len(bytes.TrimLeft(data[:header], "\x00")) == 0 {
		return false, os.Remove(name)
	}
	end := header
	for n := logEntry(data[end:]); n > 0; n = logEntry(data[end:]) {
		end += n
	}
	if len(bytes.TrimLeft(data[end:], "\x00")) == 0 {
		return true, nil
	}
	return false, os.Truncate(name, int64(end))
}

// logEntry returns the length of the entry at the beginning of data: two bytes, the
// lengths of key and value, a time, key and value, and the CRC-32C of all that. It is
// 0 where there is none that is whole.
func logEntry(data []byte) int {
	const flags, maxKey = 2, 1 << 16
	at := flags
	var numbers [3]uint64
	for i := range numbers {
		if at >= len(data) {
			return 0
		}
		number, n := binary.Uvarint(data[at:])
		if n <= 0 {
			return 0
		}
		numbers[i], at = number, at+n
	}
	key, value := numbers[0], numbers[1]
	rest := uint64(len(data) - at)
	if key == 0 || key > maxKey || value > rest || key+value+crc32.Size > rest {
		return 0
	}
	at += int(key + value)
	if binary.BigEndian.Uint32(data[at:]) != sum(data[:at]) {
		return 0
	}
	return at + crc32.Size
}
