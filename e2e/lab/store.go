package lab

import (
	_ "crypto/sha512" // digests of blobs may be sha512
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// CheckStore reads all blobs below a data directory and returns how many there
// are and their bytes. A blob whose content does not hash to its name is an
// error. A directory that does not exist holds nothing.
func CheckStore(data string) (blobs int, size int64, err error) {
	root := filepath.Join(data, "docker/registry/v2/blobs")
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == root {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		// blobs/<algorithm>/<two digits>/<digits>/data
		dir := filepath.Dir(path)
		algorithm := filepath.Base(filepath.Dir(filepath.Dir(dir)))
		dgst, err := digest.Parse(algorithm + ":" + filepath.Base(dir))
		if err != nil || entry.Name() != "data" {
			return fmt.Errorf("%s does not belong there", path)
		}
		n, err := checkBlob(path, dgst)
		blobs++
		size += n
		return err
	})
	if err != nil {
		return blobs, size, fmt.Errorf("checking the store: %w", err)
	}
	return blobs, size, nil
}

func checkBlob(path string, dgst digest.Digest) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	digester := dgst.Algorithm().Digester()
	size, err = io.Copy(digester.Hash(), f)
	if err != nil {
		return size, err
	}
	if got := digester.Digest(); got != dgst {
		return size, fmt.Errorf("%s holds the content of %s", path, got)
	}
	return size, nil
}
