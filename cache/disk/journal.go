package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

const (
	// journalVersion is the version of the journal that this program writes, and
	// the only one that it reads.
	journalVersion = 1

	// maxJournal bounds a journal in bytes, and so the memory that reading it
	// takes. A record has some 30 bytes: this is enough for a blob of 128 GiB.
	maxJournal = 16 << 20

	// maxHeader is more bytes than a header can have.
	maxHeader = 512

	// maxNote bounds the note of a caller in bytes, which is quoted in up to four
	// times as many.
	maxNote = 16 << 10
)

// journal is what is known of an unfinished download beside its bytes. As a file
// it is text, a record a line, to which records are only appended:
//
//	partial 1 <digest> <part size> <boot id>
//	note "<quoted>"
//	<offset> <length> <crc>
//
// The boot id, or "-", stands for the time since the kernel was started in which
// the file was made. Of several notes the last one counts, of several records for
// one part the longest. Lines that are not understood, those that are torn or have
// become zeros by a loss of power, are passed over.
type journal struct {
	digest  digest.Digest
	boot    string // empty where it is not known
	note    []byte // nil where there is none
	records []record
}

// record says that length bytes from offset on, which is a multiple of
// cache.PartSize, were written in order, and what their CRC-32C is.
type record struct {
	offset int64
	length uint32 // at most cache.PartSize
	sum    uint32
}

// end is the offset behind the last byte.
func (r record) end() int64 { return r.offset + int64(r.length) }

// addSum returns the CRC-32C of bytes that have sum, followed by p.
func addSum(sum uint32, p []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), p)
}

// format returns the journal as a file.
func (j journal) format() []byte {
	boot := j.boot
	if !validBoot(boot) {
		boot = "-"
	}
	b := fmt.Appendf(nil, "partial %d %s %d %s\n", journalVersion, j.digest, cache.PartSize, boot)
	if j.note != nil {
		b = appendNote(b, j.note)
	}
	return appendRecords(b, j.records...)
}

func appendNote(b, note []byte) []byte { return fmt.Appendf(b, "note %q\n", note) }

func appendRecords(b []byte, records ...record) []byte {
	for _, r := range records {
		b = fmt.Appendf(b, "%d %d %08x\n", r.offset, r.length, r.sum)
	}
	return b
}

// parseJournal is the reverse of format. It fails where the first line is not
// that of a journal of this version. What it returns has its records in order, no
// two for one part.
func parseJournal(data []byte) (journal, error) {
	if len(data) > maxJournal {
		return journal{}, fmt.Errorf("journal has more than %d bytes", maxJournal)
	}
	j, err := parseHeader(data)
	if err != nil {
		return journal{}, err
	}
	for line := range bytes.Lines(data[bytes.IndexByte(data, '\n')+1:]) {
		line, ended := strings.CutSuffix(string(line), "\n")
		if !ended {
			break // torn
		}
		if quoted, ok := strings.CutPrefix(line, "note "); ok {
			if note, err := strconv.Unquote(quoted); err == nil && quoted[0] == '"' {
				j.note = []byte(note)
			}
		} else if r, ok := parseRecord(line); ok {
			j.records = append(j.records, r)
		}
	}
	slices.SortStableFunc(j.records, func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
	kept := j.records[:0]
	for _, r := range j.records {
		switch last := len(kept) - 1; {
		case last < 0 || kept[last].offset != r.offset:
			kept = append(kept, r)
		case kept[last].length <= r.length:
			kept[last] = r
		}
	}
	j.records = slices.Clip(kept)
	return j, nil
}

// parseHeader reads the first line of data, which may end anywhere behind it.
func parseHeader(data []byte) (journal, error) {
	line, _, ended := bytes.Cut(data[:min(len(data), maxHeader)], []byte("\n"))
	fields := strings.Split(string(line), " ")
	if !ended || len(fields) != 5 || fields[0] != "partial" {
		return journal{}, errors.New("not a journal")
	}
	if fields[1] != strconv.Itoa(journalVersion) || fields[3] != strconv.Itoa(cache.PartSize) {
		return journal{}, fmt.Errorf("journal has version %.20q and parts of %.20q bytes, this program knows version %d and parts of %d",
			fields[1], fields[3], journalVersion, cache.PartSize)
	}
	j := journal{digest: digest.Digest(fields[2])}
	if err := j.digest.Validate(); err != nil {
		return journal{}, fmt.Errorf("journal of %q: %w", fields[2], err)
	}
	if validBoot(fields[4]) {
		j.boot = fields[4]
	}
	return j, nil
}

func parseRecord(line string) (r record, ok bool) {
	offset, rest, _ := strings.Cut(line, " ")
	length, sum, _ := strings.Cut(rest, " ")
	o, errOffset := strconv.ParseInt(offset, 10, 64)
	l, errLength := strconv.ParseUint(length, 10, 32)
	s, errSum := strconv.ParseUint(sum, 16, 32)
	if errOffset != nil || errLength != nil || errSum != nil || len(sum) != 8 {
		return record{}, false
	}
	if o < 0 || o%cache.PartSize != 0 || o > math.MaxInt64-cache.PartSize || l == 0 || l > cache.PartSize {
		return record{}, false
	}
	return record{offset: o, length: uint32(l), sum: uint32(s)}, true
}

// validBoot tells whether s can stand for a boot id: Linux has a UUID.
func validBoot(s string) bool {
	const admitted = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return s != "" && s != "-" && len(s) <= 64 && strings.Trim(s, admitted) == ""
}

// log is the file of a journal.
type log struct {
	file durable.File
	size int64
	// fresh tells that the last line may be torn: an earlier process has written
	// it.
	fresh bool
	err   error // after which nothing is written any more
	noted []byte
}

var errJournalFull = fmt.Errorf("the journal has reached its limit of %d bytes", maxJournal)

// write appends lines by one write.
func (l *log) write(lines []byte) error {
	if l.err != nil || len(lines) == 0 {
		return l.err
	}
	if l.fresh {
		lines = append([]byte("\n"), lines...)
	}
	if l.size+int64(len(lines)) > maxJournal {
		l.err = errJournalFull
		return l.err
	}
	if _, err := l.file.Write(lines); err != nil {
		l.err = fmt.Errorf("journal: %w", err)
		return l.err
	}
	l.size += int64(len(lines))
	l.fresh = false
	return nil
}
