package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// checkTables verifies the checksums of all tables that the database consists
// of. Badger itself ends the process when a table is damaged, from a goroutine
// where nobody can recover, which after a bad loss of power would happen at each
// start. Tables are written once, so this is all that has to be known about
// them. It reads the whole index, which [cache.Index.Scan] is about to do, too.
func checkTables(opts badger.Options) error {
	f, err := os.Open(filepath.Join(opts.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new database
	}
	if err != nil {
		return err
	}
	// A table that the manifest does not list is one that Badger was writing.
	manifest, _, err := badger.ReplayManifestFile(f, opts.ExternalMagicVersion, opts)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	for id := range manifest.Tables {
		if err := checkTable(table.NewFilename(id, opts.Dir)); err != nil {
			return err
		}
	}
	return nil
}

// checkTable verifies one table: blocks of entries, an index that says where
// they are, and, each behind what it is for, a checksum and the length of that.
func checkTable(name string) (err error) {
	defer func() {
		// Badger's decoders panic at what they do not understand.
		if r := recover(); r != nil {
			err = fmt.Errorf("table %s: %v", name, r)
		}
	}()
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r := tail{f, info.Size()}
	sum, err := r.sized()
	if err != nil {
		return fmt.Errorf("table %s: %w", name, err)
	}
	data, err := r.sized()
	if err != nil {
		return fmt.Errorf("table %s: %w", name, err)
	}
	if err := verify(data, sum); err != nil {
		return fmt.Errorf("index of table %s: %w", name, err)
	}
	index := fb.GetRootAsTableIndex(data, 0)
	for i := range index.OffsetsLength() {
		var at fb.BlockOffset
		if !index.Offsets(&at, i) {
			return fmt.Errorf("table %s: block %d has no offset", name, i)
		}
		r := tail{f, int64(at.Offset()) + int64(at.Len())}
		sum, err := r.sized()
		if err != nil {
			return fmt.Errorf("block %d of table %s: %w", i, name, err)
		}
		data, err := r.take(r.end - int64(at.Offset()))
		if err != nil {
			return fmt.Errorf("block %d of table %s: %w", i, name, err)
		}
		if err := verify(data, sum); err != nil {
			return fmt.Errorf("block %d of table %s: %w", i, name, err)
		}
	}
	return nil
}

func verify(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return err
	}
	return y.VerifyChecksum(data, &want)
}

// tail reads a file from its end to its beginning.
type tail struct {
	f   io.ReaderAt
	end int64
}

// sized reads what stands before its own length.
func (t *tail) sized() ([]byte, error) {
	n, err := t.take(4)
	if err != nil {
		return nil, err
	}
	return t.take(int64(binary.BigEndian.Uint32(n)))
}

// take reads n bytes.
func (t *tail) take(n int64) ([]byte, error) {
	if n < 0 || n > t.end {
		return nil, fmt.Errorf("%d bytes at %d: %w", n, t.end, io.ErrUnexpectedEOF)
	}
	p := make([]byte, n)
	if _, err := t.f.ReadAt(p, t.end-n); err != nil {
		return nil, err
	}
	t.end -= n
	return p, nil
}
