package bundle

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"registry-module/internal/durable"
)

// MinChunkSize is the smallest size of a chunk, in bytes.
const MinChunkSize = 1 << 20

const (
	// maxChunks bounds what is kept in memory of the chunks of a bundle.
	maxChunks = 100_000
	// minDigits is how many digits the number of a chunk has at least.
	minDigits = 3
	// sumsSuffix and headSuffix are of the files beside a bundle.
	sumsSuffix, headSuffix = ".sums", ".head"
	// chunksName is, in FILE.head, what the chunks are like.
	chunksName = "registry-module/chunks.json"
	// maxFAT32 is the largest file that FAT32 can have, which is what chunks of 4 GiB are
	// for: one byte less. It is rounded down to whole blocks.
	maxFAT32 = 1<<32 - block
)

// FileOptions are options of [WriteFile]. The zero value works.
type FileOptions struct {
	WriteOptions
	// ChunkSize is how large a file is at most, in bytes; 0 writes one file of any size.
	// It is at least [MinChunkSize].
	ChunkSize int64
	// FS is the file system; nil is that of the operating system.
	FS durable.FS
}

// chunks says what the files of a bundle are like that is split. It is in FILE.head.
type chunks struct {
	Version int   `json:"version"`
	Size    int64 `json:"size"` // of each but the last
	Count   int   `json:"count"`
}

// WriteFile writes the bundle that d describes to the file name, or, with ChunkSize, to
// name.001, name.002 and so on, whose bytes in this order are the same, with a copy of the
// head in name.head. In both cases name.sums has their sums, for sha256sum -c.
//
// When it returns nil, all of it is on stable storage. Until then it is under other names,
// which end in .tmp, and an earlier bundle of the same name remains; what an earlier
// run has left under such names is removed. When it fails or is killed while it gives the
// files their names, some of them may be missing, name.sums in any case.
func WriteFile(ctx context.Context, name string, d Description, src Source, o FileOptions) error {
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	if o.ChunkSize != 0 && o.ChunkSize < MinChunkSize {
		return fmt.Errorf("chunks of %d bytes are too small: use at least %d (1MiB)", o.ChunkSize, int64(MinChunkSize))
	}
	h, err := prepare(d, o.WriteOptions)
	if err != nil {
		return err
	}
	f := &files{fsys: o.FS, name: name, sum: sha256.New()}
	if err := f.plan(h.size()+d.length()+trailer, o.ChunkSize); err != nil {
		return err
	}
	if err := f.removeLeftovers(); err != nil {
		return fmt.Errorf("removing what an earlier run has left: %w", err)
	}
	// Content comes in small pieces.
	buffered := bufio.NewWriterSize(f, 1<<20)
	err = write(ctx, buffered, h, d, src, o.WriteOptions)
	if err == nil {
		err = buffered.Flush()
	}
	err = errors.Join(err, f.finish())
	if err == nil {
		err = f.writeBeside(h)
	}
	if err == nil {
		err = f.commit()
	}
	if err != nil {
		// What cannot be removed now, the next run removes.
		_ = f.removeLeftovers()
		return err
	}
	return nil
}

// files is the writer of the files of a bundle, one after the other.
type files struct {
	fsys   durable.FS
	name   string
	chunks chunks
	digits int
	names  []string // those begun so far, without .tmp
	sums   strings.Builder

	file durable.File // the current one; nil before the first and after the last
	left int64        // how much of it is to come
	sum  hash.Hash
}

// plan finds out how many files there will be for total bytes.
func (f *files) plan(total, size int64) error {
	if size == 0 {
		f.chunks = chunks{Version: 1, Size: total}
		return nil
	}
	if size == maxFAT32+block {
		size = maxFAT32
	}
	count := chunkCount(total, size)
	if count > maxChunks {
		return fmt.Errorf("%d chunks are more than %d: use larger ones", count, maxChunks)
	}
	f.chunks = chunks{Version: 1, Size: size, Count: int(count)}
	f.digits = max(minDigits, len(strconv.FormatInt(count, 10)))
	return nil
}

// chunkCount is how many chunks of size bytes total bytes are.
func chunkCount(total, size int64) int64 {
	count := total / size
	if total%size > 0 {
		count++ // not by adding to total, which may be as large as there is
	}
	return count
}

// Write implements io.Writer.
func (f *files) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if f.left == 0 {
			if err := f.next(); err != nil {
				return n, err
			}
		}
		part := p[n:]
		if int64(len(part)) > f.left {
			part = part[:f.left]
		}
		written, err := f.file.Write(part)
		_, _ = f.sum.Write(part[:written]) // never fails
		n += written
		f.left -= int64(written)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// next begins the next file.
func (f *files) next() error {
	if err := f.finish(); err != nil {
		return err
	}
	name := f.name
	if f.chunks.Count > 0 {
		name = chunkName(f.name, len(f.names)+1, f.digits)
	}
	file, err := f.fsys.OpenFile(durable.Unfinished(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	f.file, f.left = file, f.chunks.Size
	f.names = append(f.names, name)
	return nil
}

func chunkName(name string, number, digits int) string {
	return fmt.Sprintf("%s.%0*d", name, digits, number)
}

// finish ends the current file, if there is one.
func (f *files) finish() error {
	if f.file == nil {
		return nil
	}
	err := errors.Join(f.file.Sync(), f.file.Close())
	f.file, f.left = nil, 0
	f.addSum(f.names[len(f.names)-1], f.sum.Sum(nil))
	f.sum.Reset()
	if err != nil {
		return fmt.Errorf("finishing a file of the bundle: %w", err)
	}
	return nil
}

// addSum adds a line as sha256sum prints it. Names with a backslash or a line feed are
// written in its way, too.
func (f *files) addSum(name string, sum []byte) {
	base := filepath.Base(name)
	escaped := strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r").Replace(base)
	if escaped != base {
		f.sums.WriteByte('\\')
	}
	fmt.Fprintf(&f.sums, "%x  %s\n", sum, escaped)
}

// writeBeside writes what lies beside the bundle, under names that are not final.
func (f *files) writeBeside(h head) error {
	if f.chunks.Count > 0 {
		copied, err := headFile(h, f.chunks)
		if err != nil {
			return err
		}
		if err := f.writeTemporary(f.name+headSuffix, copied); err != nil {
			return err
		}
		sum := sha256.Sum256(copied)
		f.addSum(f.name+headSuffix, sum[:])
	}
	return f.writeTemporary(f.name+sumsSuffix, []byte(f.sums.String()))
}

// headFile makes the content of FILE.head: the head, what the chunks are like, and the
// end of a tar.
func headFile(h head, c chunks) ([]byte, error) {
	described, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	b := appendHeader(h.bytes(), chunksName, int64(len(described)))
	b = append(b, described...)
	return append(b, make([]byte, padding(int64(len(described)))+trailer)...), nil
}

func (f *files) writeTemporary(name string, content []byte) error {
	file, err := f.fsys.OpenFile(durable.Unfinished(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	f.names = append(f.names, name)
	return nil
}

// commit gives all files their names. First an earlier bundle goes, and its sums before
// all: never do the sums of one stand beside the other. The new sums come last, and so does
// the first chunk among the chunks.
func (f *files) commit() error {
	dir := filepath.Dir(f.name)
	for _, first := range []bool{true, false} {
		err := f.eachOld(func(name string, temporary bool) error {
			if temporary || first != (name == f.name+sumsSuffix) {
				return nil
			}
			return removeFile(f.fsys, name)
		})
		if err == nil {
			err = durable.SyncDir(f.fsys, dir)
		}
		if err != nil {
			return fmt.Errorf("removing an earlier bundle: %w", err)
		}
	}
	last := len(f.names) - 1
	for i := last - 1; i >= 0; i-- {
		if err := f.fsys.Rename(durable.Unfinished(f.names[i]), f.names[i]); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(f.fsys, dir); err != nil {
		return err
	}
	return durable.Rename(f.fsys, durable.Unfinished(f.names[last]), f.names[last])
}

// removeLeftovers removes the files of an earlier run that did not come to its end.
func (f *files) removeLeftovers() error {
	return f.eachOld(func(name string, temporary bool) error {
		if !temporary {
			return nil
		}
		return removeFile(f.fsys, name)
	})
}

// eachOld calls do for each file that bears the name of the bundle, a chunk, or what lies
// beside them, as far as they are files: temporary ones with their whole name. Without a
// head beside it, what is called like a chunk is none: site.2026 need not be of site. The
// head is there as long as there are chunks, because it is renamed before them, and removed
// behind them.
func (f *files) eachOld(do func(name string, temporary bool) error) error {
	entries, err := f.fsys.ReadDir(filepath.Dir(f.name))
	if err != nil {
		return err
	}
	base := filepath.Base(f.name)
	wasSplit := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == base+headSuffix })
	for _, e := range entries {
		final, temporary := strings.CutSuffix(e.Name(), durable.Unfinished(""))
		_, isChunk := chunkNumber(base, final)
		isChunk = isChunk && (wasSplit || temporary)
		if !isChunk && final != base && final != base+headSuffix && final != base+sumsSuffix || e.IsDir() {
			continue
		}
		if err := do(filepath.Join(filepath.Dir(f.name), e.Name()), temporary); err != nil {
			return err
		}
	}
	return nil
}

// chunkNumber returns which chunk of base a file is.
func chunkNumber(base, name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, base+".")
	if !ok || len(digits) < minDigits || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0 && n <= maxChunks
}

func removeFile(fsys durable.FS, name string) error {
	if err := fsys.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var _ io.Writer = (*files)(nil)
