package lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// file is one file of a layer.
type file struct {
	name    string
	mode    int64
	content []byte
}

// tarOf packs files, the same way each time.
func tarOf(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(tarHeader(f.name, f.mode, int64(len(f.content)))); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing a layer: %w", err)
	}
	return b.Bytes(), nil
}

func tarHeader(name string, mode, size int64) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size,
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	}
}

func gzipOf(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func zstdOf(b []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(b, nil), w.Close()
}

// noise is size bytes that do not compress and are the same for the same seed.
func noise(seed uint64, size int64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), size)
}

// NoiseLayer is an uncompressed layer with one file of size bytes, which is
// made anew each time it is read: it needs no memory. The layer itself is some
// 2 KiB longer.
func NoiseLayer(seed uint64, size int64) (RawBlob, error) {
	var frame bytes.Buffer
	w := tar.NewWriter(&frame)
	if err := w.WriteHeader(tarHeader(fmt.Sprintf("noise/%d", seed), 0o644, size)); err != nil {
		return RawBlob{}, fmt.Errorf("packing a layer: %w", err)
	}
	head := frame.Bytes()
	// The file is padded to a full record of 512 bytes, and two records of zeros
	// end the archive.
	tail := make([]byte, (512-size%512)%512+1024)
	open := func() io.Reader {
		return io.MultiReader(bytes.NewReader(head), noise(seed, size), bytes.NewReader(tail))
	}
	digester := digest.Canonical.Digester()
	n, err := io.Copy(digester.Hash(), open())
	if err != nil {
		return RawBlob{}, fmt.Errorf("packing a layer: %w", err)
	}
	return RawBlob{digester.Digest(), n, open}, nil
}
