package bundle

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path/filepath"
	"strings"

	"registry-module/internal/durable"
)

// maxSums bounds the file of sums, in bytes: as many chunks as there can be, with long
// names.
const maxSums = 64 << 20

// lost implements places. It finds out which of the files that c lies in are to blame.
// Only now are their sums compared, so that a bundle that is whole is read once.
func (p *parts) lost(c Content, err error) *LostError {
	l := &LostError{Content: c, Err: err}
	for i := range p.over(c) {
		p.check(i)
		if chunk := p.list[i]; chunk.State != ChunkPresent {
			l.Chunks = append(l.Chunks, chunk.Name+" ("+string(chunk.State)+")")
		}
	}
	return l
}

// check compares the file with number i, from 0, with its sum, once. Where there is none,
// nothing is known of it.
func (p *parts) check(i int) {
	if p.list[i].State != ChunkPresent || p.checked[i] {
		return
	}
	p.checked[i] = true
	want, ok := p.sum(p.list[i].Name)
	if !ok {
		return
	}
	f, _, err := durable.Open(p.fsys, filepath.Join(p.dir, p.list[i].Name), 0)
	if err == nil {
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		_ = f.Close() // it was only read
		if err == nil && hex.EncodeToString(sum.Sum(nil)) == want {
			return
		}
	}
	p.list[i].State = ChunkDamaged
}

// sum returns what name.sums has for a file of the bundle.
func (p *parts) sum(file string) (string, bool) {
	if p.sums == nil {
		p.sums = make(map[string]string)
		_ = p.readSums() // what cannot be read is of no use, then
	}
	sum, ok := p.sums[file]
	return sum, ok
}

// readSums reads name.sums, and keeps what it has for the files of the bundle.
func (p *parts) readSums() error {
	f, _, err := durable.Open(p.fsys, p.base+sumsSuffix, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	ours := make(map[string]bool, len(p.list))
	for _, c := range p.list {
		ours[c.Name] = true
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxSums))
	for lines.Scan() {
		line, escaped := strings.CutPrefix(lines.Text(), "\\")
		sum, name, ok := strings.Cut(line, "  ")
		if escaped {
			name = strings.NewReplacer("\\\\", "\\", "\\n", "\n", "\\r", "\r").Replace(name)
		}
		if ok && ours[name] {
			p.sums[name] = sum
		}
	}
	return lines.Err()
}
