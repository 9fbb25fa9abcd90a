package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

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
//
// Whole tells whether the manifest, of size bytes, has no damaged end, which Badger
// cuts off; tables is how many it lists. Badger removes the files of others.
func checkTables(opts badger.Options, size int) (whole bool, tables int, err error) {
	f, err := os.Open(filepath.Join(opts.Dir, badger.ManifestFilename))
	if err != nil {
		return false, 0, err
	}
	var manifest badger.Manifest
	var end int64
	err = guarded(func() (err error) {
		manifest, end, err = badger.ReplayManifestFile(f, opts.ExternalMagicVersion, opts)
		return err
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return false, 0, fmt.Errorf("manifest: %w", err)
	}
	ids := make(chan uint64, len(manifest.Tables))
	for id := range manifest.Tables {
		ids <- id
	}
	close(ids)
	errs := make([]error, runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for i := range errs {
		workers.Go(func() {
			var buf []byte
			for id := range ids {
				if buf, errs[i] = checkTable(table.NewFilename(id, opts.Dir), buf); errs[i] != nil {
					return
				}
			}
		})
	}
	workers.Wait()
	return end == int64(size), len(manifest.Tables), errors.Join(errs...)
}

// checkTable verifies one table: blocks of entries, an index that says where
// they are, and, each behind what it is for, a checksum and the length of that. It
// reads the table into buf, and returns that for the next one.
func checkTable(name string, buf []byte) (_ []byte, err error) {
	defer func() {
		// Badger's decoders panic at what they do not understand.
		if r := recover(); r != nil {
			err = fmt.Errorf("table %s: %v", name, r)
		}
	}()
	f, err := os.Open(name)
	if err != nil {
		return buf, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return buf, err
	}
	const limit = 1 << 30 // Badger makes no table that is a hundredth of that
	if info.Size() > limit {
		return buf, fmt.Errorf("table %s has %d bytes", name, info.Size())
	}
	buf = slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	if _, err := io.ReadFull(f, buf); err != nil {
		return buf, fmt.Errorf("table %s: %w", name, err)
	}
	r := tail(buf)
	sum, err := r.sized()
	if err != nil {
		return buf, fmt.Errorf("table %s: %w", name, err)
	}
	data, err := r.sized()
	if err != nil {
		return buf, fmt.Errorf("table %s: %w", name, err)
	}
	if err := verify(data, sum); err != nil {
		return buf, fmt.Errorf("index of table %s: %w", name, err)
	}
	index := fb.GetRootAsTableIndex(data, 0)
	for i := range index.OffsetsLength() {
		var at fb.BlockOffset
		if !index.Offsets(&at, i) {
			return buf, fmt.Errorf("table %s: block %d has no offset", name, i)
		}
		start, end := uint64(at.Offset()), uint64(at.Offset())+uint64(at.Len())
		if end > uint64(len(buf)) {
			return buf, fmt.Errorf("block %d of table %s: %w", i, name, io.ErrUnexpectedEOF)
		}
		block := tail(buf[start:end])
		sum, err := block.sized()
		if err != nil {
			return buf, fmt.Errorf("block %d of table %s: %w", i, name, err)
		}
		if err := verify(block, sum); err != nil {
			return buf, fmt.Errorf("block %d of table %s: %w", i, name, err)
		}
	}
	return buf, nil
}

func verify(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return err
	}
	return y.VerifyChecksum(data, &want)
}

// tail is read from its end to its beginning.
type tail []byte

// sized takes what stands before its own length.
func (t *tail) sized() ([]byte, error) {
	n, err := t.take(4)
	if err != nil {
		return nil, err
	}
	return t.take(binary.BigEndian.Uint32(n))
}

// take takes n bytes.
func (t *tail) take(n uint32) ([]byte, error) {
	if uint64(n) > uint64(len(*t)) {
		return nil, fmt.Errorf("%d bytes of %d: %w", n, len(*t), io.ErrUnexpectedEOF)
	}
	at := len(*t) - int(n)
	taken := (*t)[at:]
	*t = (*t)[:at]
	return taken, nil
}
