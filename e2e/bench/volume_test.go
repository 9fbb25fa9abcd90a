package main

import (
	"path/filepath"
	"testing"

	"registry-module/e2e/lab"
)

func TestVolume(t *testing.T) {
	v, err := newVolume(t.Context(), filepath.Join(t.TempDir(), "data"), 2010)
	if err != nil {
		t.Fatal(err)
	}
	// 201 images in three repositories.
	if v.images != 201 || v.blobs != 2016 {
		t.Errorf("%d images, %d blobs", v.images, v.blobs)
	}
	if n, size, err := lab.CheckStore(v.data); err != nil || n != v.blobs || size != v.bytes {
		t.Errorf("stored are %d blobs, %d bytes, %v; want %d, %d", n, size, err, v.blobs, v.bytes)
	}
}
