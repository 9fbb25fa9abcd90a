package bundle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"registry-module/internal/durable"
)

// OpenOptions are options of [Open]. The zero value works.
type OpenOptions struct {
	// FS is the file system; nil is that of the operating system.
	FS durable.FS
}

// Open opens a bundle: a file, or the chunks of one by any of their names or by the name
// that they have in common. Chunks may be missing or damaged; where that is so of its head,
// name.head is read instead. [Bundle.Chunks] tells which.
func Open(name string, o OpenOptions) (*Bundle, error) {
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	b, err := openFiles(o.FS, filepath.Clean(name))
	if err != nil {
		return nil, fmt.Errorf("opening the bundle %s: %w", name, err)
	}
	return b, nil
}

func openFiles(fsys durable.FS, name string) (*Bundle, error) {
	whole, err := openWhole(fsys, name)
	if err == nil && whole.from.chunks()[0].State == ChunkPresent {
		return whole, nil
	}
	base := name
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		_, chunk := chunkNumber(name[:i], name)
		if suffix := name[i:]; chunk || suffix == sumsSuffix || suffix == headSuffix {
			base = name[:i]
		}
	}
	if base == name && !errors.Is(err, fs.ErrNotExist) {
		return whole, err // such as it is
	}
	whole = nil // so that it takes no memory beside the other
	split, splitErr := openChunks(fsys, base)
	switch {
	case splitErr != nil && err == nil:
		return openWhole(fsys, name) // such as it is
	case splitErr != nil && base != name && !errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(err, splitErr)
	}
	return split, splitErr
}

// openWhole opens a bundle that is one file.
func openWhole(fsys durable.FS, name string) (*Bundle, error) {
	f, info, err := durable.Open(fsys, name, 0)
	if err != nil {
		return nil, err
	}
	b, err := func() (*Bundle, error) {
		h, _, err := readHead(bufio.NewReaderSize(io.NewSectionReader(f, 0, info.Size()), 64<<10))
		if err != nil {
			return nil, err
		}
		p := &parts{fsys: fsys, base: name, dir: filepath.Dir(name)}
		return p.bundle(h, []Chunk{{Name: filepath.Base(name), Size: info.Size()}}, 0)
	}()
	return b, errors.Join(err, f.Close())
}

// openChunks opens a bundle that is split.
func openChunks(fsys durable.FS, base string) (*Bundle, error) {
	dir := filepath.Dir(base)
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := make(map[int]Chunk)
	for _, e := range entries {
		n, ok := chunkNumber(filepath.Base(base), e.Name())
		if _, twice := found[n]; !ok || twice {
			continue
		}
		// By what a link points to: chunks can come on several media.
		f, info, err := durable.Open(fsys, filepath.Join(dir, e.Name()), 0)
		if err != nil {
			continue // it is missing, then
		}
		_ = f.Close() // nothing was written
		found[n] = Chunk{Name: e.Name(), Size: info.Size()}
	}
	p := &parts{fsys: fsys, base: base, dir: dir, split: true}
	copied, like, copyErr := p.readCopy()
	if len(found) == 0 {
		return nil, fmt.Errorf("there is neither such a file nor a chunk %s: %w", chunkName(filepath.Base(base), 1, minDigits), fs.ErrNotExist)
	}
	h, err := p.readFirst(found)
	bad := err != nil
	if bad {
		if copyErr != nil {
			return nil, fmt.Errorf("%w (nor can %s be used: %w)", err, base+headSuffix, copyErr)
		}
		h = copied
	}
	if copyErr != nil || !bytes.Equal(copied.description, h.description) {
		like = chunks{}
		for _, c := range found {
			like.Size = max(like.Size, c.Size)
		}
	}
	numbered := make([]Chunk, slices.Max(slices.Collect(maps.Keys(found))))
	for n, c := range found {
		numbered[n-1] = c
	}
	b, err := p.bundle(h, numbered, like.Size)
	if err == nil && bad && p.list[0].State == ChunkPresent {
		p.list[0].State = ChunkDamaged
	}
	return b, err
}

// parts is a bundle in files.
type parts struct {
	fsys  durable.FS
	base  string // the name of the bundle
	dir   string
	split bool

	description Description
	begin       int64   // where the first blob's header is
	size        int64   // of each file but the last
	list        []Chunk // all, those that are missing, too
	checked     map[int]bool
	sums        map[string]string // of FILE.sums; nil before it is read

	file   durable.File // the one of number; nil for none
	number int
}

// bundle makes the Bundle with head h, of found files, each of size bytes but the last; 0
// for one file.
func (p *parts) bundle(h head, found []Chunk, size int64) (*Bundle, error) {
	b, err := newBundle(h, p)
	if err != nil {
		return nil, err
	}
	p.description = b.d
	p.begin = h.size()
	total := p.begin + b.d.length() + trailer
	p.size, p.checked = size, make(map[int]bool)
	if size <= 0 || size > total {
		p.size = total
	}
	count := chunkCount(total, p.size)
	if count > maxChunks {
		return nil, invalid("its chunks of %d bytes are too small for %d bytes: they are truncated, or of something else", p.size, total)
	}
	digits := minDigits
	for _, c := range found {
		if i := strings.LastIndexByte(c.Name, '.'); c.Name != "" {
			digits = len(c.Name) - i - 1
		}
	}
	p.list = make([]Chunk, count)
	for i := range p.list {
		c := &p.list[i]
		if i < len(found) {
			*c = found[i]
		}
		c.Want = min(p.size, total-int64(i)*p.size)
		switch {
		case c.Name == "":
			c.Name, c.State = filepath.Base(chunkName(p.base, i+1, digits)), ChunkMissing
		case c.Size != c.Want:
			c.State = ChunkSize
		default:
			c.State = ChunkPresent
		}
	}
	return b, nil
}

// readFirst reads the head from the chunks, as far as they are there without a gap.
func (p *parts) readFirst(found map[int]Chunk) (head, error) {
	if _, ok := found[1]; !ok {
		return head{}, invalid("its first chunk is missing")
	}
	r := &sequence{p: p, found: found}
	h, _, err := readHead(bufio.NewReaderSize(r, 64<<10))
	return h, errors.Join(err, r.close())
}

// sequence reads the chunks one after the other.
type sequence struct {
	p     *parts
	found map[int]Chunk
	n     int
	file  durable.File
}

// Read implements io.Reader.
func (s *sequence) Read(b []byte) (int, error) {
	for {
		if s.file != nil {
			n, err := s.file.Read(b)
			if n > 0 || !errors.Is(err, io.EOF) {
				return n, err
			}
			if err := s.close(); err != nil {
				return 0, err
			}
		}
		s.n++
		c, ok := s.found[s.n]
		if !ok {
			return 0, io.EOF
		}
		f, _, err := durable.Open(s.p.fsys, filepath.Join(s.p.dir, c.Name), 0)
		if err != nil {
			return 0, err
		}
		s.file = f
	}
}

func (s *sequence) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// readCopy reads FILE.head.
func (p *parts) readCopy() (head, chunks, error) {
	f, _, err := durable.Open(p.fsys, p.base+headSuffix, 0)
	if err != nil {
		return head{}, chunks{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	buffered := bufio.NewReaderSize(f, 64<<10)
	h, next, err := readHead(buffered)
	if err != nil {
		return head{}, chunks{}, err
	}
	var c chunks
	name, content, err := readEntry(io.MultiReader(bytes.NewReader(next), buffered), block)
	if err == nil && name == chunksName {
		err = json.Unmarshal(content, &c)
	}
	if err != nil || c.Size < MinChunkSize {
		c = chunks{} // the head is right all the same
	}
	return h, c, nil
}

// blobs implements places.
func (p *parts) blobs(ctx context.Context, want func(Content) bool) iter.Seq2[raw, error] {
	return func(yield func(raw, error) bool) {
		for _, c := range p.description.Contents {
			if c.Absent || want != nil && !want(c) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(raw{}, context.Cause(ctx))
				return
			}
			if p.gone(c) {
				if !yield(raw{content: c}, p.lost(c, errGone)) {
					return
				}
				continue
			}
			r := &passing{ctx: ctx, r: io.NewSectionReader(p, p.begin+c.Offset, c.Size), m: newMeter(nil, nil)}
			if !yield(raw{content: c, r: r}, nil) {
				return
			}
		}
	}
}

var (
	errGone  = errors.New("it is not there")
	errRange = errors.New("the file ends before it")
)

// over yields the numbers of the files, from 0, that c lies in.
func (p *parts) over(c Content) iter.Seq[int] {
	return func(yield func(int) bool) {
		if c.Size == 0 {
			return
		}
		at := p.begin + c.Offset
		for i := at / p.size; i <= (at+c.Size-1)/p.size; i++ {
			if !yield(int(i)) {
				return
			}
		}
	}
}

// gone tells whether a part of c is known not to be there.
func (p *parts) gone(c Content) bool {
	end := p.begin + c.Offset + c.Size
	for i := range p.over(c) {
		if min(end-int64(i)*p.size, p.size) > p.list[i].Size {
			return true
		}
	}
	return false
}

// ReadAt implements io.ReaderAt. One file is open at a time.
func (p *parts) ReadAt(b []byte, at int64) (n int, err error) {
	for n < len(b) {
		i := int(at / p.size)
		if i >= len(p.list) {
			return n, io.EOF
		}
		within := at - int64(i)*p.size
		part := b[n:min(int64(len(b)), int64(n)+p.size-within)]
		if err := p.use(i); err != nil {
			return n, err
		}
		read, err := p.file.ReadAt(part, within)
		n += read
		at += int64(read)
		if err != nil && read < len(part) {
			if errors.Is(err, io.EOF) {
				err = errRange
			}
			return n, fmt.Errorf("reading %s: %w", p.list[i].Name, err)
		}
	}
	return n, nil
}

// use opens the file with number i, from 0.
func (p *parts) use(i int) error {
	if p.file != nil && p.number == i {
		return nil
	}
	if err := p.Close(); err != nil {
		return err
	}
	f, _, err := durable.Open(p.fsys, filepath.Join(p.dir, p.list[i].Name), 0)
	if err != nil {
		return err
	}
	p.file, p.number = f, i
	return nil
}

// Close implements places.
func (p *parts) Close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}

// chunks implements places.
func (p *parts) chunks() []Chunk { return slices.Clone(p.list) }
