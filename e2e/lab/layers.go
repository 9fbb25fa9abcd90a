package lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
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
	const most = 1<<33 - 1 // what 11 octal digits say
	format := tar.FormatUSTAR
	if size > most {
		format = tar.FormatGNU
	}
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size,
		ModTime: time.Unix(0, 0), Format: format,
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

// noise is bytes without end that do not compress and are the same for the same
// seed. They are made when they are read, wherever that is, and are not kept.
type noise struct{ cipher.Block }

func newNoise(seed uint64) noise {
	var key [16]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return noise{block}
}

// ReadAt implements io.ReaderAt.
func (n noise) ReadAt(p []byte, off int64) (int, error) {
	// The stream of a block cipher in counter mode can be had from any block on.
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(off/aes.BlockSize))
	stream := cipher.NewCTR(n.Block, counter[:])
	var skip [aes.BlockSize]byte
	stream.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	clear(p)
	stream.XORKeyStream(p, p)
	return len(p), nil
}

// joined is pieces of content, one after the other.
type joined []*io.SectionReader

// ReadAt implements io.ReaderAt.
func (j joined) ReadAt(p []byte, off int64) (n int, err error) {
	for _, piece := range j {
		if off >= piece.Size() {
			off -= piece.Size()
			continue
		}
		m, err := piece.ReadAt(p[n:min(int64(len(p)), int64(n)+piece.Size()-off)], off)
		n += m
		if err != nil && err != io.EOF {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
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
	// The file is padded to a full record of 512 bytes, and two records of zeros
	// end the archive.
	tail := make([]byte, (512-size%512)%512+1024)
	head := int64(frame.Len())
	content := joined{
		io.NewSectionReader(bytes.NewReader(frame.Bytes()), 0, head),
		io.NewSectionReader(newNoise(seed), 0, size),
		io.NewSectionReader(bytes.NewReader(tail), 0, int64(len(tail))),
	}
	layer := RawBlob{Size: head + size + int64(len(tail)), Content: content}
	digester := digest.Canonical.Digester()
	if _, err := io.Copy(digester.Hash(), layer.Open()); err != nil {
		return RawBlob{}, fmt.Errorf("packing a layer: %w", err)
	}
	layer.Digest = digester.Digest()
	return layer, nil
}
